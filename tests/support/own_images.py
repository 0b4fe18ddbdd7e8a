"""Folders of small images with one pattern per class, as users have them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image


def write_classes(
    root: Path,
    names: Sequence[str],
    *,
    num_images: int = 10,
    size: int = 28,
    color: bool = False,
    seed: int = 0,
) -> Path:
    """Write PNG files of dark strokes on white; the strokes of a class differ by noise."""
    rng = np.random.default_rng(seed)
    for name in names:
        (root / name).mkdir(parents=True)
        pattern = np.kron(rng.integers(0, 2, (4, 4)), np.ones((size // 4, size // 4)))
        for index in range(num_images):
            noise = rng.uniform(-30, 30, pattern.shape)
            pixels = np.clip(255 - 200 * pattern + noise, 0, 255).astype(np.uint8)
            pixels = np.stack([pixels, pixels // 2, pixels], -1) if color else pixels
            Image.fromarray(pixels).save(root / name / f"{index}.png")
    return root


def write_glyphs(root: Path, glyphs: NDArray[np.uint8]) -> Path:
    """Write support/CLASS/ with two images per class, and inputs/ with four more per class.

    Args:
        root: The folder to write to.
        glyphs: Light ink on a dark background, of shape (3, images, height, width).
    """
    for label, images in zip("abc", glyphs, strict=True):
        for index, image in enumerate(images[:6]):
            folder = f"support/{label}" if index < 2 else f"inputs/{index % 2}"
            path = root / folder / f"{label}{index}.png"
            path.parent.mkdir(parents=True, exist_ok=True)
            Image.fromarray(255 - image).save(path)  # dark ink on white
    return root
