"""What a run wrote, read again: lines of metrics, evaluations, and which of these compare."""

from pathlib import Path
from typing import Any

from metarl.util import is_number, parse_json


PROTOCOL = (
    "num_tasks", "seed", "episodes_per_task", "tasks", "num_ways", "num_shots", "num_queries",
    "transductive", "start", "nearest_neighbor", "ensemble", "tuned", "samples", "test_steps",
)  # fmt: skip
"""Settings that two evaluations must share to be compared; every one has the first two."""


def protocol(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return the settings that two evaluations must share to be compared.

    Args:
        evaluation: The contents of its file.

    Returns:
        Those settings of :data:`PROTOCOL` that it has, and its number of inner steps. A list is
        left out: meta-RL lists its tasks with their returns.

    Raises:
        KeyError: If it is not an evaluation.
    """
    shared = {name: evaluation[name] for name in PROTOCOL[:2]}
    for name in PROTOCOL[2:]:
        if not isinstance(value := evaluation.get(name), list | None):
            shared[name] = value
    return shared | {"inner_steps": len(evaluation["mean"]) - 1}


def read_line(line: str) -> dict[str, Any] | None:
    """Return the metrics of one line of metrics.jsonl; None if it is damaged."""
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
        numbers = all(map(is_number, [*means, *halves])) and 0 < len(means) == len(halves)
        if not numbers or not isinstance(entry["iteration"], int):
            raise ValueError("iteration, mean or interval95 is missing or wrong")
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not an evaluation that metarl wrote ({error}); remove it, or evaluate again"
        ) from None
    return entry
