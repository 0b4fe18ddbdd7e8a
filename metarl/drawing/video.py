"""Writing of .mp4 and .gif videos."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarl.util import optional


SUFFIXES = (".mp4", ".gif")
"""Suffixes of video files."""


_require = partial(optional.require, extra="video", purpose="videos")


def require_video() -> None:
    """Raise an ImportError if a package that writes videos is not installed.

    Raises:
        ImportError: If Pillow, imageio or imageio-ffmpeg is missing; the message contains the
            install command.

    Example::

        require_video()
    """
    for module in ("PIL", "imageio", "imageio_ffmpeg"):
        _require(module)


def write_video(
    frames: Iterable[NDArray[np.uint8]], out: Path, *, fps: float, hold: float = 0.0
) -> None:
    """Write frames to an .mp4 or .gif file.

    Args:
        frames: Frames of the same shape (height, width, 3); a generator is consumed while the file
            is written. Frames of an .mp4 file with an odd height or width are rescaled.
        out: File to write; the suffix selects the format.
        fps: Frames per second; a .gif file rounds the frame duration to a multiple of 10 ms.
        hold: Seconds that the last frame is shown longer.

    Raises:
        ImportError: If Pillow, imageio or imageio-ffmpeg is missing; the message contains the
            install command.

    Example::

        frames = [np.full((64, 64, 3), 5 * i, np.uint8) for i in range(50)]
        write_video(frames, Path("gray.gif"), fps=25)
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
