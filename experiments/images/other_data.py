"""Evaluation of an image run on data that were not used in training."""

import os
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from torch import Tensor

from metarl.data import FAMILIES, Classes, Splits, has_splits
from metarl.data.folders import root_of
from metarl.experiment import Report
from metarl.experiments.images.settings import FewShotConfig
from metarl.experiments.supervised_evaluation import SupervisedEvaluation
from metarl.util import warn


COMMAND = "metarl evaluate RUN --data folder --data-root DIR"


def configuration(
    trained: FewShotConfig, changed: FewShotConfig, options: SupervisedEvaluation
) -> FewShotConfig:
    """Return the configuration for an evaluation on other data.

    The images have the size of the images in training. All classes of a folder
    without split folders are test classes. Rotated images form additional
    classes only for Omniglot.

    Args:
        trained: Configuration of the run.
        changed: The configuration of the run with its settings overridden by `options`.
        options: The flags of ``metarl evaluate``, with `data` set.
    """
    split, data = options.split, options.data or trained.data
    if split is None and data == "folder" and not has_splits(options.data_root):
        split = "all-test"
    if split == "all-test" and trained.data == data == "folder" and not trained.frozen:
        _warn_of_training_data(trained, options)
    return replace(
        changed,
        data=data,
        data_root=options.data_root,
        split=split,
        class_depth=options.class_depth or 1,
        image_size=trained.image_size or FAMILIES[trained.data].image_size,
        rotations=None,
        classes=None,
    )


def _warn_of_training_data(trained: FewShotConfig, options: SupervisedEvaluation) -> None:
    """Warn if the folder for the evaluation is the folder of the training images."""
    used = trained.data_root or os.environ.get("METARL_DATA")  # may not exist any more
    if used and Path(used).expanduser().resolve() == (root := root_of(options.data_root)):
        warn(f"{root} contains the training images: the accuracy is not that on new classes")


def has_learned_head(trained: FewShotConfig, options: SupervisedEvaluation) -> bool:
    """Return whether the evaluation uses a learned head, which has a fixed number of classes.

    Args:
        trained: Configuration of the run.
        options: The flags of ``metarl evaluate``.
    """
    return (options.start or trained.start) == "learned" and trained.method != "pretrained"


def describe(
    config: FewShotConfig, trained: FewShotConfig, splits: Splits, options: SupervisedEvaluation
) -> dict[str, Any]:
    """Return entries for the evaluation file that identify the other data.

    Args:
        config: The configuration from :func:`configuration`.
        trained: Configuration of the run.
        splits: Images of the other data.
        options: The flags of ``metarl evaluate``.

    Returns:
        The names of both data sets, a hash of the class names, the number of
        classes, and whether the images must be inverted.
    """
    classes: Classes = getattr(splits, options.tasks)
    return {
        "data": config.data,
        "trained_on": trained.data,
        "classes": Splits(classes, *[classes._replace(names=())] * 2).digest(),
        "num_classes": len(classes.names),
        "inverted": FAMILIES[trained.data].inverted != FAMILIES[config.data].inverted,
    }


def converted(splits: Splits, channels: int, *, inverted: bool) -> Splits:
    """Return images with the channels and the colors of the training images.

    A warning is printed if inverted images have a light background, because the network
    was trained on images with a dark background.

    Args:
        splits: Images of the other data, in the size of the training images.
        channels: Number of channels of the training images.
        inverted: Whether to invert the images, which replaces each value x by 255 - x.
    """
    images = [_with_channels(classes.images, channels) for classes in splits]
    images = [255 - x if inverted else x for x in images]
    if inverted and any(len(x) and np.median(x) > 127 for x in images):
        warn(
            "the image files show light ink on a dark background, but the network was trained on "
            "files with dark ink on a light background; invert the colors of the files"
        )
    return Splits(*(c._replace(images=x) for c, x in zip(splits, images, strict=True)))


def stated(report: Report, about: dict[str, Any], options: SupervisedEvaluation) -> Report:
    """Return a report that names the other data in its title, its values and its file name.

    Args:
        report: The report on the converted images.
        about: The entries from :func:`describe`.
        options: The flags of ``metarl evaluate``.
    """
    *tables, table = report.tables
    where = f"{about['data']} {options.data_root or ''}".strip()
    turned = ", inverted" if about["inverted"] else ""
    title = f"{table.title} of {report.values['num_ways']} ways from the {about['num_classes']} "
    title += f"classes of other data ({where}{turned}; trained on {about['trained_on']})"
    name = f"{report.name}_data-{about['data']}-{about['classes']}"
    return Report(name, report.values | about, [*tables, table._replace(title=title)])


def _with_channels(images: Tensor, channels: int) -> Tensor:
    """Return uint8 images with 1 (gray) or 3 (RGB) `channels`, converted as in Pillow."""
    if images.shape[1] == channels:
        return images
    if images.shape[1] == 1:
        return images.expand(-1, channels, -1, -1)
    red, green, blue = images.int().unbind(1)  # ITU-R 601-2 luma in fixed point
    gray = (19595 * red + 38470 * green + 7471 * blue + 0x8000) >> 16
    return gray[:, None].to(images.dtype)
