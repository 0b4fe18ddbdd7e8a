"""Samplers of few-shot image tasks, with the numbers of images and tasks of a configuration."""

from collections.abc import Callable

import torch

from metarl.core import Task
from metarl.data import TRANSFORMS, Classes, augment
from metarl.experiments.images.settings import FewShotConfig
from metarl.experiments.supervised_setup import mapped
from metarl.supervised import (
    NETWORKS,
    Draw,
    FewShot,
    VariableFewShot,
    minibatches,
    with_reference,
)


# Limits with the fastest meta-steps on 2 CPU cores, in bytes of activations after the first
# convolution: a chunk of several tasks, and a task that is processed alone.
CHUNK = 4 * 2**20
LARGE_TASK = 3 * 2**18
QUERIES = 15  # maximum number of query images per class in validation and test


def chunk_size(config: FewShotConfig, per_class: int, size: int) -> int:
    """Return the number of tasks to process together.

    Small tasks are faster together, under ``vmap``. Tasks with many or large images are faster one
    at a time, with PyTorch's image operators. Encoders do not support ``vmap``.

    Args:
        config: The configuration.
        per_class: Number of support and query images per class.
        size: Image height in pixels.
    """
    if config.encoder:
        return 1
    net, images = NETWORKS[config.network], config.num_ways * per_class
    side = -(-size // 2) if getattr(net, "down", "pool") == "stride" else size
    task = 4 * images * side**2 * (config.filters or net.filters)
    return 1 if config.variable or task > LARGE_TASK else CHUNK // task


def sizes(config: FewShotConfig) -> tuple[int, int]:
    """Return the numbers of support and query images per class in training tasks."""
    return config.train_shots or config.num_shots, config.num_queries or config.num_shots


def pool_of(
    config: FewShotConfig, classes: Classes, split: str, *, training: bool = False, hint: str = ""
) -> FewShot:
    """Return a sampler of few-shot tasks from the classes in a split.

    Args:
        config: The configuration.
        classes: The classes in the split.
        split: Name of the split in errors: ``train``, ``validation`` or ``test``.
        training: Whether to use the numbers of images per class for training instead of evaluation.
        hint: Next step that is appended to the error for a split that is too small.

    Raises:
        ValueError: If the split has too few classes, or a class has too few images.
    """
    if not classes.counts and split == "validation":
        raise ValueError(
            f"data={config.data} has no validation classes in `split`. Set validation_tasks=0, or "
            "choose a `split` with validation classes"
        )
    if not classes.counts:
        raise ValueError(
            f"data={config.data} has no {split} classes; choose a `split` with {split} classes or, "
            "to evaluate on other data, set `data` and data_root"
        )
    shots, queries = sizes(config)
    if not training:
        left = max(1, min(classes.counts) - config.num_shots)
        shots, queries = config.num_shots, config.test_queries or min(QUERIES, left)
    if config.variable:  # VariableFewShot samples the sizes
        shots = queries = 1
    turned = config.rotations == "all" or (training and config.rotations == "train")
    images, counts, ways = classes.images, classes.counts, config.num_ways
    try:
        return FewShot(images, counts, ways, shots, queries, rotations=turned, names=classes.names)
    except ValueError as error:
        text = str(error) if training else str(error).replace("num_queries", "test_queries")
        hint = hint if text.startswith("num_ways") else ". Lower them, or add images"
        raise ValueError(
            f"too few {split} classes or images in data={config.data}: {text}{hint}"
        ) from None


def augmentation(config: FewShotConfig) -> Callable[[Task, torch.Generator], Task]:
    """Return the function that augments training tasks."""
    return augment(*(TRANSFORMS[name] for name in config.augment))


def task_sampler(
    config: FewShotConfig, pool: Callable[[], FewShot], steps: int, *, training: bool = False
) -> Draw:
    """Return a sampler of tasks from ``pool()``, with support batches for `steps` inner steps.

    In training, the images are augmented. If ``config.inner_batch`` is set, one minibatch per step
    is sampled from the support set. If ``config.bn_mode`` is ``"support"``, the query batch also
    contains the support images, from which batch norm computes its statistics.
    """
    augmented = augmentation(config)

    def source() -> Draw:
        if not config.variable:
            return pool().sample
        return VariableFewShot(pool(), config.num_ways, config.max_support).sample

    def prepare(task: Task, generator: torch.Generator) -> Task:
        task = augmented(task, generator) if training else task
        if config.bn_mode == "support" and task.support:
            task = with_reference(task)
        if not (config.inner_batch and steps and task.support):
            return task
        size, batch = config.inner_batch, task.support[0]
        return task._replace(support=minibatches(batch, size, steps=steps, generator=generator))

    return mapped(source, prepare)
