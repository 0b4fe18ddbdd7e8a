"""Learning curves and adaptation curves of runs, with 95 % confidence intervals."""

import json
import re
from collections.abc import Callable, Sequence
from itertools import cycle
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.drawing.montage import label
from metarl.runs import NEUTRAL, Run, protocol
from metarl.util import interval95, optional, replacing, warn


class Measure(NamedTuple):
    """The metric that is plotted for a run, with axis labels.

    Attributes:
        text: Name of the metric on the y axis.
        key: Key in metrics.jsonl for the metric after adaptation.
        before: Key in metrics.jsonl for the metric before adaptation; None plots only one curve.
        x: Label of the x axis of the learning curve.
        log: Whether the y axis is logarithmic.
        adapting: Label of the x axis of the adaptation curve.
    """

    text: str
    key: str
    before: str | None = None
    x: str = "iterations"
    log: bool = False
    adapting: str = "adaptation steps"


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


VARIES = NEUTRAL | {"seed"}  # settings that may differ within a group of runs
FEW = 5  # largest number of groups for a legend inside the panels
BEFORE = ", before adaptation"
BESIDE: dict[str, Any] = {"loc": "center left", "bbox_to_anchor": (1, 0.5), "fontsize": 8}


def group_by_setting(runs: Sequence[Run]) -> dict[str, list[Run]]:
    """Group runs that differ only in the seed or in settings that do not affect results.

    Args:
        runs: Runs to group. :data:`metarl.runs.NEUTRAL` lists the settings that are ignored.

    Returns:
        Lists of runs by group name. The name consists of the common prefix of the folder names
        and the number of seeds, such as ``"maml (3 seeds)"``. A group with a single run is named
        like the folder of the run.
    """
    groups: dict[str, list[Run]] = {}
    for run in runs:
        about = run.read_config()
        config = {k: v for k, v in about["config"].items() if k not in VARIES}
        key = json.dumps([about["experiment"], config], sort_keys=True)
        groups.setdefault(key, []).append(run)
    return {_name(members): members for members in groups.values()}


def _name(members: list[Run]) -> str:
    """Return a name for the runs `members`, such as ``"maml (3 seeds)"``, from the folder names."""
    names = [run.folder.name for run in members]
    if len(names) == 1:
        return names[0]
    shared = commonprefix(names).rstrip("-_. ")  # noqa: RUF071 (prefix of characters)
    return f"{shared or names[0]} ({len(names)} seeds)"


def figure(
    runs: Sequence[Run],
    out: Path,
    *,
    fits: Sequence[Fit] = (),
    choose: Callable[[Sequence[Run]], list[dict[str, Any]]] | None = None,
) -> None:
    """Draw learning curves and adaptation curves of runs.

    Runs with the same settings but different seeds share a curve. Bands and error bars are 95 %
    confidence intervals over seeds. If a curve has only one run, error bars are 95 % confidence
    intervals over the test tasks, or in text classification over the sampled support sets.

    Args:
        runs: Runs to draw. All runs must have the same metric: returns, accuracies or losses.
        out: Image file to write.
        fits: Regression tasks to draw in additional panels, one panel per task.
        choose: Function that receives the runs of one curve and returns the evaluations to draw,
            at most one per run. Defaults to :func:`comparable_evaluations`.

    Raises:
        ValueError: If a run has no metrics, or the runs have different metrics.
        ImportError: If matplotlib is not installed; the message contains the install command.

    Example::

        figure([Run.open(Path("runs/quick"))], Path("curves.png"))
    """
    plt = optional.pyplot()
    measures = {_measure(run).text: run.folder for run in runs}
    if len(measures) > 1:
        each = " and ".join(f"{text} ({folder})" for text, folder in measures.items())
        raise ValueError(
            f"all runs of a figure must have the same metric, got {each}. Plot "
            "runs with different metrics separately"
        )
    measure, groups = _measure(runs[0]), group_by_setting(runs)
    few, width = len(groups) <= FEW, 2 + len(fits)
    drawn, panels = plt.subplots(1, width, figsize=(5.5 * width, 4.2))
    learning, adapting = panels[:2]
    palette = plt.get_cmap("tab10" if len(groups) <= 10 else "tab20").colors
    for (folder, members), color in zip(groups.items(), cycle(palette), strict=False):
        name = optional.plain_text(folder)
        _draw_learning(learning, name, members, color, few=few)
        _draw_adaptation(
            adapting, name, members, (choose or comparable_evaluations)(members), color
        )
    dotted = " (dotted: before adaptation)" if measure.before and not few else ""
    learning.set(xlabel=measure.x, title=f"meta-training{dotted}")
    adapting.set(xlabel=measure.adapting, title="test tasks")
    adapting.xaxis.get_major_locator().set_params(integer=True)
    for axes in (learning, adapting):
        axes.set(ylabel=measure.text, yscale="log" if measure.log else "linear")
    if not adapting.lines:
        text = "run `metarl evaluate` first"
        adapting.annotate(text, (0.5, 0.5), xycoords="axes fraction", ha="center", color="gray")
    for panel, fit in zip(panels[2:], fits, strict=True):
        _draw_fit(panel, fit)
    for axes in panels:
        axes.grid(alpha=0.25)
        if few and axes.get_legend_handles_labels()[0]:
            axes.legend(fontsize=8)
    if not few:
        drawn.legend(*learning.get_legend_handles_labels(), **BESIDE)
    drawn.tight_layout()
    with replacing(out) as temporary:
        drawn.savefig(temporary, dpi=150, bbox_inches="tight")
    plt.close(drawn)


def _measure(run: Run) -> Measure:
    """Return the metric to plot for a run, based on the last line of metrics.jsonl."""
    history = run.metrics()
    if not history:
        raise ValueError(
            f"{run.folder.name} has no metrics yet: expected at least one line in metrics.jsonl. "
            f"Train the run with `metarl resume {run.folder}`"
        )
    steps = [int(k.rpartition("_")[2]) for k in history[-1] if re.fullmatch(r"return/step_\d+", k)]
    if steps:
        last, before = f"return/step_{max(steps)}", "return/step_0" if max(steps) else None
        return Measure("mean return", last, before, "environment steps")
    if run.read_config()["experiment"] == "text":
        shots = "support sentences of each class"
        return Measure("accuracy on sentences", "query/accuracy", adapting=shots)
    if "query/accuracy" in history[-1]:
        return Measure("accuracy", "query/accuracy")
    return Measure("loss", "query/loss", log=True)


def _draw_learning(axes: Any, name: str, members: list[Run], color: Any, *, few: bool) -> None:
    measure = _measure(members[0])
    histories = [run.metrics() for run in members]
    histories = [history[: min(map(len, histories))] for history in histories]
    x = _column(members[0], histories[0], "iteration")
    if "env/steps" in histories[0][0]:
        x = np.cumsum(_column(members[0], histories[0], "env/steps"))
    before = f"{name}{BEFORE}" if few else None  # None omits the legend entry
    for key, text, style in ((measure.before, before, ":"), (measure.key, name, "-")):
        if key is not None:
            pairs = zip(members, histories, strict=True)
            values = np.stack([_column(run, history, key) for run, history in pairs])
            mean, half = values.mean(0), interval95(values)
            axes.plot(x, mean, style, color=color, label=text, lw=1.5)
            axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, lw=0)


def _column(run: Run, history: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """Return the metric `key` of a run in all entries of `history`, as an array (entries,)."""
    if missing := [entry["iteration"] for entry in history if key not in entry]:
        path = run.folder / "metrics.jsonl"
        raise ValueError(
            f"{path} has no metric {key} in iteration {missing[0]}. Restore the file from a backup"
        )
    return np.array([entry[key] for entry in history], dtype=np.float64)


def _draw_fit(axes: Any, fit: Fit) -> None:
    axes.plot(fit.x, fit.truth, color="gray", lw=3, alpha=0.4, label="task")
    steps = sorted(fit.curves)
    for step, shade in zip(steps, np.linspace(0.35, 1.0, len(steps)), strict=True):
        color = "C0" if step else "C1"
        axes.plot(fit.x, fit.curves[step], color=color, alpha=shade, label=label(step))
    axes.plot(*fit.support, "k^", ms=6, label="support")
    axes.set(xlabel="x", ylabel="y", title=fit.title)


def _draw_adaptation(
    axes: Any, name: str, members: list[Run], newest: list[dict[str, Any]], color: Any
) -> None:
    if not newest:
        return
    if len(newest) < len(members):
        warn(
            f"{name}: {len(members) - len(newest)} of {len(members)} runs have no comparable "
            "evaluation and are omitted. Evaluate all runs with the same settings"
        )
    if "accuracies" in newest[0]:
        _draw_shots(axes, name, newest, color)
        return
    values = np.array([entry["mean"] for entry in newest])
    half = interval95(values) if len(newest) > 1 else np.array(newest[0]["interval95"])
    steps = np.arange(values.shape[1])
    if len(steps) == 1:  # an oracle does not adapt, so its return is drawn as a line
        axes.axhline(values.mean(), color=color, ls="--", label=name)
        return
    axes.errorbar(steps, values.mean(0), half, color=color, marker="o", capsize=3, label=name)


def _draw_shots(axes: Any, name: str, entries: list[dict[str, Any]], color: Any) -> None:
    """Plot the accuracy, averaged over tasks and over `entries`, against the number of shots."""
    tables = [list(entry["accuracies"].values()) for entry in entries]  # one item per task
    shots = list(tables[0][0])
    # shape (runs, shots, support samples, 2): accuracy before and after adaptation
    values = np.array([[np.mean([of[n] for of in table], 0) for n in shots] for table in tables])
    values = values.mean(2) if len(entries) > 1 else values[0].swapaxes(0, 1)
    ends = [(1, "o-", name), (0, "o:", f"{name}{BEFORE}")]
    for end, style, text in ends if entries[0]["test_steps"] else ends[:1]:
        mean, half = values[..., end].mean(0), interval95(values[..., end])
        options = {"fmt": style, "color": color, "capsize": 3, "label": text}
        axes.errorbar([*map(int, shots)], mean, half, **options)


def comparable_evaluations(runs: Sequence[Run]) -> list[dict[str, Any]]:
    """Return one evaluation per run, such that all evaluations have the same protocol.

    Args:
        runs: Runs to compare. Runs without a comparable evaluation are omitted.

    Returns:
        For each run, the newest evaluation of the last evaluated checkpoint. The first run with an
        evaluation determines the protocol; see :func:`metarl.runs.protocol`.

    Example::

        runs = [Run.open(Path("runs/maml")), Run.open(Path("runs/reptile"))]
        [entry["mean"] for entry in comparable_evaluations(runs)]  # one list of means per run
    """
    latest: list[dict[str, Any]] = []
    for run in runs:
        found = [e for e in run.evaluations() if not latest or protocol(e) == protocol(latest[0])]
        if found:
            latest.append(max(found, key=lambda entry: int(entry["iteration"])))
    return latest
