"""Films of an episode before and after adaptation, side by side: as a video, or as a strip."""

from collections.abc import Iterator
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.drawing.film import Film, Pace
from metarl.drawing.video import SUFFIXES, write_video
from metarl.util import optional


WIDTH = 480  # of a panel
MARGIN = 16
HOLD = 1.5  # seconds that the end stays
INK, FAINT = "#202124", "#80868b"
COLUMNS = 5
MINUS = "\N{MINUS SIGN}"


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
    """Name an environment and a task, numbers rounded."""
    values = ", ".join(f"{name} {_rounded(value)}" for name, value in task.items())
    text = f"{env_id.rpartition('/')[2]}, {values}"
    return text if len(text) <= 72 else text[:70] + " ..."


def _rounded(value: Any) -> str:
    if isinstance(value, dict):
        return f"of {', '.join(map(str, value))}"
    if isinstance(value, list | tuple):
        shown = [*map(_rounded, value[:4]), *(["..."] if len(value) > 4 else [])]
        return f"({', '.join(shown)})"
    text = f"{value:.3g}" if isinstance(value, float) else f"{value}"
    return text.replace("-", MINUS)


def _signed(value: float) -> str:
    return f"{value:.1f}".replace("-", MINUS)


def label(steps: int) -> str:
    """Say how many inner steps a policy has taken."""
    return f"after {steps} step{'s' if steps > 1 else ''}" if steps else "before adaptation"


def draw_films(rows: list[list[Shot]], out: Path, *, title: str, pace: Pace) -> None:
    """Draw films as the suffix of `out` says: side by side as a video, or as a strip.

    Args:
        rows: The films, one row per run, recorded at the same pace.
        out: A picture, .mp4 or .gif.
        title: Heading.
        pace: Of :func:`metarl.drawing.film.choose_pace`.

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
    end = max(shot.film.length for row in rows for shot in row)
    for time in [*range(0, end, every), end]:
        yield _compose(rows, title, time)


def _compose(rows: list[list[Shot]], title: str, time: int) -> NDArray[np.uint8]:
    """Draw every panel at one time, each with its caption below, and the heading above."""
    from PIL import Image, ImageDraw, ImageFont

    images = [[_scaled(shot.film.at(time)) for shot in row] for row in rows]
    height, caption, heading = images[0][0].height, 34, 46
    size = (
        MARGIN + (WIDTH + MARGIN) * max(map(len, rows)),
        heading + (height + caption + MARGIN // 2) * len(rows),
    )
    page = Image.new("RGB", size, "white")
    draw = ImageDraw.Draw(page)
    large, small = ImageFont.load_default(22), ImageFont.load_default(18)
    draw.text((MARGIN, heading // 2), _plain(title), INK, font=large, anchor="lm")
    for row, shots in enumerate(rows):
        for column, shot in enumerate(shots):
            left = MARGIN + column * (WIDTH + MARGIN)
            top = heading + row * (height + caption + MARGIN // 2)
            page.paste(images[row][column], (left, top))
            middle = top + height + caption // 2
            draw.text((left, middle), shot.label, INK, font=small, anchor="lm")
            step, total = (_plain(text) for text in state_text(shot.film, time))
            draw.text((left + WIDTH - 150, middle), step, FAINT, font=small, anchor="rm")
            draw.text((left + WIDTH, middle), total, INK, font=small, anchor="rm")
    return np.asarray(page)


def state_text(film: Film, time: int) -> tuple[str, str]:
    """Say when and with which return an episode is at a time, or was when it ended before."""
    shown = min(time, film.length)
    when = f"step {shown}" if time <= film.length else f"ended at step {shown}"
    return when, f"return {_signed(film.returns[shown])}"


def _plain(text: str) -> str:
    """Write what Pillow's own font has signs for."""
    return text.replace(MINUS, "-")


def _scaled(frame: NDArray[np.uint8]) -> Any:
    from PIL import Image

    image = Image.fromarray(frame)
    return image.resize(
        (WIDTH, round(image.height * WIDTH / image.width)), Image.Resampling.LANCZOS
    )


def strip_figure(shots: list[Shot], out: Path, title: str) -> None:
    """Draw films as rows of evenly spaced moments.

    Args:
        shots: The films.
        out: A picture file; its suffix chooses the format.
        title: Heading.
    """
    plt = optional.pyplot("pictures")
    moments = strip_moments(shots)
    height, width = next(iter(shots[0].film.frames.values())).shape[:2]
    cell = 2.1 * height / width + 0.17
    figure, grid = plt.subplots(
        len(shots),
        len(moments),
        figsize=(2.1 * len(moments) + 0.6, cell * len(shots) + 0.42),
        squeeze=False,
        layout="constrained",
    )
    figure.get_layout_engine().set(w_pad=0.02, h_pad=0.02, wspace=0.01, hspace=0.02)
    for row, shot in zip(grid, shots, strict=True):
        for axes, moment in zip(row, moments, strict=True):
            axes.imshow(shot.film.at(moment), interpolation="lanczos")
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
            when, total = state_text(shot.film, moment)
            ended = moment > shot.film.length
            axes.set_xlabel(f"{total} ({when})" if ended else total, fontsize=8, labelpad=2)
        row[0].set_ylabel(f"{shot.label}\nmean return {_signed(shot.mean_return)}", fontsize=9)
    for axes, moment in zip(grid[0], moments, strict=True):
        axes.set_title(f"step {moment}", fontsize=9)
    figure.suptitle(optional.plain_text(title), x=0.01, ha="left", fontsize=10.5)
    figure.savefig(out, dpi=200)
    plt.close(figure)


def strip_moments(shots: list[Shot]) -> list[int]:
    """Return evenly spaced times at which the longest film has a frame, from start to end."""
    longest = max((shot.film for shot in shots), key=lambda film: film.length)
    taken = np.array(sorted(longest.frames))
    wanted = np.linspace(0, longest.length, COLUMNS)
    nearest = np.abs(taken[:, None] - wanted).argmin(axis=0)
    return sorted(set(taken[nearest].tolist()))
