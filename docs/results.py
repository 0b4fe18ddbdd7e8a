"""Collect finished runs in docs/results/NAME.json, and generate docs/results.md from these files.

::

    python docs/results.py collect navigation MAML=runs/maml-0,runs/maml-1 Oracle=runs/oracle-0
    python docs/results.py table
    python docs/results.py check

For each run, a row uses the newest evaluation of the last evaluated checkpoint (with
``METHOD@0=...``, of checkpoint 0) that follows the protocol. The key "protocol" of NAME.json
contains the allowed values of each field and defaults to :data:`PROTOCOL`. ``collect`` prints the
selected evaluations. ``check`` fails if docs/results.md does not match the files.
"""

import json
import sys
from datetime import date
from pathlib import Path
from typing import Any

import numpy as np

from metarl.commands.comparison import task_values
from metarl.runs.folder import Run
from metarl.runs.records import protocol
from metarl.util.statistics import bootstrap95, interquartile_mean, interval95


DOCS = Path(__file__).parent
SOURCES = DOCS / "results"
# Finn et al. 2017: three steps (zero for the oracle) on 40 tasks sampled with seed 1.
PROTOCOL = {"num_tasks": [40], "episodes_per_task": [40], "seed": [1], "inner_steps": [0, 3]}
OF_IMAGES_AND_TEXT = ("num_queries", "transductive", "test_steps", "accuracies")


def collect(name: str, groups: list[str]) -> None:
    """Write rows of docs/results/NAME.json, each for a group of runs with different seeds.

    Rows of other methods and the order of existing rows are kept.
    """
    path = SOURCES / f"{name}.json"
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


def table() -> str:
    """Return the text of docs/results.md."""
    parts = [(DOCS / "results" / "introduction.md").read_text().rstrip()]
    for path in sorted(SOURCES.glob("*.json")):
        parts.append(_section(json.loads(path.read_text())))
    return "\n\n".join(parts) + "\n"


def _section(result: dict[str, Any]) -> str:
    of_text = "accuracies" in result["rows"][0]
    lines = _by_task(result["rows"]) if of_text else _by_step(result)
    top = [f"## {result['title']}", "", result["text"], ""]
    effort = ["", "Cost per seed, and how to repeat a row:", "", *_effort(result["rows"])]
    return "\n".join([*top, *lines, *effort, "", result["notes"]]).rstrip()


def _by_step(result: dict[str, Any]) -> list[str]:
    """Return a table with one row per method and one column per inner step."""
    steps = result.get("steps") or list(range(max(len(row["mean"]) for row in result["rows"])))
    classes = any(row["measure"] == "accuracy" for row in result["rows"] if "measure" in row)
    head = ["method", *(f"{k} step{'s' if k != 1 else ''}" for k in steps), "seeds"]
    robust = any("iqm" in row for row in result["rows"])
    head += ["IQM after adaptation, 95 % bootstrap"] * robust
    head += ["query normalized by"] * classes
    lines = [_line(head), _line(["---", *["---:"] * (len(head) - 1)])]
    for row in result["rows"]:
        cells = [_cell(row, step) for step in steps]
        query = [_query(row)] if classes else []
        cells += [str(len(row["seeds"])), *[_iqm(row, steps[-1])] * robust, *query]
        lines.append(_line([f"**{row['method']}**", *cells]))
        published = result["published"].get(row["method"])
        if published:
            padded = [*published, *[""] * (len(steps) - len(published))]
            lines.append(_line(["published", *padded, "", *[""] * (robust + classes)]))
    return lines


def _by_task(rows: list[dict[str, Any]]) -> list[str]:
    """Return the table of text tasks after adaptation, with one column per method."""
    lines = [_line(["task", "shots", *(f"**{row['method']}**" for row in rows)])]
    lines.append(_line(["---", *["---:"] * (len(rows) + 1)]))
    for task, by_shots in rows[0]["accuracies"].items():
        for shots in by_shots:
            found = [np.array(row["accuracies"][task][shots])[:, -1] for row in rows]
            lines.append(_line([task, shots, *(_deviation(values) for values in found)]))
    lines.append(_line(["**mean**", "", *(f"{100 * row['mean'][-1]:.1f} %" for row in rows)]))
    return lines


def _deviation(values: Any) -> str:
    return f"{100 * values.mean():.1f} ± {100 * values.std(ddof=1):.1f} %"


def _effort(rows: list[dict[str, Any]]) -> list[str]:
    """Return the wall times and the commands of the rows."""
    steps = any(any(row["env_steps"]) for row in rows)
    unit = "environment steps" if steps else "iterations"
    lines = [_line(["method", unit, "minutes", "commands"])]
    lines.append(_line(["---", "---:", "---:", "---"]))
    for row in rows:
        spent = f"{np.mean(row['env_steps']) / 1e6:.1f} M" if steps else f"{row['iterations']:,}"
        minutes = np.mean(row["seconds"]) / 60
        commands = f"`{row['train']}`<br>`{row['evaluate']}`"
        lines.append(_line([row["method"], spent, f"{minutes:.1f}", commands]))
    return lines


def _cell(row: dict[str, Any], step: int) -> str:
    """Format a result with its interval: over seeds, or over tasks for a single seed."""
    if step >= len(row["mean"]):
        return ""
    single = len(row["seeds"]) == 1
    half = (row["interval95_tasks"][0] if single else row["interval95_seeds"])[step]
    mean, percent = row["mean"][step], row.get("measure") == "accuracy"
    return f"{100 * mean:.2f} ± {100 * half:.2f} %" if percent else f"{mean:.2f} ± {half:.2f}"


def _iqm(row: dict[str, Any], step: int) -> str:
    """Format the interquartile mean after `step` steps, or after the last step of the row."""
    if "iqm" not in row:
        return ""
    at = min(step, len(row["iqm"]) - 1)
    low, high = row["iqm_interval95"][at]
    return f"{row['iqm'][at]:.2f} [{low:.2f}, {high:.2f}]"


def _query(row: dict[str, Any]) -> str:
    """Return whether the evaluation was transductive, as text."""
    images = f"{row['num_queries']} a class" if row.get("num_queries") else "as many as there are"
    return f"itself, {images} (transductive)" if row["transductive"] else "the support set"


def _line(cells: list[str]) -> str:
    return "| " + " | ".join(cells) + " |"


def main(argv: list[str]) -> None:
    """Collect runs, or write or check the table."""
    page = DOCS / "results.md"
    if argv == ["check"]:
        if page.read_text() != table():
            sys.exit("docs/results.md is not what docs/results/ says: python docs/results.py table")
        return
    if argv[:1] == ["collect"]:
        collect(argv[1], argv[2:])
    page.write_text(table())


if __name__ == "__main__":
    main(sys.argv[1:])
