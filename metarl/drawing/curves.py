"""Learning curves and adaptation curves of runs, with 95 % confidence intervals."""

from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.drawing.measures import Measure, measure_of
from metarl.drawing.montage import label
from metarl.drawing.series import (
    TESTING,
    TRAINING,
    Curve,
    adaptation_curves,
    comparable_evaluations,
    group_by_setting,
    learning_curves,
    write_curves,
)
from metarl.drawing.style import (
    PANEL,
    Style,
    label_ticks,
    legend_height,
    save_figure,
    shared_legend,
    styled,
)
from metarl.runs import Run
from metarl.util import optional


class Fit(NamedTuple):
    """A regression task with one input, and the predictions of a model before and after adaptation.

    Attributes:
        title: Title of the panel.
        x: Inputs at which the functions are drawn, of shape (n,).
        truth: Values of the true function at `x`, of shape (n,).
        support: Inputs and targets of the support points, two arrays of shape (shots,).
        curves: Predictions of the model at `x`, as a dictionary from the number of inner steps to
            an array of shape (n,).

    Example::

        x = np.linspace(-5, 5, 100)
        Fit("sine", x, np.sin(x), (x[::20], np.sin(x[::20])), {0: 0 * x, 1: 0.9 * np.sin(x)})
    """

    title: str
    x: NDArray[np.float64]
    truth: NDArray[np.float64]
    support: tuple[NDArray[np.float64], NDArray[np.float64]]
    curves: dict[int, NDArray[np.float64]]


BEFORE = label(0)
STEPS = "environment steps used for adaptation"


def figure(
    runs: Sequence[Run],
    out: Path,
    *,
    metric: str | None = None,
    fits: Sequence[Fit] = (),
    choose: Callable[[Sequence[Run]], list[dict[str, Any]]] | None = None,
    labels: Sequence[str] = (),
    size: tuple[float, float] | None = None,
    style: Style = "default",
    table: Path | None = None,
) -> None:
    """Draw learning curves and adaptation curves of runs.

    Runs with the same settings but different seeds share a curve. Bands and error bars are 95 %
    confidence intervals over seeds. If a curve has only one run, error bars are 95 % confidence
    intervals over the test tasks, or in text classification over the sampled support sets.

    Args:
        runs: Runs to draw. All runs must have the same metric: returns, accuracies or losses.
        out: Image file to write; the suffix selects the format, such as .png, .pdf or .svg.
        metric: Name of the metric, such as ``"success"`` for an entry of the
            infos or ``"loss"``. Defaults to the return, the accuracy or the loss.
        fits: Regression tasks to draw in additional panels, one panel per task.
        choose: Function that receives the runs of one curve and returns the evaluations to draw,
            at most one per run. Defaults to :func:`comparable_evaluations`.
        labels: Names of the curves in the legend, in the order of the first run of each curve.
            Defaults to the names of the run folders.
        size: Width and height of the figure in inches. Defaults to a size that depends on the
            style and on the number of panels.
        style: ``"default"``, or ``"paper"`` for small serif text and no grid.
        table: CSV file to write with the points of the curves. None writes no file.

    Raises:
        ValueError: If a run has no metrics, the runs have different metrics, or the number of
            labels differs from the number of curves.
        ImportError: If matplotlib is not installed; the message contains the install command.

    Example::

        figure([Run.open(Path("runs/quick"))], Path("curves.png"))
    """
    measure = _shared_measure(runs, metric)
    groups = _named(group_by_setting(runs), labels)
    chosen = [(choose or comparable_evaluations)(members) for members in groups.values()]
    spent = _spent(entry for entries in chosen for entry in entries)
    drawn = []
    for (name, members), entries in zip(groups.items(), chosen, strict=True):
        drawn += learning_curves(name, members, measure.metric)
        drawn += adaptation_curves(name, members, entries, measure.metric, spent=spent)
    adapting = STEPS if spent else measure.adapting
    with styled(style):
        sizes = size or _default_size(style, 2 + len(fits), list(groups))
        canvas, panels = optional.pyplot().subplots(
            1, 2 + len(fits), figsize=sizes, layout="constrained"
        )
        for axes, title, x in zip(panels, (TRAINING, TESTING), (measure.x, adapting), strict=False):
            _draw_panel(axes, [c for c in drawn if c.panel == title], list(groups), measure)
            axes.set(title=title, xlabel=x, ylabel=measure.text)
        for axes, fit in zip(panels[2:], fits, strict=True):
            _draw_fit(axes, fit)
        shared_legend(canvas)
        save_figure(canvas, out)
    if table is not None:
        write_curves(drawn, table)


def _shared_measure(runs: Sequence[Run], metric: str | None) -> Measure:
    """Return the metric of the figure, which all runs must have."""
    measures = {measure_of(run, metric).text: run.folder for run in runs}
    if len(measures) > 1:
        each = " and ".join(f"{text} ({folder})" for text, folder in measures.items())
        raise ValueError(
            f"all runs of a figure must have the same metric, got {each}. Plot "
            "runs with different metrics separately"
        )
    return measure_of(runs[0], metric)


def _named(groups: dict[str, list[Run]], labels: Sequence[str]) -> dict[str, list[Run]]:
    """Return the groups with `labels` as names, if there are any."""
    if labels and (len(labels) != len(groups) or len({*labels}) < len(labels)):
        raise ValueError(
            f"`labels` must contain one distinct name per curve: expected {len(groups)} for "
            f"{', '.join(groups)}, got {', '.join(labels)}. Runs are averaged if only their seeds "
            "differ"
        )
    names = list(labels) or list(groups)
    return dict(zip(names, groups.values(), strict=True))


def _default_size(style: Style, panels: int, names: list[str]) -> tuple[float, float]:
    width, height = panels * PANEL[style][0], PANEL[style][1]
    return width, height + legend_height(names, width)


def _draw_panel(axes: Any, curves: list[Curve], names: list[str], measure: Measure) -> None:
    """Draw the curves of one panel: dotted before adaptation, with one color per name."""
    colors = dict(zip(names, cycle(_palette(len(names))), strict=False))
    training = any(curve.panel == TRAINING for curve in curves)
    for name, adapted, x, mean, half in (curve[1:] for curve in curves):
        look: dict[str, Any] = {
            "color": colors[name],
            "label": optional.plain_text(name) if adapted else None,
        }
        if training:
            axes.plot(x, mean, "-" if adapted else ":", **look)
            axes.fill_between(x, mean - half, mean + half, color=look["color"], alpha=0.2, lw=0)
        elif len(x) == 1:  # an oracle does not adapt, so its return is drawn as a line
            axes.axhline(mean[0], ls="--", **look)
        else:
            axes.errorbar(x, mean, half, fmt="o-" if adapted else "o:", capsize=3, **look)
    if not all(curve.adapted for curve in curves):
        axes.plot([], [], ":", color="gray", label=BEFORE)
    if not curves:
        text = "run `metarl evaluate` first"
        axes.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", color="gray")
    axes.set_yscale("log" if measure.log else "linear")
    axes.xaxis.get_major_locator().set_params(integer=True)
    label_ticks(axes.xaxis)
    label_ticks(axes.yaxis, percent=measure.percent, log=measure.log)


def _palette(size: int) -> Any:
    """Return at least 10 colors, or 20 for more than 10 curves."""
    return optional.pyplot().get_cmap("tab10" if size <= 10 else "tab20").colors


def _draw_fit(axes: Any, fit: Fit) -> None:
    axes.plot(fit.x, fit.truth, color="gray", lw=3, alpha=0.4, label="true function")
    steps = sorted(fit.curves)
    for step, shade in zip(steps, np.linspace(0.35, 1.0, len(steps)), strict=True):
        look = {"color": "C2", "alpha": shade} if step else {"color": "gray", "ls": ":"}
        axes.plot(fit.x, fit.curves[step], label=label(step), **look)
    axes.plot(*fit.support, "k^", ms=6, label="support points")
    axes.set(xlabel="x", ylabel="y", title=fit.title)


def _spent(entries: Iterable[dict[str, Any]]) -> bool:
    """Return whether evaluations differ in the environment steps of one adaptation step.

    Policies of RL² adapt after every episode, and gradients use a batch of episodes.
    """
    steps = [entry.get("adaptation_steps", [0]) for entry in entries]
    return len({each[1] for each in steps if len(each) > 1}) > 1
