"""Text classification tasks in files: the LEOPARD tasks, and custom tasks as JSON lines."""

import gzip
import os
import re
import zlib
from collections import Counter
from collections.abc import Iterable, Iterator, Mapping
from itertools import chain
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from metarl.util import parse_json, warn_of_similar


NUM_SAMPLES = 10  # number of support sets per task and number of shots (Bansal et al. 2020)
PART = 10  # every tenth row of a class is used for validation
SUFFIXES = (".json.gz", ".json", ".jsonl", ".jsonl.gz")
PUBLISHED = re.compile(r"(?P<task>.+)_train_(?P<index>\d+)_(?P<shots>\d+)\.json(\.gz)?")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # half of a character, such as a truncated emoji
ROW_FORMAT = '{"sentence1": TEXT, "label": NAME OR WHOLE NUMBER}'
ALIASES = {"conll_c": "conll"}  # the evaluation rows of conll are in conll_c_eval.json


class Row(NamedTuple):
    """A labeled sentence, or a labeled pair of sentences.

    Attributes:
        sentence1: The sentence.
        sentence2: The second sentence of a pair; ``""`` if the row is not a pair.
        label: Name of the class.

    Example::

        >>> from metarl.text import Row
        >>> Row("the food was great", "", "positive").label
        'positive'
    """

    sentence1: str
    sentence2: str
    label: str


class TextTask(NamedTuple):
    """The rows of a text classification task, as read from files.

    Attributes:
        name: Name of the task.
        labels: Class names, sorted.
        samples: Fixed support sets by ``(shots, index)``, as published with LEOPARD. Empty for
            custom tasks, for which :meth:`sample` draws random support sets.
        rows: All support rows, without duplicates.
        evaluation: Rows on which adapted classifiers are evaluated; may be empty.

    Example::

        >>> from metarl.text import Row, TextTask
        >>> rows = tuple(Row(f"{word} {n}", "", word) for word in ("good", "bad") for n in range(9))
        >>> task = TextTask("opinions", ("bad", "good"), {}, rows, ())
        >>> len(task.sample(4, 0))
        8
    """

    name: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[int, int], tuple[Row, ...]]
    rows: tuple[Row, ...]
    evaluation: tuple[Row, ...]

    def sample(self, shots: int, index: int) -> tuple[Row, ...]:
        """Return a support set with `shots` rows per class.

        If the task has fixed support sets, the support set ``(shots, index)`` is returned.
        Otherwise rows that are not evaluation rows are drawn at random.

        Args:
            shots: Number of rows per class.
            index: Index of the fixed support set, starting at 0, or the random seed.

        Raises:
            ValueError: If the fixed support set does not exist, or a class has fewer than `shots`
                rows.
        """
        if self.samples and (shots, index) not in self.samples:
            raise ValueError(
                f"task {self.name} has no support set {(shots, index)}: expected (shots, index) "
                f"in {sorted(self.samples)}"
            )
        rows = self.samples[shots, index] if self.samples else self._draw(shots, index)
        found = Counter(row.label for row in rows)
        fewest = min(self.labels, key=found.__getitem__)
        if found[fewest] < shots:
            raise ValueError(
                f"task {self.name} must have at least {shots} rows per class, got {found[fewest]} "
                f"for class {fewest!r}. Lower `shots` or remove the task"
            )
        return rows

    def _draw(self, shots: int, index: int) -> tuple[Row, ...]:
        evaluated = {*self.evaluation}  # evaluation rows must not be used for support
        free = [row for row in self.rows if row not in evaluated]
        shuffled = [free[i] for i in np.random.RandomState(index).permutation(len(free))]
        by_label = [[row for row in shuffled if row.label == label] for label in self.labels]
        return tuple(row for rows in by_label for row in rows[:shots])

    def has_pairs(self) -> bool:
        """Return whether any row is a pair of sentences."""
        return any(row.sentence2 for row in (*self.rows, *self.evaluation))

    def train_validation_rows(self) -> tuple[list[Row], list[Row]]:
        """Split the rows of a meta-training task into training rows and validation rows.

        Every tenth row of each class is used for validation. Both the support rows and the
        evaluation rows are split, because the evaluation uses different tasks.

        Returns:
            ``(training rows, validation rows)``.
        """
        known = set(self.labels)
        rows = dict.fromkeys([*self.rows, *(r for r in self.evaluation if r.label in known)])
        parts: tuple[list[Row], list[Row]] = ([], [])
        seen = dict.fromkeys(self.labels, 0)
        for row in sorted(rows):
            seen[row.label] += 1
            parts[seen[row.label] % PART == 0].append(row)
        return parts

    def require_evaluation(self) -> None:
        """Raise a ``ValueError`` if evaluation rows are missing or have an unknown label."""
        if not self.evaluation:
            raise ValueError(
                f"task {self.name} must have evaluation rows, got none. Add rows or remove the task"
            )
        if unknown := sorted({row.label for row in self.evaluation} - set(self.labels)):
            raise ValueError(
                f"unknown label {unknown[0]!r} in the evaluation rows of task {self.name}: "
                f"expected one of {', '.join(self.labels)}"
            )


def find_tasks(data_root: Path | None) -> dict[str, list[Path]]:
    """Find the files of all text tasks in a folder and its subfolders.

    A custom task is a file ``TASK.jsonl`` with one support row per line, in the format described in
    :func:`read_tasks`, and optionally a file ``TASK.eval.jsonl`` with evaluation rows. The LEOPARD
    tasks can be packed, with one file ``TASK.json`` per task, or have the published file names,
    such as ``TASK_train_3_16.json`` and ``TASK_eval.json``. All files can also be compressed as
    ``.gz``. Hidden files and folders are ignored.

    Args:
        data_root: The folder; defaults to the environment variable ``METARL_DATA``. If the folder
            contains ``leopard/`` or ``data/json/``, only this subfolder is searched.

    Returns:
        The file paths of each task, by task name.

    Raises:
        OSError: If the folder does not exist or contains no task.
        ValueError: If two folders contain files of the same task.

    Example::

        >>> from pathlib import Path
        >>> from metarl.text import find_tasks
        >>> Path("tasks").mkdir()
        >>> row = '{"sentence1": "great", "label": "positive"}'
        >>> _ = Path("tasks/opinions.jsonl").write_text(row)
        >>> list(find_tasks(Path("tasks")))
        ['opinions']
    """
    root = data_root or os.environ.get("METARL_DATA")
    if not root or not Path(root).expanduser().is_dir():
        raise FileNotFoundError(
            "data_root must be a folder with TASK.jsonl files or the LEOPARD files, got "
            f"{root}. Pass the folder, or set the environment variable METARL_DATA"
        )
    base = Path(root).expanduser()
    folder = next((p for p in (base / "leopard", base / "data" / "json") if p.is_dir()), base)
    tasks: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.name.endswith(SUFFIXES)):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            tasks.setdefault(_task_of(path), []).append(path)
    for name, paths in tasks.items():
        if len(places := {path.parent for path in paths}) > 1:
            both = " and ".join(sorted(map(str, places)))
            raise ValueError(f"task {name!r} has files in two folders: {both}. Rename one task")
    if not tasks:
        raise FileNotFoundError(
            f"{folder} contains no text tasks: expected files such as TASK.jsonl. Add a file or "
            "choose a different folder"
        )
    return tasks


def read_tasks(data_root: Path | None, names: Iterable[str]) -> list[TextTask]:
    r"""Read text tasks from the files in a folder.

    Each line of a JSON lines file is one row ``{"sentence1": TEXT, "label": NAME}``. The label can
    also be an integer. Rows with a pair of sentences also have the key ``sentence2``.

    Args:
        data_root: The folder; see :func:`find_tasks` for the default and the file names.
        names: Names of the tasks.

    Returns:
        One task per name, in the order of `names`.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If a task does not exist, has fewer than two labels or has a malformed row.

    Example::

        >>> from pathlib import Path
        >>> from metarl.text import read_tasks
        >>> Path("data").mkdir()
        >>> rows = [f'{{"sentence1": "great {n}", "label": {n % 2}}}' for n in range(20)]
        >>> _ = Path("data/opinions.jsonl").write_text("\n".join(rows))
        >>> read_tasks(Path("data"), ["opinions"])[0].labels
        ('0', '1')
    """
    found, chosen = find_tasks(data_root), list(names)
    if unknown := [name for name in chosen if name not in found]:
        raise ValueError(f"unknown task {unknown[0]!r}: expected one of {', '.join(found)}")
    return [_read(name, found[name]) for name in chosen]


def _task_of(path: Path) -> str:
    if published := PUBLISHED.fullmatch(path.name):
        return published["task"]
    name = re.sub(r"(_eval)?(\.eval)?\.jsonl?(\.gz)?$", "", path.name)
    return ALIASES.get(name, name)


def _read(name: str, files: list[Path]) -> TextTask:
    samples: dict[tuple[int, int], tuple[Row, ...]] = {}
    loose, evaluation = list[Row](), list[Row]()
    for path in files:
        content = _content(path)
        if isinstance(content, dict):  # packed: {"eval": [...], "train/4shot/0": [...]}
            evaluation += _rows(path, content.get("eval", []))
            for key, part in content.items():
                if match := re.fullmatch(r"train/(\d+)shot/(\d+)", key):
                    samples[int(match[1]), int(match[2])] = _rows(path, part)
        elif published := PUBLISHED.fullmatch(path.name):
            samples[int(published["shots"]), int(published["index"])] = _rows(path, content)
        elif re.search(r"[._]eval\.", path.name):
            evaluation += _rows(path, content)
        else:
            loose += _rows(path, content)
    rows = tuple(dict.fromkeys(chain(loose, *samples.values())))
    labels = tuple(sorted({row.label for row in rows}))
    if len(labels) < 2:
        raise ValueError(
            f"task {name} must have support rows with at least two labels, got {len(labels)} in "
            f"{files[0]}. Write one line {ROW_FORMAT} per support row to TASK.jsonl, and "
            "evaluation rows to TASK.eval.jsonl"
        )
    warn_of_similar(labels, f"task {name}")
    return TextTask(name, labels, samples, rows, tuple(evaluation))


def _content(path: Path) -> Any:
    """Return the parsed content of a JSON file, or a list with one item per line of JSON lines."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")  # some editors write a byte order mark
        return list(_lines(text)) if ".jsonl" in path.name else parse_json(text)
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise ValueError(f"{path} is not valid JSON ({error}). Fix the file") from None


def _lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):  # splitlines() splits at more characters
        try:
            if line.strip():
                yield parse_json(line)
        except ValueError as error:
            raise ValueError(f"line {number}: {error}") from None


def _rows(path: Path, content: Any) -> tuple[Row, ...]:
    rows = content if isinstance(content, list) else [content]
    return tuple(_row(path, number, row) for number, row in enumerate(rows, 1))


def _row(path: Path, number: int, row: Any) -> Row:
    match row:
        case {"sentence1": str(one), "label": str(label) | int(label)}:
            two = row.get("sentence2")
            whole = isinstance(two, str | None) and not LONE_SURROGATE.search(f"{one}{two}{label}")
            if whole and not isinstance(label, bool):
                return Row(one, two or "", str(label))
    raise ValueError(
        f'{path}: row {number} must have the form {ROW_FORMAT}, with "sentence2" for pairs, got '
        f"{ascii(row)[:60]}"
    )
