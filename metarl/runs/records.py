"""Reading of metrics and evaluations, and the settings that make evaluations comparable."""

from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any, TypeAlias

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
Form: TypeAlias = Any
"""Form of a JSON value: a type, a list with the form of all items, or a dictionary with the form of
all values under the key ``"*"``. The form ``float`` stands for all numbers."""
ENTRIES: dict[str, Form] = {
    "format": int, "experiment": str, "config": dict, "command": str, "versions": {"*": str},
    "changed_by": [str], "pulled_from": str, "spaces": dict,
}  # fmt: skip
"""Forms of the entries of config.json."""
RESULTS: dict[str, Form] = {
    "mean": [float], "interval95": [float], "iqm": [float], "iqm_interval95": [[float]],
    "adaptation_steps": [float],
}  # fmt: skip
"""Forms of the results of an evaluation for one metric; all lists have the same length."""
EVALUATION: dict[str, Form] = {
    "iteration": int, "num_tasks": int, "seed": int, **RESULTS, "command": str, "measure": str,
    "measures": {"*": dict}, "returns": [[float]], "infos": {"*": [[float]]},
    "accuracies": {"*": {"*": [[float]]}},
}  # fmt: skip
"""Forms of the entries of an evaluation."""
NAMES: dict[type[Any], tuple[str, str]] = {
    str: ("a text", "texts"), int: ("an integer", "integers"), float: ("a number", "numbers"),
    dict: ("an object", "objects"), list: ("a list", "lists"),
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
    damage = f"{path} is not a metarl configuration"
    with _damage_named(damage, "Restore the file from a backup"):
        about = _json_object(path)
        _require_forms(about, {"format": int})
    if (found := about.get("format", FORMAT)) != FORMAT:  # the other entries may differ, too
        newer = "A newer version of metarl wrote the run: upgrade metarl-torch"
        raise ValueError(
            f"{path} has format {str(found)[:9]}: expected {FORMAT}. "
            f"{newer if found > FORMAT else 'Restore the file from a backup'}"
        )
    with _damage_named(damage, "Restore the file from a backup"):
        _require_forms(about, ENTRIES, "experiment", "config")
    return about


@contextmanager
def _damage_named(damage: str, advice: str) -> Iterator[None]:
    """Name the damaged file and the next step in errors that the contents of the file cause."""
    try:
        yield
    except (ValueError, TypeError) as error:
        raise ValueError(f"{damage} ({error}). {advice}") from None


def _json_object(path: Path) -> dict[str, Any]:
    value = parse_json(path.read_bytes())
    if not isinstance(value, dict):
        raise TypeError(f"expected an object, got {str(value)[:60]!r}")
    return value


def _require_forms(entries: dict[str, Any], forms: dict[str, Form], *required: str) -> None:
    """Raise a TypeError if a required entry is missing, or an entry does not have its form."""
    for name in forms:
        if name not in entries and name in required:
            raise TypeError(f"expected an entry `{name}`, got none")
        if name in entries and not _has_form(value := entries[name], forms[name]):
            raise TypeError(f"expected `{name}` as {_words(forms[name])}, got {str(value)[:60]!r}")


def _has_form(value: Any, form: Form) -> bool:
    if isinstance(form, list):
        return isinstance(value, list) and all(_has_form(item, form[0]) for item in value)
    if isinstance(form, dict):
        return isinstance(value, dict) and all(_has_form(x, form["*"]) for x in value.values())
    return is_number(value) if form is float else type(value) is form


def _words(form: Form, *, plural: bool = False) -> str:
    """Return a form in words, such as ``"a list of texts"``."""
    if not isinstance(form, list | dict):
        return NAMES[form][plural]
    inner = form[0] if isinstance(form, list) else form["*"]
    return f"{NAMES[type(form)][plural]} of {_words(inner, plural=True)}"


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
    with _damage_named(f"{path} is not a valid evaluation", "Remove the file or evaluate again"):
        entry = _json_object(path)
        _require_forms(entry, EVALUATION, "iteration", "num_tasks", "seed")
        for results in (entry, *entry.get("measures", {}).values()):
            _require_forms(results, RESULTS, "mean", "interval95")
            lengths = {name: len(results[name]) for name in RESULTS if name in results}
            if len({*lengths.values()}) > 1 or 0 in lengths.values():
                raise ValueError(f"expected lists of the same length, got the lengths {lengths}")
            if any(len(pair) != 2 for pair in results.get("iqm_interval95", ())):
                raise ValueError("expected `iqm_interval95` as a list of pairs")
        return entry
