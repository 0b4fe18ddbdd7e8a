"""Films of an episode before and after adaptation, side by side: as a video, or as a strip."""

import json
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.drawing.recording import Film, Pace
from metarl.drawing.video import SUFFIXES, write_video
from metarl.util import optional


WIDTH = 480  # of a panel
MARGIN = 16
HOLD = 1.5  # seconds that the end stays
INK, FAINT = "#202124", "#80868b"
HEADING, CAPTION = 46, 34  # their heights
COLUMNS = 5


class Shot(NamedTuple):
    """A film and what it shows.

    Attributes:
        label: Such as "after 1 step".
        mean_return: Of the many episodes of this policy from which it adapts or is evaluated.
        film: One more episode.
    """

    label: str
    mean_return: float
    film: Film


def headline(env_id: str, task: dict[str, Any]) -> str:
    """Name an environment and a task in at most 72 characters, numbers rounded to three digits.

    Args:
        env_id: A Gymnasium id.
        task: A task description, see :class:`metarl.envs.base.TaskEnv`.
    """
    rounded = json.loads(json.dumps(task), parse_float=lambda digits: f"{float(digits):.3g}")
    values = ", ".join(f"{name} {value}" for name, value in rounded.items()).replace("'", "")
    return textwrap.shorten(f"{env_id.rpartition('/')[2]}, {values}", 72, placeholder=" ...")


def label(steps: int) -> str:
    """Say how many inner steps a policy or a model has taken.

    Args:
        steps: Their number, from 0.

    Returns:
        Such as "before adaptation" or "after 2 steps".
    """
    return f"after {steps} step{'s' if steps > 1 else ''}" if steps else "before adaptation"


def draw_films(rows: list[list[Shot]], out: Path, *, title: str, pace: Pace) -> None:
    """Draw films as the suffix of `out` says: side by side as a video, or as a strip.

    Args:
        rows: The films, one row per run, recorded at the same pace.
        out: A picture, .mp4 or .gif.
        title: Heading.
        pace: Of :func:`metarl.drawing.recording.choose_pace`.

    Raises:
        ImportError: If a package is missing; the message has the command.
    """
    if out.suffix in SUFFIXES:
        title += " (half speed)" if pace.slowdown == 2 else ""
        write_video(panel_frames(rows, title, every=pace.every), out, fps=pace.fps, hold=HOLD)
    else:
        strip_figure([shot for row in rows for shot in row], out, title)


def panel_frames(rows: list[list[Shot]], title: str, *, every: int) -> Iterator[NDArray[np.uint8]]:
    """Compose the frames of a video, one by one, until the longest episode has ended."""
    from PIL import Image, ImageDraw, ImageFont

    tall, wide = rows[0][0].film.at(0).shape[:2]
    tall = 2 * round(tall * WIDTH / wide / 2)  # even, as videos need
    right, down = WIDTH + MARGIN, tall + CAPTION + MARGIN // 2
    size = MARGIN + right * max(map(len, rows)), HEADING + down * len(rows)
    large, small = ImageFont.load_default(22), ImageFont.load_default(18)
    places = [((i, j), shot) for i, row in enumerate(rows) for j, shot in enumerate(row)]
    end = max(shot.film.length for _, shot in places)
    for time in [*range(0, end, every), end]:
        page = Image.new("RGB", size, "white")
        draw = ImageDraw.Draw(page)
        draw.text((MARGIN, HEADING // 2), title, INK, font=large, anchor="lm")
        for (row, column), shot in places:
            x, y = MARGIN + right * column, HEADING + down * row
            image = Image.fromarray(shot.film.at(time))
            page.paste(image.resize((WIDTH, tall), Image.Resampling.LANCZOS), (x, y))
            when, total = state_text(shot.film, time)
            y += tall + CAPTION // 2
            draw.text((x, y), shot.label, INK, font=small, anchor="lm")
            draw.text((x + WIDTH - 150, y), when, FAINT, font=small, anchor="rm")
            draw.text((x + WIDTH, y), total, INK, font=small, anchor="rm")
        yield np.asarray(page)


def state_text(film: Film, time: int) -> tuple[str, str]:
    """Say when and with which return an episode is at a time, or was when it ended before."""
    shown = min(time, film.length)
    when = f"step {shown}" if time <= film.length else f"ended at step {shown}"
    return when, f"return {film.returns[shown]:.1f}"


def strip_figure(shots: list[Shot], out: Path, title: str) -> None:
    """Draw films as rows of evenly spaced moments.

    Args:
        shots: The films.
        out: A picture file; its suffix chooses the format.
        title: Heading.
    """
    plt = optional.pyplot("pictures")
    moments = strip_moments(shots)
    height, width = shots[0].film.at(0).shape[:2]
    size = (2.1 * len(moments) + 0.6, (2.1 * height / width + 0.17) * len(shots) + 0.42)
    bare = {"xticks": [], "yticks": [], "frame_on": False}
    shape = len(shots), len(moments)
    figure, grid = plt.subplots(*shape, figsize=size, squeeze=False, subplot_kw=bare)
    figure.set_layout_engine("constrained", w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.02)
    for row, shot in zip(grid, shots, strict=True):
        for axes, moment in zip(row, moments, strict=True):
            axes.imshow(shot.film.at(moment), interpolation="lanczos")
            when, total = state_text(shot.film, moment)
            when = f" ({when})" if moment > shot.film.length else ""
            axes.set_xlabel(total + when, fontsize=8, labelpad=2)
        row[0].set_ylabel(f"{shot.label}\nmean return {shot.mean_return:.1f}", fontsize=9)
    for axes, moment in zip(grid[0], moments, strict=True):
        axes.set_title(f"step {moment}", fontsize=9)
    figure.suptitle(optional.plain_text(title), x=0.01, ha="left", fontsize=10.5)
    figure.savefig(out, dpi=200)
    plt.close(figure)


def strip_moments(shots: list[Shot]) -> list[int]:
    """Return evenly spaced times at which the longest film has a frame, from start to end."""
    longest = max((shot.film for shot in shots), key=lambda film: film.length)
    wanted = np.linspace(0, longest.length, COLUMNS)
    return sorted({min(longest.frames, key=lambda taken: abs(taken - time)) for time in wanted})
