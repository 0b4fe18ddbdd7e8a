"""Learning curves and adaptation curves of runs, with 95 % confidence intervals."""

import json
from collections.abc import Callable, Iterable, Sequence
from itertools import cycle
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.drawing.measures import Measure, column, measure_of
from metarl.drawing.montage import label
from metarl.runs import NEUTRAL, Run, measured, metrics_in, protocol
from metarl.util import interval95, optional, replacing, warn


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
STEPS = "environment steps used for adaptation"
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
    metric: str | None = None,
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
        metric: Name of the metric, such as ``"success"`` for an entry of the
            infos or ``"loss"``. Defaults to the return, the accuracy or the loss.
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
    measures = {measure_of(run, metric).text: run.folder for run in runs}
    if len(measures) > 1:
        each = " and ".join(f"{text} ({folder})" for text, folder in measures.items())
        raise ValueError(
            f"all runs of a figure must have the same metric, got {each}. Plot "
            "runs with different metrics separately"
        )
    measure, groups = measure_of(runs[0], metric), group_by_setting(runs)
    few, width = len(groups) <= FEW, 2 + len(fits)
    drawn, panels = plt.subplots(1, width, figsize=(5.5 * width, 4.2))
    learning, adapting = panels[:2]
    palette = plt.get_cmap("tab10" if len(groups) <= 10 else "tab20").colors
    chosen = {name: (choose or comparable_evaluations)(each) for name, each in groups.items()}
    spent = _spent(entry for entries in chosen.values() for entry in entries)
    for (folder, members), color in zip(groups.items(), cycle(palette), strict=False):
        name = optional.plain_text(folder)
        _draw_learning(learning, name, members, color, measure.metric, few=few)
        _draw_adaptation(adapting, name, members, chosen[folder], color, measure.metric, spent)
    dotted = " (dotted: before adaptation)" if measure.before and not few else ""
    learning.set(xlabel=measure.x, title=f"meta-training{dotted}")
    adapting.set(xlabel=STEPS if spent else measure.adapting, title="test tasks")
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


def _draw_learning(
    axes: Any, name: str, members: list[Run], color: Any, metric: str, *, few: bool
) -> None:
    measure: Measure = measure_of(members[0], metric)
    histories = [run.metrics() for run in members]
    histories = [history[: min(map(len, histories))] for history in histories]
    x = column(members[0], histories[0], "iteration")
    if "env/steps" in histories[0][0]:
        x = np.cumsum(column(members[0], histories[0], "env/steps"))
    before = f"{name}{BEFORE}" if few else None  # None omits the legend entry
    for key, text, style in ((measure.before, before, ":"), (measure.key, name, "-")):
        if key is not None:
            pairs = zip(members, histories, strict=True)
            values = np.stack([column(run, history, key) for run, history in pairs])
            mean, half = values.mean(0), interval95(values)
            axes.plot(x, mean, style, color=color, label=text, lw=1.5)
            axes.fill_between(x, mean - half, mean + half, color=color, alpha=0.2, lw=0)


def _draw_fit(axes: Any, fit: Fit) -> None:
    axes.plot(fit.x, fit.truth, color="gray", lw=3, alpha=0.4, label="task")
    steps = sorted(fit.curves)
    for step, shade in zip(steps, np.linspace(0.35, 1.0, len(steps)), strict=True):
        color = "C0" if step else "C1"
        axes.plot(fit.x, fit.curves[step], color=color, alpha=shade, label=label(step))
    axes.plot(*fit.support, "k^", ms=6, label="support")
    axes.set(xlabel="x", ylabel="y", title=fit.title)


def _spent(entries: Iterable[dict[str, Any]]) -> bool:
    """Return whether evaluations differ in the environment steps of one adaptation step.

    Policies of RL² adapt after every episode, and gradients use a batch of episodes.
    """
    steps = [entry.get("adaptation_steps", [0]) for entry in entries]
    return len({each[1] for each in steps if len(each) > 1}) > 1


def _draw_adaptation(
    axes: Any,
    name: str,
    members: list[Run],
    chosen: list[dict[str, Any]],
    color: Any,
    metric: str,
    spent: bool,
) -> None:
    """Plot a metric against adaptation steps or, if `spent` is set, against environment steps."""
    newest = [entry for entry in chosen if metric in metrics_in(entry)]
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
    results = [measured(entry, metric) for entry in newest]
    values = np.array([result["mean"] for result in results])
    half = interval95(values) if len(newest) > 1 else np.array(results[0]["interval95"])
    steps = np.array(newest[0]["adaptation_steps"]) if spent else np.arange(values.shape[1])
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
