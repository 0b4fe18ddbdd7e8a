"""Glyphs: characters of several scripts, drawn with the fonts that come with matplotlib.

Real shapes for few-shot learning where nothing can be downloaded. A class is a character; its
images are that character in different fonts, each turned, sheared, scaled and shifted a little.
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


# The other 25 fonts lie or have too little: Computer Modern has its own encodings (cmsy10 draws a
# symbol for a letter, cmr10 "¡" for "<"), Last Resort draws one box for a whole script, and the
# rest of STIX has sizes of brackets and private characters.
FONTS = (
    *(f"DejaVuSans{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSansMono{style}" for style in ("", "-Bold", "-Oblique", "-BoldOblique")),
    *(f"DejaVuSerif{style}" for style in ("", "-Bold", "-Italic", "-BoldItalic")),
    *(f"STIXGeneral{style}" for style in ("", "Bol", "Italic", "BolIta")),
)
KINDS = {"Lu", "Ll", "Lt", "Lo", "Nd", "No", "Nl", "Sm", "Sc", "So"}
# Lines and dots, which mean something by their place in the cell only: boxes, blocks, Braille.
POSITIONAL = {*range(0x2500, 0x25A0), *range(0x2800, 0x2900)}
SWAPPED = set("ӋӌӶӷ")  # DejaVu Sans Mono Oblique draws each pair for the other

IMAGES_PER_CLASS = 20
MIN_FONTS = 10
MIN_INK = 9.0  # pixels of SIZE x SIZE
MAX_DIFFERENCE = 0.1
"""Squared difference of two drawings, over the ink of the fainter one, that nobody would see."""
SIZE = 28
OVERSAMPLING = 3  # drawn this much larger, then averaged
EM, FRAME = 26 / 28, 22 / 28  # size of the type, and what a larger glyph is shrunk to
TURN, SHEAR, SCALE, SHIFT = 0.3, 0.25, 0.15, 3 / 28
VERSION = 1  # of the drawings: part of the cache's key


def load(data_root: Path | None, *, split: str, image_size: int) -> Splits:
    """Draw the glyphs, ink 255 on 0, and split the characters 64 : 16 : 20.

    Rotated copies make poor extra classes here: n is u and 6 is 9, upside down.

    Args:
        data_root: ``None``; nothing is read.
        split: ``random``, the only one.
        image_size: Height and width.

    Raises:
        ImportError: If matplotlib is missing.
        ValueError: If a root is given.
    """
    if data_root is not None:
        raise ValueError(f"data_root must be None for glyphs, which are drawn; got {data_root}")
    source = {"version": VERSION, "made_by": _library_versions(), "size": image_size}
    return split_classes(
        cached("glyphs", source, lambda: draw(usable_characters(), image_size=image_size))
    )


def usable_characters(candidates: Iterable[str] | None = None) -> dict[str, list[str]]:
    """Return the characters that make classes, each with the fonts that draw it.

    Letters, digits and symbols that are no variant of another character by Unicode's
    decompositions, that at least ``MIN_FONTS`` fonts draw, and that no font draws like one that
    comes before: Latin A is Cyrillic А is Greek Α.

    Args:
        candidates: Characters to choose from; ``None`` means all that the fonts have.
    """
    tables = {font: _characters(font) for font in FONTS}
    among = set().union(*tables.values()) if candidates is None else set(candidates)
    shapes = sorted(name for name in among if _is_candidate(name))
    fonts = {name: [font for font in FONTS if name in tables[font]] for name in shapes}
    names = [name for name in fonts if len(fonts[name]) >= MIN_FONTS]
    alike = np.zeros((len(names), len(names)), bool)
    for font in FONTS:
        there = [i for i, name in enumerate(names) if font in fonts[name]]
        alike[np.ix_(there, there)] |= _similar_pairs(
            np.stack([_ink(names[i], font) for i in there])
        )
    kept: list[int] = []
    for i in range(len(names)):
        kept += [] if alike[i, [*kept, i]].any() else [i]
    return {names[i]: fonts[names[i]] for i in kept}


def draw(characters: Mapping[str, Sequence[str]], *, image_size: int) -> Classes:
    """Draw ``IMAGES_PER_CLASS`` images of each character with the fonts that it comes with.

    The random numbers of a character are seeded by its code.
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
        data = _affine(random, size * OVERSAMPLING)
        moved = glyph.transform(glyph.size, image.Transform.AFFINE, data, bilinear)
        images.append(np.asarray(moved.reduce(OVERSAMPLING)))
    return np.stack(images)


def _affine(random: np.random.RandomState, side: int) -> tuple[float, ...]:
    """Return where each pixel comes from, as Pillow wants it: about the center of the image."""
    turn, shear, *more = random.uniform(-1, 1, 6) * (TURN, SHEAR, SCALE, SCALE, SHIFT, SHIFT)
    rotation = np.array([[np.cos(turn), -np.sin(turn)], [np.sin(turn), np.cos(turn)]])
    matrix = rotation @ [[1, shear], [0, 1]] @ np.diag(1 + np.array(more[:2]))
    offset = side / 2 - matrix @ (side / 2 + side * np.array(more[2:]))
    return (*matrix[0], offset[0], *matrix[1], offset[1])


def _render(name: str, font: str, size: int) -> Any:
    """Draw a character in the middle of a square of ``OVERSAMPLING * size``, shrunk if it is large."""
    image, side, frame = pillow("Image"), size * OVERSAMPLING, round(FRAME * size * OVERSAMPLING)
    kind = _load_font(font, round(EM * side))
    left, top, right, bottom = kind.getbbox(name)
    glyph = image.new("L", (max(1, right - left), max(1, bottom - top)))
    pillow("ImageDraw").Draw(glyph).text((-left, -top), name, font=kind, fill=255)
    glyph = glyph.crop(glyph.getbbox() or (0, 0, 1, 1))  # the font's own box has empty margins
    glyph.thumbnail((frame, frame), image.Resampling.BILINEAR)
    square = image.new("L", (side, side))
    square.paste(glyph, ((side - glyph.width) // 2, (side - glyph.height) // 2))
    return square


def _ink(name: str, font: str) -> NDArray[np.float64]:
    return np.asarray(_render(name, font, SIZE).reduce(OVERSAMPLING)).ravel() / 255


def _similar_pairs(ink: NDArray[np.float64]) -> NDArray[np.bool_]:
    """Return which pairs one font draws alike; what it does not show is like itself and dropped."""
    amount = (ink**2).sum(1)
    squares = amount[:, None] + amount - 2 * ink @ ink.T
    like = np.asarray(squares <= MAX_DIFFERENCE * np.minimum(amount[:, None], amount))
    np.fill_diagonal(like, ink.sum(1) < MIN_INK)
    return like


def _is_candidate(name: str) -> bool:
    unlike = ord(name) in POSITIONAL or name in SWAPPED or unicodedata.decomposition(name)
    return not unlike and unicodedata.category(name) in KINDS


def _characters(font: str) -> set[str]:
    codes = _matplotlib("matplotlib.ft2font").FT2Font(str(_path(font))).get_charmap()
    return {chr(code) for code, glyph in codes.items() if glyph}


def _library_versions() -> list[str]:
    """Return the versions that the drawings depend on."""
    try:
        fonts = version("matplotlib")  # importing it takes longer than reading the cache
    except PackageNotFoundError:
        fonts = _matplotlib().__version__
    return [fonts, pillow("Image").__version__, pillow("features").version("freetype2")]


def _matplotlib(module: str = "matplotlib") -> Any:
    return optional.require(module, extra="vision", purpose="glyphs")


@cache
def _load_font(font: str, size: int) -> Any:
    module = pillow("ImageFont")
    # The basic layout is in every build of Pillow, and single characters need no other.
    return module.truetype(str(_path(font)), size, layout_engine=module.Layout.BASIC)


def _path(font: str) -> Path:
    return Path(_matplotlib().get_data_path()) / "fonts/ttf" / f"{font}.ttf"
