"""Tables and figures of ``metarl compare``."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any, TypeAlias

import numpy as np
from jaxtyping import Float

from metarl.drawing import figure, measure_of, performance_profiles
from metarl.runs import Run, markdown_table, measured, metrics_in
from metarl.util import (
    Table,
    bootstrap95,
    interquartile_mean,
    interval95,
    print_table,
    replacing,
    say,
)


Chosen: TypeAlias = dict[str, list[dict[str, Any]]]
"""For each method, one evaluation per run."""

MEANS = "by adaptation steps; mean ± 95 % over seeds"
IQMS = "interquartile mean over tasks and seeds, 95 % bootstrap interval"


def show(groups: dict[str, list[Run]], choose: Callable[[Run], dict[str, Any]], out: Path) -> None:
    """Print the tables of a comparison, and write table.md and the figures.

    Args:
        groups: Runs by method name.
        choose: Function that returns the evaluation of a run to show.
        out: Folder for table.md, curves.png and profiles.png. Metrics other
            than the main metric are written to curves-METRIC.png and
            profiles-METRIC.png.
    """
    chosen = {name: [choose(run) for run in members] for name, members in groups.items()}
    spent = {name: _env_steps(members) for name, members in groups.items()}
    runs = [run for members in groups.values() for run in members]
    main, *others = _shared_metrics(chosen)
    tables, figures = [], []
    for metric in (main, *others):
        suffix = "" if metric == main else f"-{metric.replace('/', '-')}"
        tables.append(means_table(chosen, metric, spent))
        if metric == main or all(f"{metric}/step_0" in run.metrics()[-1] for run in runs):
            figures.append(out / f"curves{suffix}.png")
            figure(runs, figures[-1], metric=metric, choose=lambda of: [choose(run) for run in of])
        if values := task_values(chosen, metric):
            tables.append(iqm_table(values, metric))
            figures.append(out / f"profiles{suffix}.png")
            last = {name: each[..., -1] for name, each in values.items()}
            percent = measure_of(runs[0], metric).percent
            title = f"{metric} after adaptation"
            performance_profiles(last, figures[-1], label=title, percent=percent)
    for table in tables:
        print_table(*table)
    texts = [f"{title}:\n\n{markdown_table(heads, rows)}" for title, heads, rows in tables[1:]]
    texts.insert(0, markdown_table(*tables[0][1:]))
    with replacing(out / "table.md") as temporary:
        temporary.write_text("\n\n".join(texts) + "\n")
    say(f"written to {', '.join(map(str, (out / 'table.md', *figures)))}")


def means_table(chosen: Chosen, metric: str, spent: dict[str, float]) -> Table:
    """Return a table of means over seeds, with one row per method.

    Args:
        chosen: The evaluations of each method.
        metric: Name of the metric.
        spent: Mean number of environment steps in training for each method.
    """
    rows = []
    for name, entries in chosen.items():
        means = np.array([measured(entry, metric)["mean"] for entry in entries])
        pairs = zip(means.mean(0), interval95(means), strict=True)
        cells = [f"{mean:.3g} ± {half:.2g}" for mean, half in pairs]
        rows.append([name, str(len(entries)), f"{spent[name]:.3g}", *cells])
    width = max(map(len, rows))
    padded = [row + [""] * (width - len(row)) for row in rows]
    heads = ["method", "seeds", "env steps", *(f"after {k}" for k in range(width - 3))]
    return Table(f"{metric} on test tasks, {MEANS}", heads, padded)


def iqm_table(values: dict[str, Float[np.ndarray, "runs tasks steps"]], metric: str) -> Table:
    """Return a table of interquartile means before and after adaptation, one row per method.

    Args:
        values: Results of each method; the tasks are the strata of the bootstrap.
        metric: Name of the metric.
    """
    rows = []
    for name, each in values.items():
        middle = interquartile_mean(each.reshape(-1, each.shape[-1]))
        ends = bootstrap95(each)
        cells = [f"{x:.3g} [{a:.3g}, {b:.3g}]" for x, a, b in zip(middle, *ends, strict=True)]
        before = cells[0] if len(cells) > 1 else ""  # an oracle does not adapt
        rows.append([name, str(len(each)), before, cells[-1]])
    heads = ["method", "seeds", "before adaptation", "after adaptation"]
    return Table(f"{metric} on test tasks, {IQMS}", heads, rows)


def task_values(chosen: Chosen, metric: str) -> dict[str, Float[np.ndarray, "runs tasks steps"]]:
    """Return the results of each method for every run and task.

    The dictionary is empty if an evaluation contains no results for single
    tasks, or the runs of a method were evaluated on different tasks.
    """
    found = {}
    for name, entries in chosen.items():
        same = all(entry.get("tasks") == entries[0].get("tasks") for entry in entries)
        each = [measured(entry, metric).get("values") for entry in entries]
        if not same or any(values is None for values in each):
            return {}
        found[name] = np.array(each, dtype=np.float64)
    return found


def _shared_metrics(chosen: Chosen) -> list[str]:
    """Return the metrics that all evaluations contain; the main metric comes first."""
    first, *others = [entry for entries in chosen.values() for entry in entries]
    main = first.get("measure", "return")
    shared = [m for m in metrics_in(first) if all(m in metrics_in(entry) for entry in others)]
    return [main, *(metric for metric in shared if metric in first.get("infos", {}))]


def _env_steps(runs: Sequence[Run]) -> float:
    """Return the number of environment steps in training, averaged over runs."""
    return float(np.mean([sum(e.get("env/steps", 0) for e in run.metrics()) for run in runs]))
