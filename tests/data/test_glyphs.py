"""Glyphs: the characters used as classes, and equal drawings in every process."""

import hashlib
import os
import subprocess
import sys
from pathlib import Path

import pytest
import torch

from metarl.data import glyphs
from metarl.data.families import load_images
from metarl.data.glyphs import FONTS, IMAGES_PER_CLASS, MIN_FONTS, draw, find_classes
from metarl.data.images import Classes


SOME = "AaДфΣღՖ5<♀"


@pytest.fixture(scope="module")
def some() -> dict[str, list[str]]:
    return find_classes(SOME)


def checksum(classes: Classes) -> str:
    return hashlib.sha256(classes.images.numpy().tobytes()).hexdigest()


def test_characters_of_many_scripts_have_many_fonts(some: dict[str, list[str]]) -> None:
    assert set(some) == set(SOME)
    assert list(some) == sorted(SOME)
    assert all(len(fonts) >= MIN_FONTS for fonts in some.values())
    assert some["A"] == list(FONTS)
    assert set(some["ღ"]) < set(FONTS)


@pytest.mark.parametrize(
    ("candidates", "expected"),
    [
        ("AАΑ", "A"),  # Latin, Cyrillic, Greek
        ("oоο", "o"),
        ("mт", "m"),  # т is an m in italics only
        ("oO0", "0o"),  # o differs in size, and O and 0 in too little
        ("xéﬁ²Ａ", "x"),  # variants of other characters, by Unicode
        ("x.,!(", "x"),  # punctuation
        ("x█⠿┼", "x"),  # distinguished only by their position
        ("xӋӌӶӷ", "x"),  # swapped in one font
        ("x字ש", "x"),  # in few fonts or none
        ("x\u00a0\u200b\ue000\uffff", "x"),  # blank, private, no character
    ],
)
def test_similar_characters_are_excluded(candidates: str, expected: str) -> None:
    assert list(find_classes(candidates)) == list(expected)


def test_no_character_is_nearly_blank(monkeypatch: pytest.MonkeyPatch) -> None:
    assert list(find_classes("x⋅")) == ["x"]  # a dot of three pixels by three, in some fonts
    monkeypatch.setattr(glyphs, "MIN_INK", 0.0)
    assert list(find_classes("x⋅")) == ["x", "⋅"]


def test_a_class_has_twenty_different_images_with_ink_255(some: dict[str, list[str]]) -> None:
    classes = draw(some, image_size=28)
    assert classes.images.shape == (len(SOME) * IMAGES_PER_CLASS, 1, 28, 28)
    assert classes.images.dtype == torch.uint8
    assert classes.images.is_contiguous()
    assert classes.counts == (IMAGES_PER_CLASS,) * len(SOME)
    assert classes.names == tuple(some)
    assert len(classes.images.flatten(1).unique(dim=0)) == len(classes.images)
    edge = torch.ones(28, 28, dtype=torch.bool)
    edge[1:-1, 1:-1] = False
    assert (classes.images[:, 0, edge] > 0).double().mean() < 0.05
    assert (classes.images.amax((1, 2, 3)) > 150).all()
    assert 0.05 < classes.images.double().mean() / 255 < 0.25


def test_images_of_a_class_resemble_each_other(some: dict[str, list[str]]) -> None:
    pixels = draw(some, image_size=28).images.flatten(1).double()
    means = pixels.view(len(SOME), IMAGES_PER_CLASS, -1).mean(1)
    nearest = torch.cdist(pixels, means).argmin(1)
    truth = torch.arange(len(SOME)).repeat_interleave(IMAGES_PER_CLASS)
    assert (nearest == truth).double().mean() > 0.7


def test_the_images_of_a_character_do_not_depend_on_other_characters(
    some: dict[str, list[str]],
) -> None:
    whole = draw(some, image_size=28)
    alone = draw({"Σ": some["Σ"]}, image_size=28)
    start = IMAGES_PER_CLASS * whole.names.index("Σ")
    assert torch.equal(whole.images[start : start + IMAGES_PER_CLASS], alone.images)


def test_glyphs_support_any_image_size(some: dict[str, list[str]]) -> None:
    for size in (14, 56):
        assert draw({"A": some["A"]}, image_size=size).images.shape[2:] == (size, size)


def test_every_process_draws_the_same_glyphs(some: dict[str, list[str]]) -> None:
    code = f"""
import hashlib, sys, metarl.data.families
print([module for module in ("PIL", "matplotlib", "torchvision") if module in sys.modules])
from metarl.data.glyphs import draw, find_classes
images = draw(find_classes({SOME!r}), image_size=28).images
print(hashlib.sha256(images.numpy().tobytes()).hexdigest())
"""
    seed = "1" if os.environ.get("PYTHONHASHSEED") != "1" else "2"
    environment = os.environ | {"PYTHONHASHSEED": seed}
    done = subprocess.run(
        [sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environment
    )
    imported, theirs = done.stdout.splitlines()
    assert imported == "[]"  # image packages are imported where they are needed
    assert theirs == checksum(draw(some, image_size=28))


def test_glyphs_are_split_and_drawn_once(monkeypatch: pytest.MonkeyPatch, own_cache: Path) -> None:
    monkeypatch.setattr(glyphs, "KINDS", {"Nd"})
    splits = load_images("glyphs")
    assert [len(part.names) for part in splits] == [6, 2, 2]
    assert sorted(name for part in splits for name in part.names) == list("0123456789")
    assert len(list(own_cache.iterdir())) == 1
    monkeypatch.setattr(glyphs, "draw", None)
    again = load_images("glyphs")
    for mine, theirs in zip(splits, again, strict=True):
        assert torch.equal(mine.images, theirs.images)
        assert mine[1:] == theirs[1:]
    with pytest.raises(TypeError):
        load_images("glyphs", image_size=20)
    monkeypatch.setattr(glyphs, "_library_versions", lambda: ["another matplotlib"])
    with pytest.raises(TypeError):
        load_images("glyphs")


def test_invalid_glyph_arguments_give_one_line_errors(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ValueError, match=r"data_root must be None for glyphs, got"):
        load_images("glyphs", data_root=tmp_path)
    monkeypatch.setattr(glyphs, "FONTS", ("DejaVuSans", "NoSuchFont"))
    with pytest.raises(FileNotFoundError, match=r"NoSuchFont\.ttf"):
        load_images("glyphs")
    monkeypatch.setitem(sys.modules, "matplotlib", None)
    with pytest.raises(ImportError, match=r"glyphs require matplotlib; .*'metarl-torch\[vision\]'"):
        load_images("glyphs")
