"""What a run wrote, read again: lines of metrics, evaluations, and which of these compare."""

from pathlib import Path
from typing import Any

from metarl.util.parsing import is_number, parse_json


PROTOCOL = (
    "num_tasks", "seed", "episodes_per_task", "tasks", "num_ways", "num_shots", "num_queries",
    "transductive", "start", "nearest_neighbor", "ensemble", "tuned", "samples", "test_steps",
)  # fmt: skip
"""What an evaluation may hold that two of them must share to be compared, beside the steps."""


def protocol(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return what two evaluations must share to be compared."""
    shared = {name: evaluation[name] for name in PROTOCOL[:2]}
    # The tasks of meta-RL are listed, with their returns; those of supervised runs have a name.
    named = {
        n: evaluation[n] for n in PROTOCOL[2:] if not isinstance(evaluation.get(n), list | None)
    }
    return shared | named | {"inner_steps": len(evaluation["mean"]) - 1}


def read_line(line: str) -> dict[str, Any] | None:
    """Return the metrics of an iteration; None if the line is damaged."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and all(map(is_number, entry.values()))
    return entry if whole and isinstance(entry.get("iteration"), int) else None


def read_evaluation(path: Path) -> dict[str, Any]:
    """Read an evaluation.

    Raises:
        ValueError: If the file is damaged; the message names it.
    """
    try:
        entry: dict[str, Any] = parse_json(path.read_bytes())
        protocol(entry)
        means, halves = entry["mean"], entry["interval95"]
        if not isinstance(entry["iteration"], int) or not all(map(is_number, [*means, *halves])):
            raise TypeError("iteration, mean or interval95 are no numbers")
        if not 0 < len(means) == len(halves):
            raise ValueError(f"{len(means)} means and {len(halves)} intervals")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not an evaluation that metarl wrote ({error}); remove it, or evaluate again"
        ) from None
    return entry
