"""A registry of image data sets, and a function that loads a data set by name."""

from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from metarl.data import folders, glyphs, layouts, omniglot, splitting
from metarl.data.images import Splits, to_square


class Family(NamedTuple):
    """An entry in the registry of image data sets.

    Attributes:
        load: Function ``(data_root, *, split, image_size) -> Splits`` that loads the data set.
        splits: Names of the supported splits into training, validation and
            test classes. The first name is the default.
        image_size: Default image height and width in pixels.
        convert: Function ``(Pillow image, mode, size) -> Pillow image`` that converts an image to a
            Pillow mode and to a square of `size` pixels.
        inverted: Whether the loaded images have light ink on a dark background, although the
            original drawings have dark ink on a light background.
    """

    load: Callable[..., Splits]
    splits: tuple[str, ...]
    image_size: int
    inverted: bool = False
    convert: Callable[..., Any] = to_square


# Image data sets by name; the keys are the values of `data` in load_images.
FAMILIES = {
    "glyphs": Family(glyphs.load, ("random",), 28, inverted=True),
    "omniglot": Family(
        omniglot.load, tuple(omniglot.SPLITS), 28, inverted=True, convert=omniglot.to_drawing
    ),
    "mini-imagenet": Family(partial(layouts.load, "mini-imagenet"), ("ravi",), 84),
    "tiered-imagenet": Family(partial(layouts.load, "tiered-imagenet"), ("ren",), 84),
    "cifar-fs": Family(partial(layouts.load, "cifar-fs"), ("bertinetto",), 32),
    "fc100": Family(partial(layouts.load, "fc100"), ("oreshkin",), 32),
    "cub": Family(partial(layouts.load, "cub"), ("chen",), 84),
    "folder": Family(folders.load, splitting.NAMED, 84),
}


def load_images(
    data: str,
    *,
    data_root: Path | str | None = None,
    split: str | None = None,
    image_size: int | None = None,
    class_depth: int = 1,
    validation: bool = True,
) -> Splits:
    """Load an image data set, split into training, validation and test classes.

    The data sets require these files in `data_root`. Only Omniglot is downloaded.

    - ``glyphs``: none; characters are drawn with the fonts included in matplotlib.
    - ``omniglot``: ``images_background.zip`` and ``images_evaluation.zip``, or the unpacked
      folders, optionally in a subfolder ``omniglot``.
    - ``mini-imagenet``: ``train.csv``, ``val.csv`` and ``test.csv`` with rows ``filename,label``,
      and the folder ``images``; or the pickles ``mini-imagenet-cache-train.pkl``,
      ``...-val.pkl`` and ``...-test.pkl``; optionally in a subfolder ``miniimagenet``.
    - ``tiered-imagenet``: ``train_images_png.pkl``, ``train_labels.pkl`` and the same for ``val``
      and ``test``; or the folders ``train``, ``val`` and ``test``; optionally in a subfolder
      ``tiered-imagenet``.
    - ``cifar-fs``: the folders ``data`` and ``splits/bertinetto``, optionally in a subfolder
      ``cifar100``; or the pickles ``CIFAR_FS_train.pickle``, ``..._val.pickle`` and
      ``..._test.pickle``.
    - ``fc100``: the pickles ``FC100_train.pickle``, ``FC100_val.pickle`` and ``FC100_test.pickle``.
    - ``cub``: the folder ``images`` and ``classes.txt``, optionally in a subfolder
      ``CUB_200_2011``.
    - ``folder``: custom images, either ``CLASS/*.png``, split randomly into 64 % training, 16 %
      validation and 20 % test classes, or ``train/CLASS/*.png``,
      ``validation/CLASS/*.png`` and ``test/CLASS/*.png``. Without the
      folder ``validation``, a tenth of the training classes is used for validation. If
      `class_depth` is 2, the classes are ``ALPHABET/CHARACTER/*.png``.

    Args:
        data: Name of the data set.
        data_root: Folder with the files; must be ``None`` for ``glyphs``. For
            the other data sets, defaults to the environment variable ``METARL_DATA``.
            Omniglot is downloaded if `data_root` is ``None`` and ``METARL_DATA`` is
            not set or does not contain Omniglot.
        split: For Omniglot, ``random`` (default), ``vinyals`` or
            ``background``. For folders, ``own`` (default), ``all-train`` or
            ``all-test``, which use all classes for training or for test, the path of a JSON file
            with lists of class names for the keys ``train``, ``validation`` and ``test``, or a
            folder with the lists ``train.txt``, ``val.txt`` and ``test.txt``. The
            other data sets have only one split, which is the default.
        image_size: Image height and width in pixels; defaults to 28 for ``glyphs`` and
            ``omniglot``, 32 for ``cifar-fs`` and ``fc100``, and 84 for the other data sets.
        class_depth: Number of folder levels that form a class; only for ``folder``.
        validation: Whether to hold out random validation classes if a folder has no fixed
            validation classes; only for ``folder``.

    Returns:
        Disjoint training, validation and test classes, with uint8 images of
        shape (images, channels, image_size, image_size) on the CPU. With ``all-train``,
        ``all-test``, a split file or without `validation`, splits can be empty.

    Raises:
        ImportError: If a required package is not installed.
        OSError: If files are missing, or the download fails.
        ValueError: If an argument is invalid or a file is damaged.

    Example::

        >>> from metarl.data import load_images
        >>> splits = load_images("glyphs")
        >>> splits.train.images.shape[1:]
        torch.Size([1, 28, 28])
    """
    if data not in FAMILIES:
        raise ValueError(f"unknown data set {data!r}: expected one of {', '.join(FAMILIES)}")
    family = FAMILIES[data]
    split, size = split or family.splits[0], image_size or family.image_size
    if data != "folder" and split not in family.splits:
        raise ValueError(f"unknown split {split!r}: expected one of {', '.join(family.splits)}")
    if image_size is not None and image_size < 1:
        raise ValueError(f"image_size must be at least 1 pixel, got {image_size}")
    if data != "folder" and class_depth != 1:
        raise ValueError(f"class_depth={class_depth} requires data=folder, got data={data}")
    root = None if data_root is None else Path(data_root)
    own = {"class_depth": class_depth, "validation": validation} if data == "folder" else {}
    return family.load(root, split=split, image_size=size, **own)
