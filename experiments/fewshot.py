"""Few-shot classification of images with any method.

``metarl train fewshot --method protomaml --data omniglot --ways 5 --shots 1 --out runs/omni``
"""

import sys
from dataclasses import dataclass, replace
from functools import cache
from pathlib import Path
from typing import Annotated, Any, Literal

import torch
import tyro

from metarl.core.seeding import torch_generator
from metarl.core.types import Task
from metarl.data.families import load_images
from metarl.data.images import Classes, Splits
from metarl.experiments.launch import launch
from metarl.experiments.supervised import train as train
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.supervised_setup import Parts, make_learner, make_model, make_test_loop
from metarl.nn.convolution import Classifier, ConvBody
from metarl.nn.mlp import linear
from metarl.runs.config import flag, require
from metarl.supervised.few_shot import (
    AllClasses,
    FewShot,
    VariableFewShot,
    minibatches,
    with_reference,
)
from metarl.supervised.losses import cross_entropy
from metarl.supervised.model import Draw, Tasks
from metarl.supervised.networks import NETWORKS
from metarl.util.device import resolve_device
from metarl.util.ranges import at_least


# Rates are those of a mean cross-entropy: 0.4 in Finn et al.'s code, which sums over 5 classes,
# is 2.0 here.
SETTINGS: dict[str, dict[str, Any]] = {
    "": {"num_tasks": 32, "inner_steps": 1, "test_steps": 3, "inner_lr": 0.4, "outer_lr": 1e-3},
    "reptile": {"num_tasks": 5, "inner_steps": 5, "test_steps": 50, "inner_lr": 1e-3,
                "inner_batch": 10, "train_shots": 10},
    "maml++": {"num_tasks": 16, "inner_steps": 5, "test_steps": 5, "inner_lr": 0.1},
    "protomaml": {"inner_lr": 0.01, "inner_steps": 5, "test_steps": 5},
    "imaml": {"inner_steps": 16, "test_steps": 16, "inner_lr": 0.1},
    "pretrained": {"num_tasks": 1, "test_steps": 10},
}  # fmt: skip
EXAMPLES_PER_CHUNK = 160  # measured on 2 cores, 28×28 pixels and 64 filters
QUERIES = 15  # of each class in validation and test, where the images suffice


@dataclass(frozen=True)
class FewShotImages(SupervisedConfig):
    """Learn to tell N classes apart from K images of each.

    --data glyphs needs no download. --method pretrained trains one classifier of all classes;
    `metarl evaluate --start prototypes` and the like use its features.
    """

    iterations: int = 2000
    """Meta-updates."""
    checkpoint_every: int = 500
    """Iterations between checkpoints."""
    log_every: int = 10
    """Iterations that one line of metrics.jsonl averages."""
    data: Literal["glyphs", "omniglot", "mini-imagenet", "folder"] = "glyphs"
    """Family of images; folder is your own, one folder per class."""
    data_root: Path | None = None
    """Where the images are; by default METARL_DATA, and for Omniglot a download."""
    split: str | None = None
    """How classes are split; Omniglot: random, vinyals or background."""
    image_size: int | None = None
    """Height and width; by default 28 for characters and 84 for photographs."""
    rotations: Literal["none", "train", "all"] | None = None
    """Quarter turns as classes of their own: Omniglot's usual augmentation."""
    num_ways: Annotated[int, tyro.conf.arg(aliases=["--ways"])] = 5
    """Classes of a task; with --variable the most, of 5 and more (Meta-Dataset: 50)."""
    num_shots: Annotated[int, tyro.conf.arg(aliases=["--shots"])] = 1
    """Support images of each class."""
    num_queries: Annotated[int | None, tyro.conf.arg(aliases=["--queries"])] = None
    """Query images of each class in training; by default as many as shots."""
    test_queries: int | None = None
    """Query images of each class in validation and test; by default 15, or what images are left."""
    train_shots: int | None = None
    """Support images of each class in training, where they differ from the test's (Reptile)."""
    variable: bool = False
    """Tasks of many sizes and unbalanced classes, as in Meta-Dataset."""
    max_support: int = 500
    """The most support images of a --variable task."""
    network: str = "conv4-stride"
    """Network: conv4-stride, conv4-flat, conv4-pool, mini-32, mini-48 or mini-same."""
    filters: int | None = None
    """Channels of every block, instead of the network's own."""
    bn_mode: Literal["query", "support"] = "query"
    """Statistics that normalize the query: its own (transductive) or the support set's."""
    classes: tyro.conf.Suppress[str | None] = None
    """Digest of the classes of each split, by which a run knows its data again."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        require(self, at_least(2), "num_ways")
        require(self, at_least(1), "num_shots", "num_queries", "test_queries", "train_shots")
        require(self, at_least(1), "image_size", "filters", "max_support")
        if self.network not in NETWORKS:
            raise ValueError(f"--network must be one of {', '.join(NETWORKS)}, got {self.network}")
        if self.method == "oracle":
            raise ValueError("--method oracle is of `train regression`")
        if self.method == "pretrained" and self.variable:
            raise ValueError(
                "--method pretrained trains on all classes at once; leave out --variable"
            )
        usual = {"num_shots": 1, "num_queries": None, "test_queries": None, "train_shots": None}
        for name, value in usual.items():
            if self.variable and getattr(self, name) != value:
                raise ValueError(f"--variable tasks have their own sizes; leave out {flag(name)}")
        if self.variable and self.mode not in (None, "eager"):
            raise ValueError("--variable tasks have a new shape each; use --mode eager")
        if self.variable and self.start == "learned":
            raise ValueError(
                "--variable tasks have no fixed number of classes; use --start zero or prototypes "
                "(--method zero-head, protomaml or protonet)"
            )


def build(config: FewShotImages, *, splits: Splits | None = None) -> Parts:
    """Build the parts of a run, from the images that it names or from others."""
    config = complete(config)
    device = resolve_device(config.device)
    splits = splits or _load(config)
    if config.classes not in (None, splits.digest()):
        raise ValueError(
            f"--data {config.data} no longer has the classes that {config.out} was split into, so "
            "its test classes may be others; --data-root says where images are, and glyphs come "
            "from matplotlib's fonts"
        )
    splits = Splits(*(c._replace(images=c.images.to(device)) for c in splits))
    trained = _training_pool(config, splits.train)
    joint = config.method == "pretrained"
    ways = trained.num_classes if joint else config.num_ways
    model = make_model(config, _network(config, splits.train, ways), cross_entropy)
    batches = AllClasses(trained, config.num_ways * QUERIES).sample
    return Parts(
        model,
        make_learner(config, model, chunk_size=chunk_size(config)),
        make_test_loop(config, model, start="zero" if joint else None),
        _prepared(config, batches if joint else _draw(config, trained), config.inner_steps or 0),
        {name: _evaluated(config, classes, name) for name, classes in splits._asdict().items()},
        device,
        chunk_size=_fitting(config, config.num_shots + (config.test_queries or QUERIES)),
    )


def _load(config: FewShotImages) -> Splits:
    return load_images(
        config.data, root=config.data_root, split=config.split, image_size=config.image_size
    )


def chunk_size(config: FewShotImages) -> int:
    """Return how many tasks make a chunk of a good size."""
    shots = config.train_shots or config.num_shots
    return _fitting(config, shots + (config.num_queries or config.num_shots))


def _fitting(config: FewShotImages, per_class: int) -> int:
    examples = config.num_ways * per_class
    return 1 if config.variable else max(1, EXAMPLES_PER_CHUNK // examples)


def complete(config: FewShotImages) -> FewShotImages:
    """Fill in what was left open."""
    mode: dict[str, Any] = {"mode": "eager" if config.variable else "traced"}
    config = resolve(config, SETTINGS | {"": mode | SETTINGS[""]})
    if config.rotations is None:
        return replace(config, rotations="all" if config.data == "omniglot" else "none")
    return config


def main(config: FewShotImages) -> None:
    """Start a run."""
    config = complete(config)
    if config.method == "pretrained" and (config.inner_steps or config.start != "learned"):
        raise ValueError(
            "--method pretrained adapts in the test alone; leave out --inner-steps and --start"
        )
    if config.variable and config.num_ways <= VariableFewShot.MIN_WAYS:
        raise ValueError(
            f"--variable tasks have {VariableFewShot.MIN_WAYS} to --ways classes; set --ways, such "
            "as 50"
        )
    splits = _load(config)
    config = replace(config, classes=splits.digest())
    parts = build(config, splits=splits)
    for name in ("validation", "test"):  # what these lack shows now, and not when it is needed
        parts.evaluated[name](1, torch_generator(config.seed, 0, name, device=parts.device))
    launch("fewshot", config, parts, sys.modules[__name__])


def _network(config: FewShotImages, classes: Classes, ways: int) -> Classifier:
    generator = torch_generator(config.seed, 0, "parameters")
    net = NETWORKS[config.network]
    net = net._replace(filters=config.filters or net.filters)
    _, channels, height, width = classes.images.shape
    body = ConvBody(net, channels, generator=generator)
    size = body(torch.zeros(1, channels, height, width)).shape[-1]
    if not size:
        raise ValueError(
            f"--network {config.network} shrinks images of {height}x{width} pixels to nothing; use "
            "another, or a larger --image-size"
        )
    return Classifier(body, linear(size, ways, generator=generator))


def _training_pool(config: FewShotImages, classes: Classes) -> FewShot:
    shots, queries = config.train_shots or config.num_shots, config.num_queries or config.num_shots
    turned = config.rotations in ("train", "all")
    return _few_shot(config, classes, "train", shots=shots, queries=queries, rotations=turned)


def _pool(config: FewShotImages, classes: Classes, split: str) -> FewShot:
    left = max(1, min(classes.counts) - config.num_shots)
    return _few_shot(
        config,
        classes,
        split,
        shots=config.num_shots,
        queries=config.test_queries or min(QUERIES, left),
        rotations=config.rotations == "all",
    )


def _few_shot(
    config: FewShotImages,
    classes: Classes,
    split: str,
    *,
    shots: int,
    queries: int,
    rotations: bool,
) -> FewShot:
    if config.variable:  # tasks then have sizes of their own
        shots = queries = 1
    try:
        return FewShot(
            classes.images, classes.counts, config.num_ways, shots, queries, rotations=rotations
        )
    except ValueError as error:
        raise ValueError(f"{split} classes of --data {config.data}: {error}") from None


def _evaluated(config: FewShotImages, classes: Classes, split: str) -> Draw:
    """Draw tasks to be judged by; the pool is made when it is first needed, or never."""
    pool = cache(lambda: _pool(config, classes, split))

    def draw(num_tasks: int, generator: torch.Generator) -> Tasks:
        return _draw(config, pool())(num_tasks, generator)

    return _prepared(config, draw, config.test_steps or 0)


def _draw(config: FewShotImages, pool: FewShot) -> Draw:
    if not config.variable:
        return pool.sample
    return VariableFewShot(pool, config.num_ways, config.max_support).sample


def _prepared(config: FewShotImages, draw: Draw, steps: int) -> Draw:
    """Add what the settings ask for: minibatches of the support set, a reference for the norms."""

    def prepare(task: Task, generator: torch.Generator) -> Task:
        if config.bn_mode == "support" and task.support:
            task = with_reference(task)
        if config.inner_batch and steps and task.support:
            batches = minibatches(
                task.support[0], config.inner_batch, steps=steps, generator=generator
            )
            task = task._replace(support=batches)
        return task

    def prepared(num_tasks: int, generator: torch.Generator) -> Tasks:
        tasks = draw(num_tasks, generator)
        if isinstance(tasks, Task):
            return prepare(tasks, generator)
        return [prepare(task, generator) for task in tasks]

    return prepared
