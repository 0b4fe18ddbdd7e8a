"""Configuration of few-shot image classification: data, network and defaults by method."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from metarl.data import FAMILIES, read_split
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.runs import unset
from metarl.supervised import NETWORKS
from metarl.util import Conflicts, Ranged, among, at_least


TRACED_FROM = 50  # iterations; tracing takes the time that it saves in about 50 meta-updates


@dataclass(frozen=True)
class ImageSettings(Ranged):
    """Settings for the image data set and for sampling few-shot tasks from the images."""

    group: ClassVar[str] = "data"
    data: Literal["glyphs", "omniglot", "mini-imagenet", "folder"] = "glyphs"
    """Image data set. With folder, your own images are read from --data-root, which must contain
    one subfolder per class. With glyphs, characters are drawn and no files are required."""
    data_root: Annotated[
        Path | None, unset("$METARL_DATA; if that is not set, Omniglot is downloaded")
    ] = None
    """Folder with the files of Omniglot or miniImageNet or, for --data folder, with one subfolder
    per class; not supported for glyphs."""
    split: Annotated[str | None, unset("random for Omniglot, own for folder")] = None
    """Split into training, validation and test classes. Omniglot supports random, vinyals and
    background. For --data folder, own uses the subfolders train, validation and test or, without
    these subfolders, a random split into 64, 16 and 20 % of the classes; all-train uses all classes
    for training. If the value is the path of a JSON file, the file contains lists of class names
    under the keys "train", "validation" and "test". Other data sets have only one split."""
    class_depth: Annotated[int, at_least(1)] = 1
    """Number of folder levels that form a class; only supported for --data folder. With 2, each
    folder ALPHABET/CHARACTER is one class."""
    image_size: Annotated[
        int | None, at_least(1), unset("84 for mini-imagenet and folder, otherwise 28")
    ] = None
    """Height and width of the images in pixels. Image files are resized to this size."""
    rotations: Literal["none", "train", "all"] | None = None
    """Splits in which images rotated by 90, 180 and 270 degrees form additional classes. If not
    set, all for Omniglot and none for the other data sets."""
    num_ways: Annotated[int, at_least(2), tyro.conf.arg(aliases=["--ways"])] = 5
    """Number of classes per task. With --variable, the maximum number; Meta-Dataset uses 50."""
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 1
    """Number of support images per class."""
    num_queries: Annotated[
        int | None, at_least(1), tyro.conf.arg(aliases=["--queries"]), unset("value of --num-shots")
    ] = None
    """Number of query images per class in training."""
    test_queries: Annotated[
        int | None, at_least(1), unset("15, or fewer if a class has fewer images")
    ] = None
    """Number of query images per class in validation and test tasks."""
    train_shots: Annotated[int | None, at_least(1), unset("value of --num-shots")] = None
    """Number of support images per class in training tasks. If not set, 10 for reptile and the
    value of --num-shots otherwise."""
    variable: bool = False
    """Sample tasks with variable numbers of classes and of support images per class, as in
    Meta-Dataset."""
    max_support: Annotated[int, at_least(1)] = 500
    """Maximum number of support images per task; only used with --variable."""


@dataclass(frozen=True)
class NetworkSettings(Ranged):
    """Settings for the convolutional network."""

    group: ClassVar[str] = "network"
    network: Annotated[str, among(NETWORKS)] = "conv4-stride"
    """Architecture of the network. conv4-stride, conv4-flat and conv4-pool were published for
    Omniglot; mini-32, mini-48 and mini-same were published for miniImageNet."""
    filters: Annotated[int | None, at_least(1), unset("set by --network")] = None
    """Number of channels in every convolutional block."""
    bn_mode: Literal["query", "support"] = "query"
    """Images from which batch norm computes the statistics for query images: the query images
    themselves (transductive) or the support images (non-transductive)."""


@dataclass(frozen=True)
class FewShotConfig(SupervisedConfig, NetworkSettings, ImageSettings):
    """Learn to classify images into N classes (--ways) from K examples per class (--shots).

    With --method pretrained, one classifier is trained on all training classes. To fine-tune the
    pretrained network on new classes, run `metarl evaluate RUN --start prototypes`.
    """

    iterations: int = 2000
    checkpoint_every: int = 500
    log_every: int = 10
    classes: tyro.conf.Suppress[str | None] = None
    """Hash of all class names, set when training starts and used to detect changed classes."""

    # Step sizes apply to the mean cross-entropy. Finn et al. sum over 5 classes, so 0.4 in their
    # code is 2.0 here.
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
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        varied, usual = self.variable, type(self)
        sizes = ("num_shots", "num_queries", "test_queries", "train_shots")
        given = ", ".join(n for n in sizes if getattr(self, n) != getattr(usual, n))
        joint, learned = self.method == "pretrained", self.start == "learned"
        staged = self.mode not in (None, "eager")
        unsplit = self.split == "all-train" and self.validation_tasks
        return [
            *super().conflicts(),
            (
                self.class_depth != 1 and self.data != "folder",
                f"class_depth={self.class_depth} requires data=folder, got data={self.data}",
            ),
            (unsplit, "split=all-train leaves no validation classes; set validation_tasks=0"),
            (
                self.method == "oracle",
                "method=oracle is only supported by `metarl train regression`; choose a different "
                "method",
            ),
            (
                varied and joint,
                "method=pretrained does not support `variable` tasks; remove `variable`",
            ),
            (
                varied and given,
                f"`variable` samples the numbers of images per class and does not support fixed "
                f"numbers; remove {given}",
            ),
            (
                varied and staged,
                f"`variable` requires mode=eager, got mode={self.mode}; remove `mode`",
            ),
            (
                varied and learned,
                "`variable` tasks have no fixed number of classes and require start=zero or "
                "prototypes, got start=learned",
            ),
        ]

    def filled(self) -> Any:
        """Return the configuration with the defaults of the method and the data set filled in."""
        eager = self.variable or self.iterations < TRACED_FROM
        left_open: dict[str, Any] = {
            "mode": self.mode or ("eager" if eager else "traced"),
            "rotations": self.rotations or ("all" if self.data == "omniglot" else "none"),
        }
        if self.split == "all-train":
            left_open["validation_tasks"] = 0
        return resolve(replace(self, **left_open), self.defaults)

    def complete(self) -> Any:
        """Return the complete configuration, with a split file replaced by its contents.

        Raises:
            FileNotFoundError: If the split file does not exist.
            ValueError: If the split file is invalid.
        """
        config = super().complete()
        if config.data != "folder" or config.split in (None, *FAMILIES["folder"].splits):
            return config
        parts = read_split(config.split)
        tasks = config.validation_tasks if parts["validation"] or self.validation_tasks else 0
        return replace(config, split=json.dumps(parts), validation_tasks=tasks)
