"""2D navigation with images as observations."""

from typing import Any

import numpy as np
from gymnasium import spaces

from metarl.envs.base import Array
from metarl.envs.navigation import Navigation2D


PIXELS = 32  # height and width of an observation
BLUR = 1.0  # standard deviation of a drawn point in pixels


class PixelNavigation2D(Navigation2D):
    """:class:`~metarl.envs.navigation.Navigation2D` with an image of the point as the observation.

    ## Description
    The task distribution, the motion and the rewards of `Navigation2D`, for
    policies with convolutional networks. The image shows the square
    [−0.6, 0.6]²; a point outside of the square is drawn at its border.

    ## Action space
    `Box(-1, 1, (2,))`, as in `Navigation2D`.

    ## Observation space
    `Box(0, 255, (32, 32, 1), uint8)`: a bright spot at the position of the
    point, with the y axis pointing up. With `observe_task=True`, a second
    channel shows the goal.

    ## Rewards
    −‖position − goal‖₂ after the step.

    ## Tasks
    `{"goal": [x, y]}`, drawn from U(−0.5, 0.5)².

    ## Episode end
    Terminates if |x − gx| < 0.01 and |y − gy| < 0.01 for a goal (gx, gy);
    truncated after 100 steps.

    ## Arguments
    `observe_task`: draw the goal in a second channel. `render_mode`:
    `"rgb_array"`.

    ## Version history
    v0: the first version.
    """

    def __init__(self, **kwargs: Any) -> None:
        """Create the environment; the arguments are those of :class:`PointEnv`."""
        super().__init__(**kwargs)
        shape = (PIXELS, PIXELS, 1 + self.observe_task)
        self.observation_space = spaces.Box(0, 255, shape, np.uint8)

    def observe(self, positions: Array, goals: Array) -> Array:
        """Return images of shape (..., 32, 32, 1), or (..., 32, 32, 2) with `observe_task`."""
        shown = (positions, goals) if self.observe_task else (positions,)
        return np.stack([self._spot(points) for points in shown], axis=-1)

    def _spot(self, points: Array) -> Array:
        """Draw a bright spot at each point: uint8 images of shape (..., 32, 32)."""
        inside = np.clip(points * [1, -1] / (2 * self.half_width) + 0.5, 0, 1) * (PIXELS - 1)
        offsets = inside[..., None] - np.arange(PIXELS)
        x, y = np.moveaxis(np.exp(-0.5 * (offsets / BLUR) ** 2), -2, 0)
        return np.asarray(np.rint(255 * y[..., :, None] * x[..., None, :]), np.uint8)
