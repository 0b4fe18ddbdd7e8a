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
from metarl.drawing.style import label_ticks, save_figure, shared_legend, styled, with_minus
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
        labels: Captions of the paths, such as "episode 1". Defaults to the number of inner steps.
    """

    title: str
    goal: Sequence[float]
    paths: list[NDArray[np.float64]]
    returns: list[float]
    labels: Sequence[str] = ()

    def caption(self, number: int) -> str:
        """Return the caption of a path by index, such as "after 1 step"."""
        return self.labels[number] if self.labels else label(number)


def panels(
    name: str,
    tasks: list[dict[str, Any]],
    batches: list[Episodes],
    *,
    labels: Sequence[str] = (),
) -> list[Panel]:
    """Return one panel per task, with the paths and the mean returns of a run.

    Args:
        name: Name of the run in the titles.
        tasks: Task descriptions with the key ``goal``.
        batches: Episodes after 0, 1, ..., K inner steps, with a leading task axis. The first two
            values of each observation are the position.
        labels: Captions of the batches. Defaults to the number of inner steps.

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
        found.append(Panel(title, task["goal"], [path[number] for path in paths], returns, labels))
    return found


def paths_figure(rows: list[list[Panel]], out: Path) -> None:
    """Draw an image of paths, with one row per run and one column per task.

    Colors show the number of inner steps, or the labels of the panels.

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
    size = (3.1 * len(rows[0]), 3.4 * len(rows) + 0.7)
    with styled("default"):
        figure, planes = _planes(rows, FIGURE_EPISODES, figsize=size)
        for axes, panel, _ in planes:
            for steps, path in enumerate(panel.paths):
                x, y = path[:, :FIGURE_EPISODES].transpose(2, 0, 1)
                first, *_ = axes.plot(x, y, color=COLORS[steps % len(COLORS)], lw=1.2, alpha=0.8)
                first.set_label(panel.caption(steps))
            returns = " → ".join(f"{value:.1f}" for value in panel.returns)
            axes.set_title(_title(panel, f"return {returns}"), fontsize=9)
        shared_legend(figure)
        save_figure(figure, out)


def paths_video(panels: list[Panel], out: Path) -> None:
    """Draw a video of moving points, with one row per run and one column per number of inner steps.

    The video shows 20 time steps per second.

    Args:
        panels: One panel per run, all with the same task.
        out: File to write, .mp4 or .gif.

    Raises:
        ImportError: If matplotlib or imageio is not installed; the message
            contains the install command.

    Example::

        line = np.linspace(0, 1, 20).reshape(20, 1, 1) * np.ones((1, 3, 2))
        panel = Panel("diagonal", (1.0, 1.0), [0.1 * line, line], [-20.0, -10.0])
        paths_video([panel], Path("paths.gif"))
    """
    rows = [[panel] * len(panel.paths) for panel in panels]
    size = (3.2 * max(map(len, rows)), 3.4 * len(rows) + 0.9)
    with styled("default"):
        figure, planes = _planes(rows, VIDEO_EPISODES, figsize=size)
        moving = []
        for axes, panel, steps in planes:
            when = panel.caption(steps).removesuffix(" adaptation")
            axes.set_title(_title(panel, f"{when}: return {panel.returns[steps]:.1f}"), fontsize=9)
            color = COLORS[steps % len(COLORS)]
            for path in panel.paths[steps].swapaxes(0, 1)[:VIDEO_EPISODES]:
                (trail,) = axes.plot([], [], color=color, lw=1, alpha=0.6)
                (point,) = axes.plot([], [], "o", color=color, markersize=6)
                moving.append((trail, point, path))
        shared_legend(figure)
        clock = figure.suptitle("time step 0", fontsize=9)

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
        rows: One list of panels per row of the figure; rows can have different lengths.
        episodes: Number of episodes per panel from which the axis limits are computed.
        options: Further arguments of matplotlib's ``Figure``, such as ``figsize``.

    Returns:
        The figure, and a list of tuples ``(axes, panel, column)``.
    """
    optional.require("matplotlib", extra="plot", purpose="figures")
    from matplotlib.backends.backend_agg import FigureCanvasAgg
    from matplotlib.figure import Figure
    from matplotlib.ticker import MaxNLocator

    figure = Figure(layout="compressed", **options)  # for panels of equal width and height
    FigureCanvasAgg(figure)  # renders the frames of a video
    shape = len(rows), max(map(len, rows))
    grid = figure.subplots(*shape, squeeze=False, sharex=True, sharey=True)
    planes = []
    for line, row in zip(grid, rows, strict=True):
        planes += list(zip(line, row, range(len(row)), strict=False))
        for axes in line[len(row) :]:
            axes.set_axis_off()
    # The axes contain all goals and 99 % of the positions.
    paths = [np.abs(path[:, :episodes]) for panel in chain(*rows) for path in panel.paths]
    reach = max(float(np.nanquantile(path, 0.99)) for path in paths)
    goal = max(float(np.abs(panel.goal).max()) for panel in chain(*rows))
    limit = min(max(reach, goal) + 0.08, 1.2)
    for axes, panel, _ in planes:
        marker: dict[str, Any] = {"zorder": 5, "ls": ""}
        axes.plot(0, 0, "o", color="black", markersize=4, label="start", **marker)
        axes.plot(*panel.goal, "*", color="#d62828", markersize=11, label="goal", **marker)
        axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xlabel="x", ylabel="y")
        axes.label_outer()
        for axis in (axes.xaxis, axes.yaxis):
            axis.set_major_locator(MaxNLocator(5))  # the same ticks on both axes
            label_ticks(axis)
    return figure, planes


def _title(panel: Panel, result: str) -> str:
    """Return the title of a panel in lines that are not wider than the panel, and a result."""
    return with_minus(f"{textwrap.fill(panel.title, TITLE)}\n{result}")
