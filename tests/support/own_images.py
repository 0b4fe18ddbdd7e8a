"""Folders of small images with one pattern per class, as users have them."""

from collections.abc import Sequence
from pathlib import Path

import numpy as np
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
