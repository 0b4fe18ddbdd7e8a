"""Pictures of points on a plane."""

from collections.abc import Iterable
from typing import TypeAlias

import numpy as np

from metarl.envs.base import Array


Color: TypeAlias = tuple[int, int, int]

GRAY: Color = (200, 200, 200)
RED: Color = (214, 39, 40)
BLUE: Color = (31, 119, 180)

SIZE = 240  # pixels
RADIUS = 6


def draw_plane(points: Iterable[tuple[Array, Color]], *, half_width: float) -> Array:
    """Draw the plane [−half_width, half_width]², x to the right and y up.

    Args:
        points: Pairs of a place (x, y) and its color; later ones lie on top.
        half_width: Places beyond it are not seen.

    Returns:
        An image (240, 240, 3) of bytes.
    """
    image = np.full((SIZE, SIZE, 3), 255, np.uint8)
    rows, columns = np.mgrid[:SIZE, :SIZE]
    for point, color in points:
        x, y = (point * [1, -1] / (2 * half_width) + 0.5) * SIZE
        image[(columns - x) ** 2 + (rows - y) ** 2 < RADIUS**2] = color
    return image
