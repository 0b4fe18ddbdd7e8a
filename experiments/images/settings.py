"""Configuration of few-shot image classification: data, network and defaults by method."""

import json
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from metarl.core import LEARNED_CONSTANTS
from metarl.data import FAMILIES, TRANSFORMS, read_split
from metarl.experiments.supervised_settings import SupervisedConfig, encoder_place, resolve
from metarl.nn import ResNet, encoder_image_size
from metarl.runs import unset
from metarl.supervised import NETWORKS
from metarl.util import Conflicts, Ranged, among, at_least


# Defaults for encoders: small steps keep the pretrained features, and images are large.
FROZEN: dict[str, Any] = {"inner_lr": 0.01}
ENCODER: dict[str, Any] = {**FROZEN, "num_tasks": 4, "outer_lr": 1e-4}
TRACED_FROM = 50  # iterations; tracing takes the time that it saves in about 50 meta-updates


@dataclass(frozen=True)
class ImageSettings(Ranged):
    """Settings for the image data set and for sampling few-shot tasks from the images."""

    group: ClassVar[str] = "data"
    data: Annotated[str, among(FAMILIES)] = "glyphs"
    """Image data set: glyphs, omniglot, mini-imagenet, tiered-imagenet, cifar-fs, fc100, cub or
    folder. With folder, your own images are read from --data-root, which must contain
    one subfolder per class. With glyphs, characters are drawn and no files are required."""
    data_root: Annotated[
        Path | None, unset("$METARL_DATA; if that is not set, Omniglot is downloaded")
    ] = None
    """Folder with the files of the data set or, for --data folder, with one subfolder
    per class; not supported for glyphs."""
    split: Annotated[str | None, unset("random for Omniglot, own for folder")] = None
    """Split into training, validation and test classes. Omniglot supports random, vinyals and
    background. For --data folder, own uses the subfolders train, validation and test or, without
    these subfolders, a random split into 64, 16 and 20 % of the classes; all-train uses all classes
    for training. If the value is the path of a JSON file, the file contains lists of class names
    under the keys "train", "validation" and "test"; if it is a folder, the folder contains the
    lists train.txt, val.txt and test.txt. Other data sets have only one split."""
    class_depth: Annotated[int, at_least(1)] = 1
    """Number of folder levels that form a class; only supported for --data folder. With 2, each
    folder ALPHABET/CHARACTER is one class."""
    image_size: Annotated[
        int | None,
        at_least(1),
        unset("28 for glyphs and omniglot, 32 for cifar-fs and fc100, 84 otherwise"),
    ] = None
    """Height and width of the images in pixels. Image files are resized to this size."""
    rotations: Literal["none", "train", "all"] | None = None
    """Splits in which images rotated by 90, 180 and 270 degrees form additional classes. If not
    set, all for Omniglot and none for the other data sets."""
    augment: Annotated[tuple[str, ...], among(TRANSFORMS), unset("none")] = ()
    """Random transforms of support and query images in training tasks, applied in the given order:
    crop pads with black pixels and crops back, flip mirrors horizontally, and color changes the
    brightness, contrast and saturation. Characters should not be mirrored."""
    normalize: Literal["none", "data"] = "none"
    """Normalization of the images: with data, the network subtracts the mean of the training images
    from each channel and divides by their standard deviation, in training and in every later
    use."""
    pixels: tyro.conf.Suppress[tuple[tuple[float, ...], ...] | None] = None
    """Mean and standard deviation of each channel, set by --normalize data when training starts."""
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
    Omniglot; mini-32, mini-48, mini-same and resnet12 were published for miniImageNet."""
    filters: Annotated[int | None, at_least(1), unset("set by --network")] = None
    """Number of channels in every convolutional block; for resnet12, in the first block, which must
    be even. The other blocks of resnet12 have 2.5, 5 and 10 times as many."""
    bn_mode: Literal["query", "support"] = "query"
    """Images from which batch norm computes the statistics for query images: the query images
    themselves (transductive) or the support images (non-transductive)."""


@dataclass(frozen=True)
class EncoderSettings(Ranged):
    """Settings for a pretrained image encoder, which replaces the network."""

    group: ClassVar[str] = "encoder"
    encoder: Annotated[str | None, unset("none, --network is trained")] = None
    """Pretrained encoder: the name of a Hugging Face model or a folder with its files, such as ViT,
    DINOv2 or ResNet; or module:function, a function of your own without arguments that returns a
    module from RGB images with values in [0, 1] to features. Replaces --network."""
    frozen: tyro.conf.FlagCreatePairsOff[bool] = False
    """Never train the encoder. The features of all images are computed once, and the checkpoints
    only contain the head. Methods that then learn nothing, such as protonet, only write checkpoint
    0, whatever the value of --iterations."""
    pooling: Literal["cls", "mean"] = "cls"
    """Features of a vision transformer: the class token or the mean of all tokens. Feature maps are
    always averaged over the pixels."""
    top_layers: Annotated[int | None, at_least(0), unset("all")] = None
    """Number of top encoder layers that the inner steps adapt. The other encoder layers are only
    meta-learned."""
    encoder_lr: Annotated[float | None, at_least(0), unset("value of --outer-lr")] = None
    """Outer step size for the encoder parameters, scheduled like --outer-lr."""

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        own: Any = self
        parts = {
            "frozen": self.frozen,
            "pooling": self.pooling != "cls",
            "top_layers": self.top_layers is not None,
            "encoder_lr": self.encoder_lr is not None,
        }
        alone = "" if self.encoder else ", ".join(f"`{n}`" for n, x in parts.items() if x)
        usual = type(own)
        network = own.network != usual.network or own.filters is not None
        trained = self.frozen and (parts["top_layers"] or parts["encoder_lr"])
        turned = self.frozen and own.rotations not in (None, "none")
        staged = own.mode not in (None, "eager") or (own.chunk_size or 1) > 1
        partial = self.top_layers is not None and own.estimator == "reptile"
        return [
            (alone, f"`encoder` is required by {alone}; set `encoder` as well"),
            (
                self.encoder and network,
                "`encoder` replaces `network`; set only one of them, and remove `filters`",
            ),
            (trained, "a `frozen` encoder is never trained; remove top_layers and encoder_lr"),
            (turned, "a `frozen` encoder requires rotations=none, because features do not rotate"),
            (
                self.frozen and own.augment,
                "a `frozen` encoder computes features once and does not support `augment`; remove "
                "`augment` or `frozen`",
            ),
            (
                self.encoder and own.normalize != "none",
                "an `encoder` normalizes images itself; remove `normalize`",
            ),
            (
                self.frozen and own.adapts == "body",
                "a `frozen` encoder does not adapt; use a method other than boil (adapts=body)",
            ),
            (
                self.encoder and staged,
                "`encoder` requires mode=eager and chunk_size=1; remove `mode` and chunk_size",
            ),
            (
                self.encoder and own.bn_mode == "support",
                "an `encoder` has fixed batch-norm statistics; remove bn_mode",
            ),
            (
                self.encoder_lr and own.outer_lr == 0,
                f"encoder_lr={self.encoder_lr} requires outer_lr greater than 0, got 0",
            ),
            (
                partial,
                "top_layers does not support estimator=reptile, which requires that all layers "
                "adapt; use estimator=backprop",
            ),
        ]


@dataclass(frozen=True)
class FewShotConfig(EncoderSettings, SupervisedConfig, NetworkSettings, ImageSettings):
    """Learn to classify images into N classes (--ways) from K examples per class (--shots).

    With --method pretrained, one classifier is trained on all training classes. To fine-tune the
    pretrained network on new classes, run `metarl evaluate RUN --start prototypes`.
    """

    iterations: Annotated[int, at_least(0)] = 2000
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

    @property
    def widths(self) -> tuple[int, ...]:
        """Numbers of channels in the widest layers, used to detect damaged files."""
        net = NETWORKS[self.network]
        net = net._replace(filters=self.filters or net.filters)
        return (net.widths[-1] if isinstance(net, ResNet) else net.filters,) * 2

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        varied, usual = self.variable, type(self)
        sizes = ("num_shots", "num_queries", "test_queries", "train_shots")
        given = ", ".join(n for n in sizes if getattr(self, n) != getattr(usual, n))
        joint, learned = self.method == "pretrained", self.start == "learned"
        staged = self.mode not in (None, "eager")
        unsplit = self.split == "all-train" and self.validation_tasks
        return [
            *EncoderSettings.conflicts(self),
            *SupervisedConfig.conflicts(self),
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
        turned = self.data == "omniglot" and not self.frozen
        eager = self.variable or self.encoder or self.iterations < TRACED_FROM
        left_open: dict[str, Any] = {
            "mode": self.mode or ("eager" if eager else "traced"),
            "rotations": self.rotations or ("all" if turned else "none"),
        }
        if self.split == "all-train":
            left_open["validation_tasks"] = 0
        usual = self.defaults[""]
        if self.encoder:
            usual = usual | (FROZEN if self.frozen else ENCODER)
        filled = resolve(replace(self, **left_open), self.defaults | {"": usual})
        fixed = filled.start != "learned" and filled.inner not in LEARNED_CONSTANTS
        return replace(filled, iterations=0) if self.frozen and fixed else filled

    def complete(self) -> Any:
        """Return the complete configuration, with a split file replaced by its contents.

        The folder of an encoder becomes an absolute path, and the encoder determines the image
        size.

        Raises:
            FileNotFoundError: If the split file does not exist.
            ValueError: If the split file is invalid.
        """
        config = super().complete()
        if self.encoder:
            size = config.image_size or encoder_image_size(self.encoder)
            config = replace(config, encoder=encoder_place(self.encoder), image_size=size)
        if config.data != "folder" or config.split in (None, *FAMILIES["folder"].splits):
            return config
        parts = read_split(config.split)
        tasks = config.validation_tasks if parts["validation"] or self.validation_tasks else 0
        return replace(config, split=json.dumps(parts), validation_tasks=tasks)
