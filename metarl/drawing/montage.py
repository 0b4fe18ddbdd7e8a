"""Videos and image strips of recorded episodes before and after adaptation."""

import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.drawing.recording import Pace, Recording
from metarl.drawing.video import SUFFIXES, write_video
from metarl.util import optional, replacing


WIDTH = 480  # width of a panel in pixels
MARGIN = 16  # space between panels in pixels
HOLD = 1.5  # seconds that a video shows the last frame
INK, FAINT = "#202124", "#80868b"
HEADING, CAPTION = 46, 34  # heights in pixels
COLUMNS = 5  # number of frames in a row of an image strip


class Shot(NamedTuple):
    """A recorded episode with a label and the mean return of the policy.

    Attributes:
        label: Caption of the episode, such as ``"after 1 step"``.
        mean_return: Mean return of the policy, which may be measured on additional episodes.
        recording: The recorded episode.
    """

    label: str
    mean_return: float
    recording: Recording


def headline(env_id: str, task: dict[str, Any]) -> str:
    """Return a title of at most 72 characters with the environment and the task.

    Args:
        env_id: Gymnasium ID of the environment.
        task: Task description, see :class:`metarl.envs.base.TaskEnv`; numbers
            are rounded to three significant digits.

    Example::

        headline("metarl/Navigation2D-v0", {"goal": [0.3, -0.4]})
        # "Navigation2D-v0, goal (0.3, -0.4)"
    """
    words = f"{env_id.rpartition('/')[2]}, {task_words(task)}"
    return textwrap.shorten(words, 72, placeholder=" ...")


def task_words(task: dict[str, Any]) -> str:
    """Return a task description in words, for titles.

    Args:
        task: Task description; numbers are rounded to three significant digits.

    Example::

        task_words({"goal": [0.3, -0.4]}), task_words({"direction": -1})
        # ("goal (0.3, -0.4)", "direction -1")
    """
    return ", ".join(f"{name.replace('_', ' ')} {_value_words(x)}" for name, x in task.items())


def _value_words(value: Any) -> str:
    if isinstance(value, dict):
        return task_words(value)
    if isinstance(value, list | tuple):
        return f"({', '.join(map(_value_words, value))})"
    return f"{value:.3g}" if isinstance(value, float) else str(value)


def label(steps: int) -> str:
    """Return a label for the policy after a number of inner steps.

    Args:
        steps: Number of inner steps, from 0.

    Example::

        label(0), label(2)  # ("before adaptation", "after 2 steps")
    """
    return f"after {steps} step{'s' if steps > 1 else ''}" if steps else "before adaptation"


def draw_recordings(rows: list[list[Shot]], out: Path, *, title: str, pace: Pace) -> None:
    """Draw recorded episodes as a video with one panel per episode, or as an image strip.

    Args:
        rows: Recorded episodes, one list per run, all recorded with the same `pace`.
        out: File to write. The suffixes .mp4 and .gif select a video, all others an image strip.
        title: Title above the episodes. " (half speed)" is appended for a slowed-down video.
        pace: Frame rate of the recordings, from :func:`choose_pace`.

    Raises:
        ImportError: If a required package is not installed; the message
            contains the install command.

    Example::

        frames = {time: np.full((360, 480, 3), 50 * time, np.uint8) for time in range(5)}
        shot = Shot(label(0), -4.0, Recording(frames, -np.arange(5.0)))
        draw_recordings([[shot]], Path("gray.png"), title="gray", pace=Pace(1, 30.0, 1))
    """
    if out.suffix in SUFFIXES:
        title += " (half speed)" if pace.slowdown == 2 else ""
        write_video(panel_frames(rows, title, every=pace.every), out, fps=pace.fps, hold=HOLD)
    else:
        strip_figure([shot for row in rows for shot in row], out, title)


def panel_frames(rows: list[list[Shot]], title: str, *, every: int) -> Iterator[NDArray[np.uint8]]:
    """Yield the frames of a video with one panel per episode, until the longest episode ends.

    Args:
        rows: Recorded episodes, one list per row of panels.
        title: Title above the panels.
        every: Number of time steps between two frames.

    Yields:
        Images of shape (height, width, 3), dtype uint8.
    """
    from PIL import Image, ImageDraw, ImageFont

    tall, wide = rows[0][0].recording.at(0).shape[:2]
    tall = 2 * round(tall * WIDTH / wide / 2)  # even, as video codecs require
    right, down = WIDTH + MARGIN, tall + CAPTION + MARGIN // 2
    size = MARGIN + right * max(map(len, rows)), HEADING + down * len(rows)
    large, small = ImageFont.load_default(22), ImageFont.load_default(18)
    places = [((i, j), shot) for i, row in enumerate(rows) for j, shot in enumerate(row)]
    end = max(shot.recording.length for _, shot in places)
    for time in [*range(0, end, every), end]:
        page = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(page)
        draw.text((MARGIN, HEADING // 2), title, INK, font=large, anchor="lm")
        for (row, column), shot in places:
            x, y = MARGIN + right * column, HEADING + down * row
            image = Image.fromarray(shot.recording.at(time))
            page.paste(image.resize((WIDTH, tall), Image.Resampling.LANCZOS), (x, y))
            when, total = state_text(shot.recording, time)
            y += tall + CAPTION // 2
            draw.text((x, y), shot.label, INK, font=small, anchor="lm")
            draw.text((x + WIDTH - 150, y), when, FAINT, font=small, anchor="rm")
            draw.text((x + WIDTH, y), total, INK, font=small, anchor="rm")
        yield np.asarray(page)


def state_text(recording: Recording, time: int) -> tuple[str, str]:
    """Return two captions for a frame of a recording, such as ``("step 3", "return -1.5")``.

    The second caption shows the cumulative reward up to the time step `time`. After the end of the
    episode, the captions show the length and the return of the episode.
    """
    shown = min(time, recording.length)
    when = f"step {shown}" if time <= recording.length else f"ended at step {shown}"
    return when, f"return {recording.returns[shown]:.1f}"


def strip_figure(shots: list[Shot], out: Path, title: str) -> None:
    """Draw an image with one row of evenly spaced frames per recorded episode.

    Args:
        shots: The recorded episodes, one per row.
        out: Image file to write; the suffix selects the format.
        title: Title above the rows.
    """
    plt = optional.pyplot("figures")
    moments = strip_moments(shots)
    height, width = shots[0].recording.at(0).shape[:2]
    size = (2.1 * len(moments) + 0.6, (2.1 * height / width + 0.17) * len(shots) + 0.42)
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    shape = len(shots), len(moments)
    figure, grid = plt.subplots(*shape, figsize=size, squeeze=False, subplot_kw=bare)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.02)
    for row, shot in zip(grid, shots, strict=True):
        for axes, moment in zip(row, moments, strict=True):
            axes.imshow(shot.recording.at(moment), interpolation="lanczos")
            when, total = state_text(shot.recording, moment)
            when = f" ({when})" if moment > shot.recording.length else ""
            axes.set_xlabel(total + when, fontsize=8, labelpad=2)
        row[0].set_ylabel(f"{shot.label}\nmean return {shot.mean_return:.1f}", fontsize=9)
    for axes, moment in zip(grid[0], moments, strict=True):
        axes.set_title(f"step {moment}", fontsize=9)
    figure.suptitle(optional.plain_text(title), x=0.01, ha="left", fontsize=10.5)
    with replacing(out) as temporary:
        figure.savefig(temporary, dpi=200)
    plt.close(figure)


def strip_moments(shots: list[Shot]) -> list[int]:
    """Return at most ``COLUMNS`` recorded time steps, evenly spaced over the longest episode."""
    longest = max((shot.recording for shot in shots), key=lambda recording: recording.length)
    times = np.linspace(0, longest.length, COLUMNS)
    return sorted({min(longest.frames, key=lambda step: abs(step - time)) for time in times})
