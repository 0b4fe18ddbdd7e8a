"""The one place that writes videos."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarl.util import optional


SUFFIXES = (".mp4", ".gif")


_require = partial(optional.require, extra="video", purpose="videos")


def require_video() -> None:
    """Raise ImportError, with the command to type, if a package that writes videos is missing."""
    for module in ("PIL", "imageio", "imageio_ffmpeg"):
        _require(module)


def write_video(
    frames: Iterable[NDArray[np.uint8]], out: Path, *, fps: float, hold: float = 0.0
) -> None:
    """Write frames of one shape (height, width, 3) as an .mp4 or .gif, one at a time.

    Args:
        frames: The frames; they may be made while they are written. The codec of .mp4 needs even
            sides; it scales others.
        out: The file; its suffix chooses the format.
        fps: Frames a second; a .gif rounds to multiples of 10 ms a frame.
        hold: Seconds for which the last frame stays.

    Raises:
        ImportError: If imageio, imageio-ffmpeg or Pillow is missing; the message has the command.
    """
    require_video()
    held = round(hold * fps)
    if out.suffix == ".gif":
        pillow = _require("PIL.Image")
        images = [pillow.fromarray(frame).quantize(256) for frame in frames]
        options = {"duration": max(20, round(100 / fps) * 10), "loop": 0}
        others = images[1:] + images[-1:] * held
        images[0].save(out, save_all=True, append_images=others, **options)
        return
    with _require("imageio.v2").get_writer(out, fps=fps, quality=7, macro_block_size=2) as writer:
        for frame in frames:
            writer.append_data(frame)
        for _ in range(held):
            writer.append_data(frame)
