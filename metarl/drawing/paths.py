"""Pictures and videos of a policy before and after adaptation, on tasks of the plane."""

from collections.abc import Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.drawing.video import write_video
from metarl.rl.episodes import Episodes, mean_return
from metarl.util import optional


COLORS = ("#9aa0a6", "#f4a261", "#2a9d8f", "#1d3557", "#8338ec", "#e63946")


class Panel(NamedTuple):
    """What one run did on one task.

    Attributes:
        title: Heading of the panel.
        goal: Where to go.
        paths: For 0, 1, ... adaptation steps, positions (time, episode, 2); NaN after the end.
        returns: Mean return after each number of steps.
    """

    title: str
    goal: Sequence[float]
    paths: list[NDArray[np.float64]]
    returns: list[float]


def positions(batch: Episodes, task: int) -> NDArray[np.float64]:
    """Return the positions (time, episode, 2) of one task; NaN after an episode's end."""
    seen = batch.observations[task, :, :, :2].double().cpu().numpy()
    mask = batch.mask[task].cpu().numpy()
    return np.asarray(np.where(mask[..., None], seen, np.nan))


def panels(name: str, tasks: list[dict[str, Any]], batches: list[Episodes]) -> list[Panel]:
    """Make the panels of one run from its episodes after 0, 1, ... steps, one for each task."""
    return [
        Panel(
            f"{name}, goal ({task['goal'][0]:.2f}, {task['goal'][1]:.2f})",
            task["goal"],
            [positions(batch, number) for batch in batches],
            [float(mean_return(batch)[number]) for batch in batches],
        )
        for number, task in enumerate(tasks)
    ]


def _label(steps: int) -> str:
    return "before" if steps == 0 else f"after {steps} step{'s' if steps > 1 else ''}"


def _draw_plane(axes: Any, panel: Panel, limit: float) -> None:
    axes.plot(*panel.goal, "*", color="#d62828", markersize=14, zorder=5)
    axes.plot(0, 0, "o", color="black", markersize=4, zorder=5)
    axes.set(xlim=(-limit, limit), ylim=(-limit, limit), aspect="equal", xticks=[], yticks=[])


def paths_figure(rows: list[list[Panel]], out: Path, *, episodes: int = 3) -> None:
    """Draw paths: one row per run, one column per task, one color per number of steps.

    Args:
        rows: Panels; every row has the same tasks.
        out: A picture file; its suffix chooses the format.
        episodes: Episodes drawn for each number of steps.
    """
    plt = optional.pyplot("pictures")
    size = (3.1 * len(rows[0]), 3.65 * len(rows) + 0.2)
    figure, grid = plt.subplots(
        len(rows), len(rows[0]), figsize=size, squeeze=False, layout="constrained"
    )
    limit = plane_limit([panel for row in rows for panel in row], episodes)
    for axes, panel in zip(grid.flat, [p for row in rows for p in row], strict=True):
        for steps, path in enumerate(panel.paths):
            color, label = COLORS[steps % len(COLORS)], _label(steps)
            for episode in range(min(episodes, path.shape[1])):
                name = None if episode else f"{label} ({panel.returns[steps]:.1f})"
                axes.plot(*path[:, episode].T, color=color, lw=1.2, alpha=0.8, label=name)
        _draw_plane(axes, panel, limit)
        axes.set_title(panel.title, fontsize=9)
        axes.legend(
            fontsize=7.5,
            loc="upper center",
            bbox_to_anchor=(0.5, 0.0),
            ncols=2,
            frameon=False,
            handlelength=1.2,
            columnspacing=1.0,
        )
    key = "star: goal, dot: start; before and after adaptation steps, mean return in brackets"
    figure.supxlabel(key, fontsize=8)
    figure.savefig(out, dpi=150)
    plt.close(figure)


def plane_limit(panels: list[Panel], episodes: int) -> float:
    """Return half the width of a plane that shows every goal and nearly all of every path."""
    shown = [np.abs(path[:, :episodes][~np.isnan(path[:, :episodes])])
             for panel in panels for path in panel.paths]  # fmt: skip
    reach = max(float(np.quantile(values, 0.99)) for values in shown)
    goal = max(float(np.abs(panel.goal).max()) for panel in panels)
    return min(max(reach, goal) + 0.08, 1.2)


def paths_video(panels: list[Panel], out: Path, *, episodes: int = 5, fps: float = 20.0) -> None:
    """Film the points of one panel per run side by side, one plane per number of steps.

    Raises:
        ImportError: If matplotlib or imageio is missing; the message has the command.
    """
    plt = optional.pyplot("pictures")
    columns = len(panels[0].paths)
    size = (3.2 * columns, 3.6 * len(panels))
    figure, grid = plt.subplots(
        len(panels), columns, figsize=size, squeeze=False, dpi=100, layout="constrained"
    )
    moving, limit = [], plane_limit(panels, episodes)
    for row, panel in zip(grid, panels, strict=True):
        for steps, (axes, path) in enumerate(zip(row, panel.paths, strict=True)):
            _draw_plane(axes, panel, limit)
            caption = f"{_label(steps)}: return {panel.returns[steps]:.1f}"
            axes.set_title(f"{panel.title}\n{caption}", fontsize=8)
            color = COLORS[steps % len(COLORS)]
            for episode in range(min(episodes, path.shape[1])):
                (trail,) = axes.plot([], [], color=color, lw=1, alpha=0.6)
                (point,) = axes.plot([], [], "o", color=color, markersize=6)
                moving.append((trail, point, path[:, episode]))
    clock = figure.supxlabel("time step 0", fontsize=8)
    frames = []
    for time in range(len(panels[0].paths[0])):
        for trail, point, path in moving:
            valid = path[: time + 1][~np.isnan(path[: time + 1, 0])]
            trail.set_data(*valid.T)
            point.set_data(*valid[-1:].T)
        clock.set_text(f"time step {time}")
        figure.canvas.draw()
        frames.append(np.array(figure.canvas.buffer_rgba())[..., :3])
    write_video(frames, out, fps=fps)
    plt.close(figure)
