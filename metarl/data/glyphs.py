"""Glyphs: characters from several scripts, drawn with the fonts included in matplotlib.

This data set requires no download. Each class is one character. The images of
a class show the character in different fonts, with small random rotations,
shears, scalings and shifts.
"""

import unicodedata
from collections.abc import Iterable, Mapping, Sequence
from functools import cache
from importlib.metadata import PackageNotFoundError, version
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.data.cache import cached
from metarl.data.images import Classes, Splits, pillow, split_classes
from metarl.util import optional


# The other 25 fonts of matplotlib are excluded. Computer Modern has its own encodings (cmsy10 draws
# a symbol for a letter, cmr10 "¡" for "<"), Last Resort draws one box for a whole script, and the
# other STIX fonts contain only bracket sizes and private characters.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
# Unicode categories of letters, digits, numbers and symbols.
KINDS = {"Lu", "Ll", "Lt", "Lo", "Nd", "No", "Nl", "Sm", "Sc", "So"}
# Box drawing, block elements and Braille, which differ only by their position in the cell.
POSITIONAL = {*range(0x2500, 0x25A0), *range(0x2800, 0x2900)}
SWAPPED = set("ӋӌӶӷ")  # DejaVu Sans Mono Oblique swaps these two pairs

IMAGES_PER_CLASS = 20
MIN_FONTS = 10
MIN_INK = 9.0  # minimum sum of pixel values in [0, 1] of a SIZE x SIZE drawing
MAX_DIFFERENCE = 0.1
"""Two drawings look alike if the squared distance of the pixel values is at
most this fraction of the smaller of the two sums of squared pixel values."""
SIZE = 28
ZOOM = 3  # glyphs are drawn larger by this factor and then averaged
EM, FRAME = 26 / 28, 22 / 28  # font size and maximum glyph size, relative to the image size
# Largest rotation in radians, shear, relative change of the size, and shift relative to the size.
TURN, SHEAR, SCALE, SHIFT = 0.3, 0.25, 0.15, 3 / 28
VERSION = 1  # version of the drawings, part of the cache key


def load(data_root: Path | None, *, split: str, image_size: int) -> Splits:
    """Load the glyphs, split randomly into 64 % training, 16 % validation and 20 % test classes.

    The images have one channel with ink 255 on background 0. Rotated images
    are not useful as additional classes, because a rotated n is a u and a
    rotated 6 is a 9.

    Args:
        data_root: Must be ``None``, since no files are read.
        split: ``random``, the only split.
        image_size: Height and width in pixels.

    Returns:
        Disjoint training, validation and test classes, with uint8 images of
        shape (images, channels, image_size, image_size) on the CPU.

    Raises:
        ImportError: If matplotlib is not installed.
        ValueError: If `data_root` is not ``None``.
    """
    if data_root is not None:
        raise ValueError(f"data_root must be None for glyphs, got {data_root}. Omit this argument")
    source = {"version": VERSION, "made_by": _library_versions(), "size": image_size}
    classes = cached("glyphs", source, lambda: draw(find_classes(), image_size=image_size))
    return split_classes(classes)


def find_classes(candidates: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Select the characters that are used as classes.

    A character is selected if it is a letter, digit or symbol, exists in at
    least ``MIN_FONTS`` fonts and has no Unicode decomposition, which excludes
    variants such as é. If characters look alike in any font, such as Latin
    A, Cyrillic А and Greek Α, only the first one is selected.

    Args:
        candidates: Characters to choose from; defaults to all characters in the fonts.

    Returns:
        For each selected character, the names of the fonts that contain the character.
    """
    tables = {font: _characters(font) for font in FONTS}
    pool = set().union(*tables.values()) if candidates is None else set(candidates)
    shapes = sorted(name for name in pool if _is_candidate(name))
    fonts = {name: [font for font in FONTS if name in tables[font]] for name in shapes}
    names = [name for name in fonts if len(fonts[name]) >= MIN_FONTS]
    alike = np.zeros((len(names), len(names)), bool)
    for font in FONTS:
        drawn = [i for i, name in enumerate(names) if font in fonts[name]]
        alike[np.ix_(drawn, drawn)] |= _similar(np.stack([_ink(names[i], font) for i in drawn]))
    kept: list[int] = []
    for i in range(len(names)):
        kept += [] if alike[i, [*kept, i]].any() else [i]
    return {names[i]: fonts[names[i]] for i in kept}


def draw(characters: Mapping[str, Sequence[str]], *, image_size: int) -> Classes:
    """Draw ``IMAGES_PER_CLASS`` images of each character.

    Args:
        characters: Names of the fonts to use for each character, from :func:`find_classes`.
        image_size: Height and width in pixels.

    Returns:
        One class per character, with images of shape (images, 1, image_size, image_size).
    """
    images = np.concatenate([_draw(name, characters[name], image_size) for name in characters])
    counts = (IMAGES_PER_CLASS,) * len(characters)
    return Classes(torch.from_numpy(images)[:, None], counts, tuple(characters))


def _draw(name: str, fonts: Sequence[str], size: int) -> NDArray[np.uint8]:
    image = pillow("Image")
    bilinear = image.Resampling.BILINEAR
    random = np.random.RandomState(ord(name))
    fine = [_render(name, fonts[index], size) for index in random.permutation(len(fonts))]
    images = []
    for glyph in islice(cycle(fine), IMAGES_PER_CLASS):
        data = _affine(random, size * ZOOM)
        moved = glyph.transform(glyph.size, image.Transform.AFFINE, data, bilinear)
        images.append(np.asarray(moved.reduce(ZOOM)))
    return np.stack(images)


def _affine(random: np.random.RandomState, side: int) -> tuple[float, ...]:
    """Sample an affine map about the center of a square image, and return Pillow's coefficients.

    Args:
        random: Random generator.
        side: Height and width of the image in pixels.
    """
    turn, shear, *more = random.uniform(-1, 1, 6) * (TURN, SHEAR, SCALE, SCALE, SHIFT, SHIFT)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ [[1, shear], [0, 1]] @ np.diag(1 + np.array(more[:2]))
    offset = side / 2 - matrix @ (side / 2 + side * np.array(more[2:]))
    return (*matrix[0], offset[0], *matrix[1], offset[1])


def _render(name: str, font: str, size: int) -> Any:
    """Draw a character in the center of a square Pillow image.

    Characters larger than the fraction ``FRAME`` of the image are scaled down.

    Args:
        name: The character.
        font: Name of the font, an element of ``FONTS``.
        size: Height and width of the final images in pixels. The returned image is larger by the
            factor ``ZOOM``.
    """
    image, side, frame = pillow("Image"), size * ZOOM, round(FRAME * size * ZOOM)
    kind = _load_font(font, round(EM * side))
    left, top, right, bottom = kind.getbbox(name)
    glyph = image.new("L", (max(1, right - left), max(1, bottom - top)))
    pillow("ImageDraw").Draw(glyph).text((-left, -top), name, font=kind, fill=255)
    glyph = glyph.crop(glyph.getbbox() or (0, 0, 1, 1))  # the font's bounding box has margins
    glyph.thumbnail((frame, frame), image.Resampling.BILINEAR)
    square = image.new("L", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square


def _ink(name: str, font: str) -> NDArray[np.float64]:
    return np.asarray(_render(name, font, SIZE).reduce(ZOOM)).ravel() / 255


def _similar(ink: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return a boolean matrix that marks the pairs of drawings that look alike.

    The diagonal marks the drawings with less ink than ``MIN_INK``.

    Args:
        ink: Pixel values in [0, 1], shape (drawings, pixels).
    """
    amount = (ink**2).sum(1)
    squares = amount[:, None] + amount - 2 * ink @ ink.T
    like = np.asarray(squares <= MAX_DIFFERENCE * np.minimum(amount[:, None], amount))
    np.fill_diagonal(like, ink.sum(1) < MIN_INK)
    return like


def _is_candidate(name: str) -> bool:
    excluded = ord(name) in POSITIONAL or name in SWAPPED or unicodedata.decomposition(name)
    return not excluded and unicodedata.category(name) in KINDS


def _characters(font: str) -> set[str]:
    codes = _matplotlib("matplotlib.ft2font").FT2Font(str(_path(font))).get_charmap()
    return {chr(code) for code, glyph in codes.items() if glyph}


def _library_versions() -> list[str]:
    """Return the versions of matplotlib, Pillow and FreeType, which affect the drawings."""
    try:
        fonts = version("matplotlib")  # importing matplotlib takes longer than reading the cache
    except PackageNotFoundError:
        fonts = _matplotlib().__version__
    return [fonts, pillow("Image").__version__, pillow("features").version("freetype2")]


def _matplotlib(module: str = "matplotlib") -> Any:
    return optional.require(module, extra="vision", purpose="glyphs")


@cache
def _load_font(font: str, size: int) -> Any:
    module = pillow("ImageFont")
    # Basic layout is available in every build of Pillow and sufficient for single characters.
    return module.truetype(str(_path(font)), size, layout_engine=module.Layout.BASIC)


def _path(font: str) -> Path:
    return Path(_matplotlib().get_data_path()) / "fonts/ttf" / f"{font}.ttf"
