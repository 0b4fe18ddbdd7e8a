"""Figures and videos of paths in a plane, before and after adaptation."""

import textwrap
from collections.abc import Sequence
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray

from metarl.drawing.montage import label, task_words
from metarl.drawing.style import label_ticks, save_figure, shared_legend, styled
from metarl.drawing.video import write_video
from metarl.rl import Episodes, mean_return
from metarl.util import optional


COLORS = ("#9aa0a6", "#f4a261", "#2a9d8f", "#1d3557", "#8338ec", "#e63946")
FIGURE_EPISODES, VIDEO_EPISODES = 3, 5  # episodes drawn for each number of inner steps
TITLE = 44  # characters in a line of a panel's title


class Panel(NamedTuple):
    """The paths of one policy to one goal in the plane, before and after adaptation.

    Attributes:
        title: Title of the panel.
        goal: Position of the goal, (x, y).
        paths: Positions after 0, 1, ..., K inner steps, each of shape (time,
            episodes, 2); NaN after the end of an episode.
        returns: Mean return after 0, 1, ..., K inner steps.
    """

    title: str
    goal: Sequence[float]
    paths: list[NDArray[np.float64]]
    returns: list[float]


def panels(name: str, tasks: list[dict[str, Any]], batches: list[Episodes]) -> list[Panel]:
    """Return one panel per task, with the paths and the mean returns of a run.

    Args:
        name: Name of the run in the titles.
        tasks: Task descriptions with the key ``goal``.
        batches: Episodes after 0, 1, ..., K inner steps, with a leading task axis. The first two
            values of each observation are the position.

    Example::

        policy, generator = metarl.load("runs/quick"), torch.Generator().manual_seed(0)
        tasks = [policy.sample_task(seed=0)]
        row = panels("maml", tasks, policy.play(policy.loop(1), tasks, generator))
    """
    paths = [  # shape (tasks, time, episodes, 2)
        batch.observations[..., :2].double().where(batch.mask[..., None], torch.nan).cpu().numpy()
        for batch in batches
    ]
    found = []
    for number, task in enumerate(tasks):
        title = f"{name}, {task_words({'goal': task['goal']})}"
        returns = [float(mean_return(batch)[number]) for batch in batches]
        found.append(Panel(title, task["goal"], [path[number] for path in paths], returns))
    return found


def paths_figure(rows: list[list[Panel]], out: Path) -> None:
    """Draw an image of paths, with one row per run and one column per task.

    Colors show the number of inner steps.

    Args:
        rows: One list of panels per run, such as the results of :func:`panels`. All rows must
            have the same tasks.
        out: Image file to write; the suffix selects the format.

    Raises:
        ImportError: If matplotlib is not installed; the message contains the install command.

    Example::

        line = np.linspace(0, 1, 20).reshape(20, 1, 1) * np.ones((1, 3, 2))
        panel = Panel("diagonal", (1.0, 1.0), [0.1 * line, line], [-20.0, -10.0])
        paths_figure([[panel]], Path("paths.png"))
    """
    size = (3.1 * len(rows[0]), 3.6 * len(rows) + 0.6)
    with styled("default"):
        figure, planes = _planes(rows, FIGURE_EPISODES, figsize=size)
        for axes, panel in planes:
            for steps, path in enumerate(panel.paths):
                x, y = path[:, :FIGURE_EPISODES].transpose(2, 0, 1)
                first, *_ = axes.plot(x, y, color=COLORS[steps % len(COLORS)], lw=1.2, alpha=0.8)
                first.set_label(label(steps))
            returns = " → ".join(f"{value:.1f}" for value in panel.returns)
            axes.set_title(f"{_wrapped(panel.title)}\nreturn {returns}", fontsize=9)
        shared_legend(figure)
        save_figure(figure, out)


def paths_video(panels: list[Panel], out: Path) -> None:
    """Draw a video of moving points, with one row per run and one column per number of inner steps.

    The video shows 20 time steps per second.

    Args:
        panels: One panel per run, all with the same task and the same number of inner steps.
        out: File to write, .mp4 or .gif.

    Raises:
        ImportError: If matplotlib or imageio is not installed; the message
            contains the install command.

    Example::

        line = np.linspace(0, 1, 20).reshape(20, 1, 1) * np.ones((1, 3, 2))
        panel = Panel("diagonal", (1.0, 1.0), [0.1 * line, line], [-20.0, -10.0])
        paths_video([panel], Path("paths.gif"))
    """
    columns = len(panels[0].paths)
    size = (3.2 * columns, 3.6 * len(panels))
    figure, planes = _planes([[panel] * columns for panel in panels], VIDEO_EPISODES, figsize=size)
    moving = []
    for number, (axes, panel) in enumerate(planes):
        steps = number % columns
        caption = f"{_wrapped(panel.title)}\n{_when(steps)}: return {panel.returns[steps]:.1f}"
        axes.set_title(caption, fontsize=8)
        color = COLORS[steps % len(COLORS)]
        for path in panel.paths[steps].swapaxes(0, 1)[:VIDEO_EPISODES]:
            (trail,) = axes.plot([], [], color=color, lw=1, alpha=0.6)
            (point,) = axes.plot([], [], "o", color=color, markersize=6)
            moving.append((trail, point, path))
    clock = figure.supxlabel("time step 0", fontsize=8)

    def frame(time: int) -> NDArray[np.uint8]:
        for trail, point, path in moving:
            past = path[: time + 1][~np.isnan(path[: time + 1, 0])]
            trail.set_data(*past.T)
            point.set_data(*past[-1:].T)
        clock.set_text(f"time step {time}")
        figure.canvas.draw()
        return np.array(figure.canvas.buffer_rgba())[..., :3]

    write_video(map(frame, range(len(panels[0].paths[0]))), out, fps=20.0)


def _planes(rows: list[list[Panel]], episodes: int, **options: Any) -> tuple[Any, list[Any]]:
    """Create a figure with one pair of axes per panel, and draw the goal and the start.

    Args:
        rows: One list of panels per row of the figure.
        episodes: Number of episodes per panel from which the axis limits are computed.
        options: Further arguments of matplotlib's ``Figure``, such as ``figsize``.

    Returns:
        The figure, and a list of pairs ``(axes, panel)``.
    """
    optional.require("matplotlib", extra="plot", purpose="figures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure

    figure = Figure(layout="compressed", **options)  # for panels of equal width and height
    FigureCanvasAgg(figure)  # renders the frames of a video
    grid = figure.subplots(len(rows), len(rows[0]), squeeze=False, sharex=True, sharey=True)
    planes = list(zip(grid.flat, chain(*rows), strict=True))
    # The axes contain all goals and 99 % of the positions.
    paths = [np.abs(path[:, :episodes]) for _, panel in planes for path in panel.paths]
    reach = max(float(np.nanquantile(path, 0.99)) for path in paths)
    goal = max(float(np.abs(panel.goal).max()) for _, panel in planes)
    limit = min(max(reach, goal) + 0.08, 1.2)
    for axes, panel in planes:
        marker: dict[str, Any] = {"zorder": 5, "ls": ""}
        axes.plot(0, 0, "o", color="black", markersize=4, label="start", **marker)
        axes.plot(*panel.goal, "*", color="#d62828", markersize=11, label="goal", **marker)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="x", ylabel="y")
        axes.label_outer()
        label_ticks(axes.xaxis)
        label_ticks(axes.yaxis)
    return figure, planes


def _when(steps: int) -> str:
    return label(steps).removesuffix(" adaptation")


def _wrapped(title: str) -> str:
    """Return a title in lines that are not wider than a panel."""
    return textwrap.fill(title, TITLE)
