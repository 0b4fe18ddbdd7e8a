"""Functions to write .mp4 and .gif videos."""

from collections.abc import Iterable
from functools import partial
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from metarl.util import optional, replacing


SUFFIXES = (".mp4", ".gif")
"""Supported suffixes of video files."""


_require = partial(optional.require, extra="video", purpose="videos")


def require_video() -> None:
    """Check that the packages that are required to write videos are installed.

    Raises:
        ImportError: If Pillow, imageio or imageio-ffmpeg is missing; the
            message contains the install command.

    Example::

        require_video()  # ImportError: videos require imageio; run pip install ...
    """
    for module in ("PIL", "imageio", "imageio_ffmpeg"):
        _require(module)


def write_video(
    frames: Iterable[NDArray[np.uint8]], out: Path, *, fps: float, hold: float = 0.0
) -> None:
    """Write frames to an .mp4 or .gif file.

    Args:
        frames: Frames of the same shape (height, width, 3); a generator is
            consumed while the file is written. Frames of an .mp4 file with an
            odd height or width are rescaled.
        out: File to write; the suffix selects the format.
        fps: Frames per second; a .gif file rounds the frame duration to a multiple of 10 ms.
        hold: Additional time for which the last frame is shown, in seconds.

    Raises:
        ImportError: If Pillow, imageio or imageio-ffmpeg is missing; the
            message contains the install command.
        OSError: If the file cannot be written, for example because the disk is full.

    Example::

        frames = [np.full((64, 64, 3), 5 * i, np.uint8) for i in range(50)]
        write_video(frames, Path("gray.gif"), fps=25)
    """
    require_video()
    held = round(hold * fps)
    with replacing(out) as temporary:
        if out.suffix == ".gif":
            _write_gif(frames, temporary, fps, held)
        else:
            _write_mp4(frames, temporary, fps, held)


def _write_gif(frames: Iterable[NDArray[np.uint8]], out: Path, fps: float, held: int) -> None:
    pillow = _require("PIL.Image")
    images = [pillow.fromarray(frame).quantize(256) for frame in frames]
    options = {"duration": max(20, round(100 / fps) * 10), "loop": 0}
    others = images[1:] + images[-1:] * held
    images[0].save(out, save_all=True, append_images=others, **options)


def _write_mp4(frames: Iterable[NDArray[np.uint8]], out: Path, fps: float, held: int) -> None:
    """Write an .mp4 video that shows the last frame `held` additional times.

    The written frames are counted, because imageio ignores the encoder's
    exit status.
    """
    written = 0
    with _require("imageio.v2").get_writer(out, fps=fps, quality=7, macro_block_size=2) as writer:
        for frame in frames:
            writer.append_data(frame)
            written += 1
        for _ in range(held):
            writer.append_data(frame)
    try:
        found, _ = _require("imageio_ffmpeg").count_frames_and_secs(out)
    except RuntimeError:
        found = 0
    if found < written + held:
        raise OSError(f"the encoder wrote {found} of {written + held} frames; the disk may be full")
