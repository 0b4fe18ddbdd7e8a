"""The one place that writes videos."""

from collections.abc import Iterable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from metarl.util import optional


SUFFIXES = (".mp4", ".gif")


def require_video() -> None:
    """Raise ImportError, with the command to type, if a package that writes videos is missing."""
    for module in ("imageio_ffmpeg", "PIL"):
        optional.require(module, extra="video", purpose="videos")


def write_video(
    frames: Iterable[NDArray[np.uint8]], out: Path, *, fps: float, hold: float = 0.0
) -> None:
    """Write frames of one shape (height, width, 3) as an .mp4 or .gif, one at a time.

    Args:
        frames: The frames; they may be made while they are written.
        out: The file; its suffix chooses the format.
        fps: Frames a second; a .gif rounds to multiples of 10 ms a frame.
        hold: Seconds for which the last frame stays.

    Raises:
        ImportError: If imageio-ffmpeg or Pillow is missing; the message has the command.
    """
    require_video()
    lasting = _held(frames, round(hold * fps))
    if out.suffix == ".gif":
        _write_gif(lasting, out, fps)
    else:
        _write_mp4(lasting, out, fps)


def _held(frames: Iterable[NDArray[np.uint8]], extra: int) -> Iterator[NDArray[np.uint8]]:
    """Yield frames with even sides, which the codec needs, and the last of them `extra` times."""
    for frame in frames:
        height, width = frame.shape[:2]
        padding = ((0, height % 2), (0, width % 2), (0, 0))
        last = np.ascontiguousarray(np.pad(frame, padding, mode="edge"))
        yield last
    for _ in range(extra):
        yield last


def _write_mp4(frames: Iterator[NDArray[np.uint8]], out: Path, fps: float) -> None:
    import imageio_ffmpeg

    first = next(frames)
    size = first.shape[1], first.shape[0]
    writer: Any = imageio_ffmpeg.write_frames(
        str(out), size, fps=fps, quality=7, macro_block_size=2
    )
    writer.send(None)
    try:
        writer.send(first)
        for frame in frames:
            writer.send(frame)
    finally:
        writer.close()


def _write_gif(frames: Iterator[NDArray[np.uint8]], out: Path, fps: float) -> None:
    from PIL import Image

    first, *others = (Image.fromarray(frame).quantize(256) for frame in frames)
    duration = max(20, round(100 / fps) * 10)
    first.save(out, save_all=True, append_images=others, duration=duration, loop=0)
