"""Text tasks on disk: the LEOPARD tasks as published or packed, and JSON lines of one's own."""

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

from metarl.util import parse_json


NUM_SAMPLES = 10  # fixed support samples of every task and number of shots (Bansal et al. 2020)
VALIDATION_EVERY = 10  # one row in so many is for validation
SUFFIXES = (".json.gz", ".json", ".jsonl", ".jsonl.gz")
PUBLISHED = re.compile(r"(?P<task>.+)_train_(?P<index>\d+)_(?P<shots>\d+)\.json(\.gz)?")
LONE_SURROGATE = re.compile("[\ud800-\udfff]")  # such as a picture that was cut in two
ROW_FORMAT = '{"sentence1": TEXT, "label": NAME OR WHOLE NUMBER}'
ALIASES = {"conll_c": "conll"}  # the evaluation rows of conll are in conll_c_eval.json


class Row(NamedTuple):
    """One labeled sentence, or a pair of sentences.

    Attributes:
        sentence1: The sentence.
        sentence2: The second of a pair; ``""`` where there is none.
        label: The class, by its name.
    """

    sentence1: str
    sentence2: str
    label: str


class TextTask(NamedTuple):
    """A task as it is on disk.

    Attributes:
        name: Its name.
        labels: The classes, sorted.
        samples: Fixed support samples, by ``(shots, index)``; none for JSON lines.
        rows: All rows to learn from, without repetitions.
        evaluation: What adapted classifiers are evaluated on; may be empty.
    """

    name: str
    labels: tuple[str, ...]
    samples: Mapping[tuple[int, int], tuple[Row, ...]]
    rows: tuple[Row, ...]
    evaluation: tuple[Row, ...]

    def sample(self, shots: int, index: int) -> tuple[Row, ...]:
        """Return a support sample of `shots` rows of each class: a fixed one, or one drawn.

        Raises:
            ValueError: If there are fewer rows of a class.
        """
        if self.samples and (shots, index) not in self.samples:
            have = f"it has those of (shots, index) {sorted(self.samples)}"
            raise ValueError(f"task {self.name} has no sample {index} of {shots} shots; {have}")
        rows = self.samples[shots, index] if self.samples else self._draw(shots, index)
        found = Counter(row.label for row in rows)
        fewest = min(self.labels, key=found.__getitem__)
        if found[fewest] < shots:
            raise ValueError(
                f"task {self.name} needs {shots} rows of each class, got {found[fewest]} of "
                f"{fewest!r}; lower `shots`, or leave the task out"
            )
        return rows

    def _draw(self, shots: int, index: int) -> tuple[Row, ...]:
        evaluated = {*self.evaluation}  # what is evaluated on is not learned from
        free = [row for row in self.rows if row not in evaluated]
        shuffled = [free[i] for i in np.random.RandomState(index).permutation(len(free))]
        by_label = [[row for row in shuffled if row.label == label] for label in self.labels]
        return tuple(row for rows in by_label for row in rows[:shots])

    def has_pairs(self) -> bool:
        """Say whether sentences come in pairs, in any row."""
        return any(row.sentence2 for row in (*self.rows, *self.evaluation))

    def train_validation_rows(self) -> tuple[list[Row], list[Row]]:
        """Return rows to meta-train on and, of every class a tenth, rows to validate with.

        Both the support samples and the evaluation rows are used: adapted classifiers are evaluated
        on the evaluation rows of other tasks than those of meta-training.
        """
        known = set(self.labels)
        rows = dict.fromkeys([*self.rows, *(r for r in self.evaluation if r.label in known)])
        parts: tuple[list[Row], list[Row]] = ([], [])
        seen = dict.fromkeys(self.labels, 0)
        for row in sorted(rows):
            seen[row.label] += 1
            parts[seen[row.label] % VALIDATION_EVERY == 0].append(row)
        return parts

    def require_evaluation(self) -> None:
        """Make sure that there is something to judge by.

        Raises:
            ValueError: If there is not, or a row of it has a label of no class.
        """
        if not self.evaluation:
            raise ValueError(f"task {self.name} has no evaluation rows; leave it out")
        if unknown := sorted({row.label for row in self.evaluation} - set(self.labels)):
            expected = f"expected one of its support rows: {', '.join(self.labels)}"
            raise ValueError(f"task {self.name} is evaluated on label {unknown[0]!r}; {expected}")


def find_tasks(data_root: Path | None) -> dict[str, list[Path]]:
    """Return the files of every task under a folder, by the task's name.

    ``TASK.json.gz``, ``TASK.json`` or ``TASK.jsonl`` hold a task each, and evaluation rows of JSON
    lines are in ``TASK.eval.jsonl``; ``TASK_train_3_16.json`` and ``TASK_eval.json`` are the
    published layout of LEOPARD. What is hidden (``.ipynb_checkpoints``) is passed over.

    Raises:
        OSError: If there is no folder, or no task in it.
        ValueError: If files of two folders have the name of one task.
    """
    given = data_root or os.environ.get("METARL_DATA")
    if not given or not Path(given).expanduser().is_dir():
        raise FileNotFoundError(
            f"data_root must be a folder with a TASK.jsonl for each task, or LEOPARD's; got {given}"
        )
    base = Path(given).expanduser()
    folder = next((p for p in (base / "leopard", base / "data" / "json") if p.is_dir()), base)
    tasks: dict[str, list[Path]] = {}
    for path in sorted(p for p in folder.rglob("*") if p.name.endswith(SUFFIXES)):
        if not any(part.startswith(".") for part in path.relative_to(folder).parts):
            tasks.setdefault(_task_of(path), []).append(path)
    for name, paths in tasks.items():
        if len(places := {path.parent for path in paths}) > 1:
            both = " and ".join(sorted(map(str, places)))
            raise ValueError(f"two folders have files of task {name!r}: {both}; rename one of them")
    if not tasks:
        raise FileNotFoundError(f"{folder} has no text tasks: expected files such as TASK.jsonl")
    return tasks


def read_tasks(data_root: Path | None, names: Iterable[str]) -> list[TextTask]:
    """Read the tasks called `names`.

    Raises:
        OSError: If a file cannot be read.
        ValueError: If there is no such task, or a row is not what it should be.
    """
    found = find_tasks(data_root)
    if unknown := [name for name in names if name not in found]:
        raise ValueError(f"there is no task {unknown[0]!r}; choose of {', '.join(found)}")
    return [_read(name, found[name]) for name in names]


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
            f"task {name} needs rows of two labels at least to learn from, got {len(labels)} in "
            f"{files[0]}; lines of {ROW_FORMAT} go into TASK.jsonl, evaluation rows into TASK.eval.jsonl"
        )
    return TextTask(name, labels, samples, rows, tuple(evaluation))


def _content(path: Path) -> Any:
    """Return what a file holds: the object of JSON, or the list of JSON lines."""
    try:
        raw = gzip.decompress(path.read_bytes()) if path.suffix == ".gz" else path.read_bytes()
        text = raw.decode("utf-8-sig")  # some editors begin a file with a mark
        return list(_lines(text)) if ".jsonl" in path.name else parse_json(text)
    except (EOFError, gzip.BadGzipFile, zlib.error, ValueError) as error:
        raise ValueError(f"{path} cannot be read as JSON ({error}); fix it") from None


def _lines(text: str) -> Iterator[Any]:
    for number, line in enumerate(text.split("\n"), 1):  # and not at what else ends lines
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
        f'{path}: row {number} must be like {ROW_FORMAT}, "sentence2" in pairs; got {ascii(row)[:60]}'
    )
