"""The metric of a figure: keys in metrics.jsonl and in evaluations, and labels of the axes."""

import re
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray

from metarl.runs import Run


class Measure(NamedTuple):
    """The metric that is plotted for a run, with axis labels.

    Attributes:
        text: Name of the metric on the y axis.
        key: Key in metrics.jsonl for the metric after adaptation.
        before: Key in metrics.jsonl for the metric before adaptation; None plots only one curve.
        x: Label of the x axis of the learning curve.
        log: Whether the y axis is logarithmic.
        adapting: Label of the x axis of the adaptation curve.
        metric: Name of the metric in evaluations, such as ``"return"``.
    """

    text: str
    key: str
    before: str | None = None
    x: str = "iteration"
    log: bool = False
    adapting: str = "adaptation steps"
    metric: str = "return"

    @property
    def percent(self) -> bool:
        """Whether the metric is a fraction, which figures show in percent."""
        return self.metric == "accuracy" or "success" in self.metric


def measure_of(run: Run, metric: str | None = None) -> Measure:
    """Return the metric to plot for a run, based on the last line of metrics.jsonl.

    Args:
        run: The run.
        metric: Name of the metric, such as ``"success"`` or ``"loss"``. None
            selects the return, the accuracy or the loss.

    Raises:
        ValueError: If the run has no metrics, or does not have this metric.
    """
    history = run.metrics()
    if not history:
        raise ValueError(
            f"{run.folder.name} has no metrics yet. Train it with `metarl resume {run.folder}`"
        )
    found = _measures(run, history[-1])
    chosen = found.get(metric or next(iter(found)))
    if chosen is None:
        raise ValueError(
            f"`metric` must be a metric of {run.folder}: expected one of {', '.join(found)}, got "
            f"{metric}. Entries of the infos are collected by `metarl train ... --info NAME`"
        )
    return chosen


def _measures(run: Run, last: dict[str, Any]) -> dict[str, Measure]:
    """Return the metrics that can be plotted by name; the first one is the default."""
    matches = [re.fullmatch(r"(.+)/step_(\d+)", key) for key in last]
    steps: dict[str, int] = {}
    for name, step in (match.groups() for match in matches if match):
        steps[name] = max(steps.get(name, 0), int(step))
    if "return" in steps:
        return {name: _by_step(name, most) for name, most in steps.items()}
    shots = "support sentences of each class"
    text = run.read_config()["experiment"] == "text"
    of_text = Measure("accuracy on sentences", "query/accuracy", adapting=shots, metric="accuracy")
    accuracy = of_text if text else Measure("accuracy", "query/accuracy", metric="accuracy")
    loss = Measure("loss", "query/loss", log=True, metric="loss")
    measures = {"accuracy": accuracy, "loss": loss}
    return {name: measure for name, measure in measures.items() if measure.key in last} or {
        "loss": loss
    }


def _by_step(name: str, most: int) -> Measure:
    """Return a metric of meta-RL that is measured after 0, 1, ..., `most` inner steps."""
    text, before = "mean return" if name == "return" else name, f"{name}/step_0" if most else None
    return Measure(text, f"{name}/step_{most}", before, "environment steps", metric=name)


def column(run: Run, history: list[dict[str, Any]], key: str) -> NDArray[np.float64]:
    """Return the values of the metric `key` in all entries of `history`, of shape (entries,)."""
    if missing := [entry["iteration"] for entry in history if key not in entry]:
        path = run.folder / "metrics.jsonl"
        raise ValueError(
            f"{path} has no metric {key} in iteration {missing[0]}. Restore the file from a backup"
        )
    return np.array([entry[key] for entry in history], dtype=np.float64)
