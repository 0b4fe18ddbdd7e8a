"""Few-shot classification of images with any method.

``metarl train fewshot --method protomaml --data omniglot --ways 5 --shots 1 --out runs/omni``
"""

from collections.abc import Callable
from dataclasses import replace
from functools import cache, cached_property

import torch

from metarl.core.seeding import torch_generator
from metarl.core.types import Task
from metarl.data.families import load_images
from metarl.data.images import Classes, Splits
from metarl.experiments.fewshot_settings import EXAMPLES_PER_CHUNK, QUERIES
from metarl.experiments.fewshot_settings import FewShotConfig as FewShotConfig
from metarl.experiments.fewshot_settings import complete as complete
from metarl.experiments.supervised_evaluation import Supervised
from metarl.experiments.supervised_setup import (
    Parts,
    make_learner,
    make_model,
    make_test_loop,
    mapped,
)
from metarl.nn.convolution import Classifier, ConvBody
from metarl.nn.dense import linear
from metarl.runs.card import Subject
from metarl.supervised.few_shot import (
    AllClasses,
    FewShot,
    VariableFewShot,
    minibatches,
    with_reference,
)
from metarl.supervised.losses import cross_entropy
from metarl.supervised.model import Draw
from metarl.supervised.networks import NETWORKS
from metarl.util.device import resolve_device


def build(config: FewShotConfig, *, splits: Splits | None = None) -> Parts:
    """Build the parts of a run, from the images that it names or from others."""
    config = complete(config)
    device = resolve_device(config.device)
    splits = splits or _load(config)
    if config.classes not in (None, splits.digest()):
        raise ValueError(
            f"data={config.data} no longer has the classes that this run was trained on, so its "
            "test classes may differ; data_root is the folder of the images, and glyphs come from "
            "matplotlib's fonts"
        )
    splits = Splits(*(c._replace(images=c.images.to(device)) for c in splits))
    trained = _pool(config, splits.train, "train", training=True)
    joint = config.method == "pretrained"
    ways = trained.num_classes if joint else config.num_ways
    model = make_model(config, _network(config, splits.train, ways), cross_entropy)
    batches = AllClasses(trained, config.num_ways * QUERIES).sample
    tasks = _tasks(config, lambda: trained, config.inner_steps or 0)

    def tested(split: str) -> Draw:
        pool = cache(lambda: _pool(config, getattr(splits, split), split))
        return _tasks(config, pool, config.test_steps or 0)

    return Parts(
        model,
        make_learner(config, model, chunk_size=chunk_size(config)),
        make_test_loop(config, model, start="zero" if joint else None),
        batches if joint else tasks,
        {split: tested(split) for split in Splits._fields},
        device,
        chunk_size=_fitting(config, config.num_shots + (config.test_queries or QUERIES)),
    )


def _load(config: FewShotConfig) -> Splits:
    return load_images(
        config.data, data_root=config.data_root, split=config.split, image_size=config.image_size
    )


def chunk_size(config: FewShotConfig) -> int:
    """Return how many tasks make a chunk of a good size."""
    shots = config.train_shots or config.num_shots
    return _fitting(config, shots + (config.num_queries or config.num_shots))


def _fitting(config: FewShotConfig, per_class: int) -> int:
    examples = config.num_ways * per_class
    return 1 if config.variable else max(1, EXAMPLES_PER_CHUNK // examples)


class ImageClassification(Supervised[FewShotConfig]):
    """Few-shot classification of images."""

    name = "fewshot"
    complete = staticmethod(complete)

    @cached_property
    def splits(self) -> Splits:
        """The images, by split."""
        return _load(self.config)

    @cached_property
    def parts(self) -> Parts:
        """The model, its learner, and what draws its tasks."""
        return build(self.config, splits=self.splits)

    def prepare(self) -> dict[str, float]:
        """Draw a task of each split, and record which classes the data have."""
        config = self.config
        if config.method == "pretrained" and (config.inner_steps or config.start != "learned"):
            raise ValueError(
                "method=pretrained adapts only in the test; leave out inner_steps and `start`"
            )
        if config.variable and config.num_ways <= VariableFewShot.MIN_WAYS:
            raise ValueError(
                f"`variable` tasks have {VariableFewShot.MIN_WAYS} to num_ways classes; set "
                "num_ways, such as 50"
            )
        self.config = replace(config, classes=self.splits.digest())
        for name in ("validation", "test"):
            generator = torch_generator(config.seed, 0, name, device=self.device)
            self.parts.evaluated[name](1, generator)
        return super().prepare()

    def describe(self) -> Subject:
        """Return the method, its paper and the data."""
        return self.subject(self.config.data, "few-shot-classification")


def _network(config: FewShotConfig, classes: Classes, ways: int) -> Classifier:
    generator = torch_generator(config.seed, 0, "parameters")
    net = NETWORKS[config.network]
    net = net._replace(filters=config.filters or net.filters)
    _, channels, height, width = classes.images.shape
    body = ConvBody(net, channels, generator=generator)
    size = body(torch.zeros(1, channels, height, width)).shape[-1]
    if not size:
        raise ValueError(
            f"network={config.network} shrinks images of {height}x{width} pixels to nothing; use "
            "a different one, or a larger image_size"
        )
    return Classifier(body, linear(size, ways, generator=generator))


def _pool(
    config: FewShotConfig, classes: Classes, split: str, *, training: bool = False
) -> FewShot:
    """Return the classes of a split as few-shot tasks, of training or of tests."""
    shots = (training and config.train_shots) or config.num_shots
    left = max(1, min(classes.counts) - config.num_shots)
    tested = config.test_queries or min(QUERIES, left)
    queries = config.num_queries or config.num_shots if training else tested
    if config.variable:  # such tasks have sizes of their own
        shots = queries = 1
    turned = config.rotations == "all" or (training and config.rotations == "train")
    images, counts, ways = classes.images, classes.counts, config.num_ways
    try:
        return FewShot(images, counts, ways, shots, queries, rotations=turned)
    except ValueError as error:
        raise ValueError(f"{split} classes of data={config.data}: {error}") from None


def _tasks(config: FewShotConfig, pool: Callable[[], FewShot], steps: int) -> Draw:
    """Draw tasks with what the settings add: minibatches of the support set, a norm reference.

    The pool is built when it is first needed.
    """

    @cache
    def source() -> Draw:
        if not config.variable:
            return pool().sample
        return VariableFewShot(pool(), config.num_ways, config.max_support).sample

    def prepare(task: Task, generator: torch.Generator) -> Task:
        if config.bn_mode == "support" and task.support:
            task = with_reference(task)
        if not (config.inner_batch and steps and task.support):
            return task
        size, batch = config.inner_batch, task.support[0]
        return task._replace(support=minibatches(batch, size, steps=steps, generator=generator))

    return mapped(lambda count, generator: source()(count, generator), prepare)
