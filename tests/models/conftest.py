"""Small runs of classifiers and regression networks that the tests of the models share."""

import importlib
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numpy.typing import NDArray

import metarl
from metarl.data import load_images
from tests.support.own_images import write_glyphs


SMALL = {
    "iterations": 1, "num_tasks": 2, "validation_tasks": 1, "mode": "eager", "log_every": 1,
    "checkpoint_every": 1,
}  # fmt: skip


@pytest.fixture(scope="session")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Callable[..., Path]:
    """A function that trains a small run once and returns its folder."""

    @cache
    def run(name: str, method: str, **changed: Any) -> Path:
        out = tmp_path_factory.mktemp("trained") / method
        images = {"num_ways": 3, "filters": 8} if name == "fewshot" else {}
        joint = {"num_tasks": 1} if (name, method) == ("fewshot", "pretrained") else {}
        metarl.train(name, out, method=method, **SMALL | images | joint | changed)
        return out

    return run


@pytest.fixture(scope="session")
def text_data(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with text tasks in data/ and an encoder in encoder/."""
    root = tmp_path_factory.mktemp("text")
    importlib.import_module("tests.support.sentences").save_documented(root)
    return root


@pytest.fixture(scope="session")
def glyphs() -> NDArray[np.uint8]:
    """Images of three test classes, of shape (3, 20, 28, 28)."""
    return load_images("glyphs").test.images.reshape(-1, 20, 28, 28)[:3].numpy()


@pytest.fixture
def pictures(tmp_path: Path, glyphs: NDArray[np.uint8]) -> Path:
    """Folders support/CLASS/ with two images per class, and inputs/ with twelve images."""
    return write_glyphs(tmp_path, glyphs)
