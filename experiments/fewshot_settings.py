"""The settings of few-shot classification of images."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.supervised.networks import NETWORKS
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
class FewShotConfig(SupervisedConfig):
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
    image_size: Annotated[int | None, at_least(1)] = None
    """Height and width; by default 28 for characters and 84 for photographs."""
    rotations: Literal["none", "train", "all"] | None = None
    """Quarter turns as classes of their own: Omniglot's usual augmentation."""
    num_ways: Annotated[int, at_least(2), tyro.conf.arg(aliases=["--ways"])] = 5
    """Classes of a task; with --variable the most, of 5 and more (Meta-Dataset: 50)."""
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 1
    """Support images of each class."""
    num_queries: Annotated[int | None, at_least(1), tyro.conf.arg(aliases=["--queries"])] = None
    """Query images of each class in training; by default as many as shots."""
    test_queries: Annotated[int | None, at_least(1)] = None
    """Query images of each class in validation and test; by default 15, or what images are left."""
    train_shots: Annotated[int | None, at_least(1)] = None
    """Support images of each class in training, where they differ from the test's (Reptile)."""
    variable: bool = False
    """Tasks of many sizes and unbalanced classes, as in Meta-Dataset."""
    max_support: Annotated[int, at_least(1)] = 500
    """The most support images of a --variable task."""
    network: str = "conv4-stride"
    """Network: conv4-stride, conv4-flat, conv4-pool, mini-32, mini-48 or mini-same."""
    filters: Annotated[int | None, at_least(1)] = None
    """Channels of every block, instead of the network's own."""
    bn_mode: Literal["query", "support"] = "query"
    """Statistics that normalize the query: its own (transductive) or the support set's."""
    classes: tyro.conf.Suppress[str | None] = None
    """Digest of the classes of each split, by which a run knows its data again."""

    def __post_init__(self) -> None:
        """Raise a ValueError for impossible settings."""
        super().__post_init__()
        if self.network not in NETWORKS:
            raise ValueError(f"`network` must be one of {', '.join(NETWORKS)}, got {self.network}")
        if self.method == "oracle":
            raise ValueError("method=oracle is only supported by `train regression`")
        if self.method == "pretrained" and self.variable:
            raise ValueError(
                "method=pretrained trains on all classes at once; leave out `variable`"
            )
        usual = {"num_shots": 1, "num_queries": None, "test_queries": None, "train_shots": None}
        for name, value in usual.items():
            if self.variable and getattr(self, name) != value:
                raise ValueError(f"`variable` tasks have their own sizes; leave out {name}")
        if self.variable and self.mode not in (None, "eager"):
            raise ValueError("`variable` tasks have a new shape each; use mode=eager")
        if self.variable and self.start == "learned":
            raise ValueError(
                "`variable` tasks have no fixed number of classes; use start=zero or prototypes "
                "(method=zero-head, protomaml or protonet)"
            )


def complete(config: FewShotConfig) -> FewShotConfig:
    """Fill in what was left open."""
    mode: dict[str, Any] = {"mode": "eager" if config.variable else "traced"}
    config = resolve(config, SETTINGS | {"": mode | SETTINGS[""]})
    if config.rotations is None:
        return replace(config, rotations="all" if config.data == "omniglot" else "none")
    return config
