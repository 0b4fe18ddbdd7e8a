"""Reading of metrics and evaluations, and the settings that make evaluations comparable."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from metarl.util import is_number, parse_json


PROTOCOL = (
    "num_tasks", "seed", "episodes_per_task", "tasks", "num_ways", "num_shots", "num_queries",
    "transductive", "start", "nearest_neighbor", "ensemble", "tuned", "samples", "test_steps",
    "data", "classes",
)  # fmt: skip
"""Settings that must be equal in comparable evaluations. Every evaluation contains `num_tasks`
and `seed`; the other settings depend on the experiment."""
FORMAT = 1
"""Format of run folders. Increase the number if older versions cannot read new run folders, and
keep reading the older formats. Runs without a number have format 1."""
REQUIRED = ("experiment", "config")
ENTRIES: dict[str, type[Any]] = {
    "experiment": str, "config": dict, "command": str, "versions": dict, "changed_by": list,
    "pulled_from": str,
}  # fmt: skip
"""Types of the entries of config.json; only the entries in :data:`REQUIRED` must exist."""
NAMES: dict[type[Any], str] = {
    str: "a text", dict: "an object", list: "a list", int: "a number",
}  # fmt: skip


def protocol(evaluation: dict[str, Any]) -> dict[str, Any]:
    """Return the settings of an evaluation that must be equal in comparable evaluations.

    Args:
        evaluation: Contents of an evaluation file, as in :meth:`Run.evaluations`.

    Returns:
        Values by name: the settings in :data:`PROTOCOL` that the evaluation
        contains, and the number of ``inner_steps``. The list of tasks in
        meta-RL evaluations is omitted.

    Raises:
        KeyError: If a required field is missing.

    Example::

        first, second = Run.open(Path("runs/quick")).evaluations()[:2]
        comparable = protocol(first) == protocol(second)
    """
    shared = {name: evaluation[name] for name in PROTOCOL[:2]}
    for name in PROTOCOL[2:]:
        if not isinstance(value := evaluation.get(name), list | None):
            shared[name] = value
    return shared | {"inner_steps": len(evaluation["mean"]) - 1}


def metrics_in(evaluation: dict[str, Any]) -> list[str]:
    """Return the names of the metrics in an evaluation, which :func:`measured` accepts.

    Args:
        evaluation: Contents of an evaluation file, as in :meth:`Run.evaluations`.

    Example::

        metrics_in(Run.open(Path("runs/quick")).evaluations()[0])  # ["return"]
    """
    return [*evaluation.get("measures", [evaluation.get("measure", "return")])]


def measured(evaluation: dict[str, Any], metric: str) -> dict[str, Any]:
    """Return the results of an evaluation for one metric.

    Args:
        evaluation: Contents of an evaluation file, as in :meth:`Run.evaluations`.
        metric: Name of the metric: ``"return"`` or an entry of the infos in
            meta-RL, ``"loss"`` or ``"accuracy"`` in few-shot learning.

    Returns:
        The ``mean`` and the half-width ``interval95`` after each adaptation
        step, and further statistics if the experiment has them. In meta-RL,
        ``values`` contains one row of results per test task.

    Raises:
        KeyError: If the evaluation does not contain the metric.

    Example::

        measured(Run.open(Path("runs/quick")).evaluations()[0], "return")["mean"]
    """
    main = evaluation.get("measure", "return")
    found: dict[str, Any] = evaluation.get("measures", {main: evaluation})[metric]
    each = evaluation.get("infos", {}) | {"return": evaluation.get("returns")}
    return found if each.get(metric) is None else found | {"values": each[metric]}


def read_about(path: Path) -> dict[str, Any]:
    """Load and validate config.json, and return the contents of the file.

    The settings of the experiment are only validated when the experiment is built.

    Args:
        path: The file config.json of a run.

    Raises:
        ValueError: If the file is damaged, or was written in the format of a different version of
            metarl; the message contains the path.
    """
    with _damage_named(path):
        about: dict[str, Any] = parse_json(path.read_bytes())
        if not isinstance(about, dict):
            raise TypeError(f"expected an object, got {str(about)[:60]!r}")
        _require_type("format", found := about.get("format", FORMAT), int)
    if found != FORMAT:  # the other entries may differ, too
        newer = "A newer version of metarl wrote the run: upgrade metarl-torch"
        raise ValueError(
            f"{path} has format {found}: expected {FORMAT}. "
            f"{newer if found > FORMAT else 'Restore the file from a backup'}"
        )
    with _damage_named(path):
        for name, kind in ENTRIES.items():
            if name in REQUIRED or name in about:
                _require_type(name, about[name], kind)
    return about


@contextmanager
def _damage_named(path: Path) -> Iterator[None]:
    """Name the file config.json in errors that its contents cause."""
    try:
        yield
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a metarl configuration ({error}). Restore the file from a backup"
        ) from None


def _require_type(name: str, value: Any, kind: type[Any]) -> None:
    """Raise a TypeError if an entry of config.json does not have its type.

    Lists and, except for the settings, objects must contain only texts.
    """
    inside = value.values() if isinstance(value, dict) else value
    plain = kind in (str, int) or name == "config"
    if not isinstance(value, kind) or not (plain or all(isinstance(x, str) for x in inside)):
        texts = "" if plain else " of texts"
        raise TypeError(f"expected `{name}` as {NAMES[kind]}{texts}, got {str(value)[:60]!r}")


def read_line(line: str) -> dict[str, Any] | None:
    """Return the metrics by name from a line of metrics.jsonl, or None if the line is damaged."""
    try:
        entry = parse_json(line)
    except ValueError:
        return None
    whole = isinstance(entry, dict) and all(map(is_number, entry.values()))
    return entry if whole and isinstance(entry.get("iteration"), int) else None


def read_evaluation(path: Path) -> dict[str, Any]:
    """Load and validate an evaluation, and return the contents of the file.

    Args:
        path: A file in the folder evaluations/ of a run.

    Raises:
        ValueError: If the file is damaged; the message contains the path.
    """
    try:
        entry: dict[str, Any] = parse_json(path.read_bytes())
        protocol(entry)
        means, halves = entry["mean"], entry["interval95"]
        numbers = all(map(is_number, [*means, *halves])) and 0 < len(means) == len(halves)
        if not numbers or not isinstance(entry["iteration"], int):
            raise ValueError(
                "`iteration` must be an integer, and `mean` and `interval95` equally long lists of "
                "numbers"
            )
    except (ValueError, KeyError, TypeError) as error:
        raise ValueError(
            f"{path} is not a valid evaluation ({error}). Remove the file or evaluate again"
        ) from None
    return entry
