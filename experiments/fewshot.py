"""Few-shot classification of images with any method.

``metarl train fewshot --method protomaml --data omniglot --ways 5 --shots 1 --out runs/omni``
"""

from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import cached_property, partial
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import torch
import tyro

from metarl.core import Task, torch_generator
from metarl.data import Classes, Splits, load_images
from metarl.experiments.supervised import Supervised
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.supervised_setup import (
    Parts,
    make_learner,
    make_model,
    make_test_loop,
    mapped,
)
from metarl.nn import Classifier, ConvBody, linear
from metarl.runs import unset
from metarl.supervised import (
    NETWORKS,
    AllClasses,
    Draw,
    FewShot,
    VariableFewShot,
    cross_entropy,
    minibatches,
    with_reference,
)
from metarl.util import Conflicts, Ranged, among, at_least, refuse


EXAMPLES_PER_CHUNK = 160  # measured on 2 cores, 28×28 pixels and 64 filters
QUERIES = 15  # of each class in validation and test, where the images suffice


@dataclass(frozen=True)
class ImageSettings(Ranged):
    """Settings of the images and of the tasks sampled from them."""

    group: ClassVar[str] = "data"
    data: Literal["glyphs", "omniglot", "mini-imagenet", "folder"] = "glyphs"
    """Image data set. folder reads your own images from one subfolder per class; glyphs requires no
    download."""
    data_root: Annotated[Path | None, unset("METARL_DATA, or a download of Omniglot")] = None
    """Folder that contains the files of the data set."""
    split: Annotated[str | None, unset("random for Omniglot")] = None
    """Split of the classes into training, validation and test. Omniglot has random, vinyals and
    background."""
    image_size: Annotated[int | None, at_least(1), unset("28, photographs 84")] = None
    """Height and width of the images in pixels."""
    rotations: Literal["none", "train", "all"] | None = None
    """Splits to which images rotated by 90, 180 and 270 degrees are added as new classes."""
    num_ways: Annotated[int, at_least(2), tyro.conf.arg(aliases=["--ways"])] = 5
    """Number of classes of a task; with --variable the maximum (Meta-Dataset: 50)."""
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 1
    """Number of support images of each class."""
    num_queries: Annotated[
        int | None, at_least(1), tyro.conf.arg(aliases=["--queries"]), unset("num-shots")
    ] = None
    """Number of query images of each class in training."""
    test_queries: Annotated[int | None, at_least(1), unset("15, or as many as there are")] = None
    """Number of query images of each class in validation and test."""
    train_shots: Annotated[int | None, at_least(1), unset("num-shots")] = None
    """Number of support images of each class in training, if different from the test (Reptile)."""
    variable: bool = False
    """Sample tasks with variable ways and shots and unbalanced classes, as in Meta-Dataset."""
    max_support: Annotated[int, at_least(1)] = 500
    """Maximum number of support images of a --variable task."""


@dataclass(frozen=True)
class NetworkSettings(Ranged):
    """Settings of the convolutional network."""

    group: ClassVar[str] = "network"
    network: Annotated[str, among(NETWORKS)] = "conv4-stride"
    """Network: conv4-stride, conv4-flat, conv4-pool, mini-32, mini-48 or mini-same."""
    filters: Annotated[int | None, at_least(1), unset("of the network")] = None
    """Number of channels of every block."""
    bn_mode: Literal["query", "support"] = "query"
    """Source of the batch statistics for query images: the query images (transductive) or the
    support images."""


@dataclass(frozen=True)
class FewShotConfig(SupervisedConfig, NetworkSettings, ImageSettings):
    """Learn to classify images into N classes from K examples of each.

    --method pretrained trains one classifier of all classes, to be evaluated with
    `metarl evaluate --start prototypes`, for example.
    """

    iterations: int = 2000
    checkpoint_every: int = 500
    log_every: int = 10
    classes: tyro.conf.Suppress[str | None] = None
    """Digest of the classes of each split, used to detect changed data."""

    # Rates are those of a mean cross-entropy: 0.4 in Finn et al.'s code, which sums over 5 classes,
    # is 2.0 here.
    defaults = {  # noqa: RUF012
        "": {"num_tasks": 32, "inner_steps": 1, "test_steps": 3, "inner_lr": 0.4,
             "outer_lr": 1e-3},
        "reptile": {"num_tasks": 5, "inner_steps": 5, "test_steps": 50, "inner_lr": 1e-3,
                    "inner_batch": 10, "train_shots": 10},
        "maml++": {"num_tasks": 16, "inner_steps": 5, "test_steps": 5, "inner_lr": 0.1},
        "protomaml": {"inner_lr": 0.01, "inner_steps": 5, "test_steps": 5},
        "imaml": {"inner_steps": 16, "test_steps": 16, "inner_lr": 0.1},
        "pretrained": {"num_tasks": 1, "test_steps": 10},
    }  # fmt: skip

    def conflicts(self) -> Conflicts:
        """Return the invalid combinations of settings with their error messages."""
        varied, usual = self.variable, type(self)
        sizes = ("num_shots", "num_queries", "test_queries", "train_shots")
        given = ", ".join(n for n in sizes if getattr(self, n) != getattr(usual, n))
        joint, learned = self.method == "pretrained", self.start == "learned"
        staged = self.mode not in (None, "eager")
        return [
            *super().conflicts(),
            (self.method == "oracle", "method=oracle is only supported by `train regression`"),
            (
                varied and joint,
                "method=pretrained does not support `variable` tasks; remove `variable`",
            ),
            (varied and given, f"`variable` samples the sizes of tasks; remove {given}"),
            (varied and staged, "`variable` tasks differ in shape; use mode=eager"),
            (
                varied and learned,
                "`variable` tasks have no fixed number of classes; use start=zero",
            ),
        ]

    def filled(self) -> Any:
        """Return the configuration with the values of the method and of the data."""
        left_open: dict[str, Any] = {
            "mode": self.mode or ("eager" if self.variable else "traced"),
            "rotations": self.rotations or ("all" if self.data == "omniglot" else "none"),
        }
        return resolve(replace(self, **left_open), self.defaults)


class ImageClassification(Supervised[FewShotConfig]):
    """Few-shot classification of images."""

    name = "fewshot"
    settings = FewShotConfig
    family = "few-shot-classification"

    @cached_property
    def splits(self) -> Splits:
        """The images of each split; assign to this attribute to train on other images."""
        config = self.config
        options: Any = {n: getattr(config, n) for n in ("data_root", "split", "image_size")}
        return load_images(config.data, **options)

    @cached_property
    def parts(self) -> Parts:
        """The model, its meta-learner and its task samplers."""
        config = self.config
        if config.classes not in (None, self.splits.digest()):
            raise ValueError(
                f"the classes of data={config.data} have changed since training, so the test "
                "classes may differ: check data_root, or for glyphs the version of matplotlib, "
                "whose fonts they use"
            )
        splits = Splits(*(c._replace(images=c.images.to(self.device)) for c in self.splits))
        trained = _pool(config, splits.train, "train", training=True)
        joint = config.method == "pretrained"
        ways = trained.num_classes if joint else config.num_ways
        model = make_model(config, _network(config, splits.train, ways), cross_entropy)
        batches = AllClasses(trained, config.num_ways * QUERIES).sample
        tasks = _tasks(config, lambda: trained, config.inner_steps or 0)
        tested = {
            split: _tasks(config, partial(_pool, config, classes, split), config.test_steps or 0)
            for split, classes in splits._asdict().items()
        }
        fitting = _chunk_size(config, trained.num_shots + trained.num_queries)
        return Parts(
            model,
            make_learner(config, model, chunk_size=fitting),
            make_test_loop(config, model, start="zero" if joint else None),
            batches if joint else tasks,
            tested,
            chunk_size=_chunk_size(config, config.num_shots + (config.test_queries or QUERIES)),
            train_chunk=config.chunk_size or fitting,
        )

    def prepare(self) -> dict[str, float]:
        """Sample a task of each split, and record a digest of the classes in the configuration."""
        config, fewest = self.config, VariableFewShot.MIN_WAYS
        few = config.variable and config.num_ways <= fewest
        adapts = config.inner_steps or config.start != "learned"
        error = "method=pretrained adapts only in the test; remove inner_steps and `start`"
        refuse(
            (adapts and config.method == "pretrained", error),
            (
                few,
                f"with `variable`, num_ways must be greater than {fewest}; Meta-Dataset uses 50",
            ),
        )
        self.config = replace(config, classes=self.splits.digest())
        for name in ("validation", "test"):
            generator = torch_generator(config.seed, 0, name, device=self.device)
            self.parts.evaluated[name](1, generator)
        return super().prepare()


def _chunk_size(config: FewShotConfig, per_class: int) -> int:
    """Return the number of tasks per chunk for tasks with `per_class` images of each class."""
    return 1 if config.variable else max(1, EXAMPLES_PER_CHUNK // (config.num_ways * per_class))


def _network(config: FewShotConfig, classes: Classes, ways: int) -> Classifier:
    generator = torch_generator(config.seed, 0, "parameters")
    net = NETWORKS[config.network]
    net = net._replace(filters=config.filters or net.filters)
    _, channels, height, width = classes.images.shape
    body = ConvBody(net, channels, generator=generator)
    size = body(torch.zeros(1, channels, height, width)).shape[-1]
    if not size:
        raise ValueError(
            f"network={config.network} is too deep for images of {height}x{width} pixels; use "
            "a different network or a larger image_size"
        )
    return Classifier(body, linear(size, ways, generator=generator))


def _pool(
    config: FewShotConfig, classes: Classes, split: str, *, training: bool = False
) -> FewShot:
    """Return a sampler of few-shot tasks over the classes of a split."""
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
    """Return a sampler that also adds support minibatches and a reference batch for the norms."""

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

    return mapped(source, prepare)
