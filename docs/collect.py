"""Collect finished runs in docs/results/NAME.json, and update the result pages.

::

    python docs/collect.py navigation MAML=runs/maml-0,runs/maml-1 Oracle=runs/oracle-0

For each run, a row uses the newest evaluation of the last evaluated checkpoint (with
``METHOD@0=...``, of checkpoint 0) that follows the protocol. The key "protocol" of NAME.json
contains the allowed values of each field and defaults to :data:`PROTOCOL`. The selected
evaluations are printed.
"""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np


sys.path.insert(0, str(Path(__file__).parent))

import results

from metarl.commands.comparison import task_values
from metarl.runs.folder import Run
from metarl.runs.records import protocol
from metarl.util.statistics import bootstrap95, interquartile_mean, interval95


# Finn et al. 2017: three steps (zero for the oracle) on 40 tasks sampled with seed 1.
PROTOCOL = {"num_tasks": [40], "episodes_per_task": [40], "seed": [1], "inner_steps": [0, 3]}
OF_IMAGES_AND_TEXT = ("num_queries", "transductive", "test_steps", "accuracies")


def collect(name: str, groups: list[str]) -> None:
    """Write rows of docs/results/NAME.json, each for a group of runs with different seeds.

    Rows of other methods and the order of existing rows are kept.
    """
    path = results.SOURCES / f"{name}.json"
    known = json.loads(path.read_text()) if path.exists() else {}
    known.setdefault("protocol", PROTOCOL)
    found = [_row(*group.split("="), accepted=known["protocol"]) for group in groups]
    rows = {row["method"]: row for row in [*known.get("rows", []), *found]}
    known["rows"] = list(rows.values())
    known["collected"] = date.today().isoformat()
    path.write_text(json.dumps(known, indent=1, ensure_ascii=False) + "\n")


def _row(method: str, folders: str, *, accepted: dict[str, list[int]]) -> dict[str, Any]:
    """Return the row of one method; ``METHOD@0=...`` selects the evaluation of checkpoint 0."""
    label, _, iteration = method.partition("@")
    runs = [Run.open(Path(folder)) for folder in folders.split(",")]
    chosen = [_evaluation(run, int(iteration) if iteration else None, accepted) for run in runs]
    for run, taken in zip(runs, chosen, strict=True):
        print(f"{label}: {run.folder}, iteration {taken['iteration']}, {protocol(taken)}, "
              f"step size {taken['inner_lr']:g}")  # fmt: skip
    if any(protocol(taken) != protocol(chosen[0]) for taken in chosen):
        raise ValueError(f"the evaluations of {label} do not follow one protocol; evaluate again")
    last = chosen[0]["iteration"]
    histories = [[e for e in run.metrics() if e["iteration"] <= last] for run in runs]
    for run, history in zip(runs, histories, strict=True):
        lines = [entry["iteration"] for entry in history]
        if lines != sorted(set(lines)):
            raise ValueError(f"the lines of {run.folder}/metrics.jsonl are not in order")
    about = [run.read_config() for run in runs]
    means = np.array([evaluation["mean"] for evaluation in chosen])
    return {
        "method": label,
        "train": about[0]["command"],
        "evaluate": chosen[0]["command"],
        "seeds": [entry["config"]["seed"] for entry in about],
        "iterations": chosen[0]["iteration"],
        "env_steps": [sum(entry.get("env/steps", 0) for entry in history) for history in histories],
        "seconds": [round(_seconds(history)) for history in histories],
        "inner_lr": [evaluation["inner_lr"] for evaluation in chosen],
        "measure": chosen[0].get("measure", "return"),
        **{name: chosen[0][name] for name in OF_IMAGES_AND_TEXT if name in chosen[0]},
        "returns": means.tolist(),
        "interval95_tasks": [evaluation["interval95"] for evaluation in chosen],
        "mean": means.mean(0).tolist(),
        "interval95_seeds": interval95(means).tolist(),
        **_interquartile(chosen),
        "versions": about[0]["versions"],
    }


def _interquartile(chosen: list[dict[str, Any]]) -> dict[str, Any]:
    """Return the interquartile mean over tasks and seeds with its interval, if tasks are known."""
    values = task_values({"": chosen}, chosen[0].get("measure", "return")).get("")
    if values is None:
        return {}
    middle = interquartile_mean(values.reshape(-1, values.shape[-1]))
    return {"iqm": middle.tolist(), "iqm_interval95": bootstrap95(values).T.tolist()}


def _evaluation(run: Run, iteration: int | None, accepted: dict[str, list[int]]) -> dict[str, Any]:
    """Return the newest evaluation of a run that follows the protocol."""
    found = [
        entry
        for entry in run.evaluations()
        if all(protocol(entry).get(name) in values for name, values in accepted.items())
        and iteration in (None, entry["iteration"])
    ]
    if not found:
        wanted = "" if iteration is None else f" at iteration {iteration}"
        raise ValueError(f"{run.folder} has no evaluation{wanted} of the protocol {accepted}")
    return max(found, key=lambda entry: int(entry["iteration"]))


def _seconds(history: list[dict[str, float]]) -> float:
    """Return the wall time of a run in hours; a line contains the mean since the previous line."""
    total, before = 0.0, 0.0
    for entry in history:
        each = sum(value for name, value in entry.items() if name.startswith("time/"))
        total += each * (entry["iteration"] - before)
        before = entry["iteration"]
    return total


if __name__ == "__main__":
    collect(sys.argv[1], sys.argv[2:])
    results.main(["table"])
