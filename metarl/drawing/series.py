"""The curves of figures: means and 95 % confidence intervals over runs, as arrays and CSV."""

import csv
import json
from collections.abc import Sequence
from os.path import commonprefix
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from jaxtyping import Float

from metarl.drawing.measures import column, measure_of
from metarl.runs import NEUTRAL, Run, measured, metrics_in, protocol
from metarl.util import interval95, replacing, warn


VARIES = NEUTRAL | {"seed"}  # settings that may differ within a group of runs
TRAINING, TESTING = "meta-training", "test tasks"  # titles of the panels


class Curve(NamedTuple):
    """A curve of a figure.

    Attributes:
        panel: Title of the panel.
        name: Name in the legend.
        adapted: Whether the curve shows results after adaptation.
        x: Positions on the x axis.
        mean: Means over runs; over tasks for a single evaluated run.
        half: Half widths of the 95 % confidence intervals.
    """

    panel: str
    name: str
    adapted: bool
    x: Float[np.ndarray, " points"]
    mean: Float[np.ndarray, " points"]
    half: Float[np.ndarray, " points"]


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


def learning_curves(name: str, members: Sequence[Run], metric: str) -> list[Curve]:
    """Return the learning curve of runs, and the curve of the results before adaptation.

    Args:
        name: Name of the curves.
        members: Runs to average. Longer runs are cut to the length of the shortest run.
        metric: Name of the metric.
    """
    measure = measure_of(members[0], metric)
    histories = [run.metrics() for run in members]
    histories = [history[: min(map(len, histories))] for history in histories]
    x = column(members[0], histories[0], "iteration")
    if "env/steps" in histories[0][0]:
        x = np.cumsum(column(members[0], histories[0], "env/steps"))
    curves = []
    for key in (measure.before, measure.key):
        if key is not None:
            pairs = zip(members, histories, strict=True)
            values = np.stack([column(run, history, key) for run, history in pairs])
            ends = values.mean(0), interval95(values)
            curves.append(Curve(TRAINING, name, key == measure.key, x, *ends))
    return curves


def adaptation_curves(
    name: str, members: Sequence[Run], chosen: list[dict[str, Any]], metric: str, *, spent: bool
) -> list[Curve]:
    """Return the curves of evaluations against adaptation steps or the number of shots.

    Args:
        name: Name of the curves.
        members: Runs that were evaluated.
        chosen: Evaluations, at most one per run.
        metric: Name of the metric.
        spent: Whether x contains environment steps instead of adaptation steps.

    Returns:
        The curve after adaptation; for text also the curve before adaptation. The list is empty
        if no evaluation has the metric.
    """
    newest = [entry for entry in chosen if metric in metrics_in(entry)]
    if not newest:
        return []
    if len(newest) < len(members):
        warn(
            f"{name}: {len(members) - len(newest)} of {len(members)} runs have no comparable "
            "evaluation and are omitted from the results on test tasks. Evaluate all runs with the "
            "same settings"
        )
    if "accuracies" in newest[0]:
        return _by_shots(name, newest)
    results = [measured(entry, metric) for entry in newest]
    values = np.array([result["mean"] for result in results], dtype=np.float64)
    half = interval95(values) if len(newest) > 1 else np.array(results[0]["interval95"])
    x = np.array(newest[0]["adaptation_steps"]) if spent else np.arange(values.shape[1])
    return [Curve(TESTING, name, True, x.astype(np.float64), values.mean(0), half)]


def _by_shots(name: str, entries: list[dict[str, Any]]) -> list[Curve]:
    """Return accuracies, averaged over tasks and over `entries`, against the number of shots."""
    tables = [list(entry["accuracies"].values()) for entry in entries]  # one item per task
    shots = list(tables[0][0])
    # shape (runs, shots, support samples, 2): accuracy before and after adaptation
    values = np.array([[np.mean([of[n] for of in table], 0) for n in shots] for table in tables])
    values = values.mean(2) if len(entries) > 1 else values[0].swapaxes(0, 1)
    x, ends = np.array([*map(float, shots)]), (1, 0) if entries[0]["test_steps"] else (1,)
    return [
        Curve(TESTING, name, end == 1, x, values[..., end].mean(0), interval95(values[..., end]))
        for end in ends
    ]


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


def write_curves(curves: Sequence[Curve], out: Path) -> None:
    """Write curves to a CSV file, with one row per point.

    Args:
        curves: Curves of a figure.
        out: File to write. The columns are panel, curve, adapted (0 or 1), x, mean and interval95,
            the half width of the 95 % confidence interval.
    """
    with replacing(out) as temporary, temporary.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(["panel", "curve", "adapted", "x", "mean", "interval95"])
        for curve in curves:
            for point in zip(*curve[3:], strict=True):
                writer.writerow([*curve[:2], int(curve.adapted), *(f"{v:.10g}" for v in point)])
