"""Text tasks on disk in all layouts, and errors."""

import gzip
import json
import re
from collections import Counter
from pathlib import Path

import pytest

from metarl.text.files import Row, find_tasks, read_tasks
from tests.support.sentences import colored_rows, write_lines


ARCHIVE = gzip.compress(b"[]" * 99, mtime=0)  # equal in every process
PAIR = {"sentence1": "the dog sees", "sentence2": "a cat", "label": "red"}


def write_task(root: Path, name: str, labels: list[str], each: int, evaluation: int = 0) -> None:
    rows = colored_rows(labels, each + evaluation)
    kept = {label: [row for row in rows if row["label"] == label] for label in labels}
    write_lines(root / f"{name}.jsonl", [row for some in kept.values() for row in some[:each]])
    if evaluation:
        write_lines(
            root / f"{name}.eval.jsonl", [row for some in kept.values() for row in some[each:]]
        )


def published(root: Path, name: str, suffix: str = "") -> None:
    """Write two samples of 2 shots, one of 1 shot, and evaluation rows in the published layout."""
    folder = root / "data" / "json" / name
    folder.mkdir(parents=True)
    files = {"train_0_2": 2, "train_1_2": 2, "train_0_1": 1, f"{suffix}eval": 3}
    for seed, (part, each) in enumerate(files.items()):
        rows = colored_rows(["red", "blue"], each, seed)
        extra = {"processed_sent": ["[CLS]"]}  # the published files have additional fields
        text = json.dumps([row | extra for row in rows])
        (folder / f"{name}_{part}.json").write_text(text)


def test_json_lines_are_a_task_with_random_samples(tmp_path: Path) -> None:
    write_task(tmp_path, "colors", ["red", "blue", "green"], 6, evaluation=2)
    (task,) = read_tasks(tmp_path, ["colors"])
    assert task.labels == ("blue", "green", "red")
    assert (len(task.rows), len(task.evaluation)) == (18, 6)
    drawn = [task.sample(4, index) for index in range(3)]
    for rows in drawn:
        assert Counter(row.label for row in rows) == dict.fromkeys(task.labels, 4)
        assert len(set(rows)) == len(rows)
        assert all(row.sentence1.startswith(row.label) for row in rows)
    assert drawn[0] == task.sample(4, 0)
    assert drawn[0] != drawn[1]


@pytest.mark.parametrize("suffix", ["", "c_"])  # conll's evaluation is conll_c_eval.json
def test_the_published_layout_has_fixed_samples(tmp_path: Path, suffix: str) -> None:
    published(tmp_path, "conll", suffix)
    assert list(find_tasks(tmp_path)) == ["conll"]
    (task,) = read_tasks(tmp_path, ["conll"])
    assert sorted(task.samples) == [(1, 0), (2, 0), (2, 1)]
    expected = colored_rows(["red", "blue"], 2, seed=1)
    found = [(row.sentence1, row.label) for row in task.sample(2, 1)]
    assert found == [(row["sentence1"], row["label"]) for row in expected]
    assert [row.label for row in task.evaluation] == ["red"] * 3 + ["blue"] * 3


def test_the_packed_format_and_pairs(tmp_path: Path) -> None:
    rows = [PAIR | {"label": label, "sentence1": f"{label} dog"} for label in ("red", "blue")]
    content = {"eval": [rows[0]], "train/1shot/0": rows, "train/1shot/1": rows[::-1]}
    (tmp_path / "leopard").mkdir()
    packed = gzip.compress(json.dumps(content).encode())
    (tmp_path / "leopard" / "pairs.json.gz").write_bytes(packed)
    (task,) = read_tasks(tmp_path, ["pairs"])
    first, second = Row("red dog", "a cat", "red"), Row("blue dog", "a cat", "blue")
    assert task.sample(1, 1) == (second, first)
    assert task.rows == (first, second)  # each row once
    assert task.evaluation == (first,)


def test_validation_rows_are_a_tenth_of_each_class(tmp_path: Path) -> None:
    write_task(tmp_path, "colors", ["red", "blue"], 32, evaluation=2)
    (task,) = read_tasks(tmp_path, ["colors"])
    train, validation = task.train_validation_rows()
    assert Counter(row.label for row in train) == {"red": 31, "blue": 31}
    assert Counter(row.label for row in validation) == {"red": 3, "blue": 3}
    assert {*train, *validation} == {*task.rows, *task.evaluation}


def test_invalid_tasks_give_one_line_errors(tmp_path: Path) -> None:
    write_task(tmp_path, "colors", ["red", "blue"], 3, evaluation=1)
    (task,) = read_tasks(tmp_path, ["colors"])
    with pytest.raises(ValueError, match=r"4 rows per class, got 3 for class 'blue'\. Lower `sh"):
        task.sample(4, 0)
    with pytest.raises(ValueError, match=r"must have evaluation rows, got none\. Add rows"):
        task._replace(evaluation=()).require_evaluation()
    with pytest.raises(ValueError, match=r"label 'grey' .*: expected .* blue, red"):
        task._replace(evaluation=(Row("a dog", "", "grey"),)).require_evaluation()
    with pytest.raises(ValueError, match="unknown task 'sounds': expected one of colors"):
        read_tasks(tmp_path, ["sounds"])
    task.require_evaluation()


def test_a_missing_fixed_sample_is_an_error(tmp_path: Path) -> None:
    published(tmp_path, "colors")
    (task,) = read_tasks(tmp_path, ["colors"])
    message = "no support set ({0}, {1}): expected (shots, index) in [(1, 0), (2, 0), (2, 1)]"
    for shots, index in ((8, 0), (2, 5)):
        with pytest.raises(ValueError, match=re.escape(message.format(shots, index))):
            task.sample(shots, index)


@pytest.mark.parametrize(
    ("name", "content", "line"),
    [
        ("a.jsonl", b'{"sentence1": "a dog"}\n', "a.jsonl: row 1 must have the form"),
        ("a.jsonl", b'{"sentence1": "a", "label": 1.5}\n', "got {'sentence1': 'a', 'label': 1.5}"),
        ("a.jsonl", b'{"sentence1": "a", "label": true}\n', "NAME OR WHOLE NUMBER"),
        ("a.jsonl", b'{"sentence1": "a", "sentence2": ["b"], "label": "c"}\n', "row 1 must have"),
        ("a.jsonl", b'{"sentence1": "cut \\ud83d", "label": "c"}\n', "row 1 must have"),
        (
            "a.jsonl",
            b'{"sentence1": "a", "label": "c"}\n\n{',
            "a.jsonl is not valid JSON (line 3",
        ),
        (
            "a.jsonl",
            b'{"label": "red"}\n',
            'row 1 must have the form {"sentence1": TEXT, "label": NAME',
        ),
        ("a.jsonl", b'["a dog", "red"]\n', "row 1 must have the form"),
        (
            "a.jsonl",
            b'{"sentence1": "a", "label": 1}\n',
            "at least two labels, got 1",
        ),
        ("a.jsonl", b"", "a.jsonl. Write one line"),
        (
            "a.eval.jsonl",
            b'{"sentence1": "a", "label": "c"}',
            "rows to TASK.eval.jsonl",
        ),
        ("a.jsonl", b'{"sentence1": "a', "is not valid JSON"),
        ("a.json", b"\xff\xfe", "is not valid JSON"),
        ("a.json.gz", b"no archive", "is not valid JSON"),
        ("a.json.gz", ARCHIVE[:-9], "is not valid JSON"),
        ("a.json.gz", ARCHIVE[:10] + b"\xff" * 20, "is not valid JSON"),
    ],
)
def test_a_damaged_file_gives_a_one_line_error(
    tmp_path: Path, name: str, content: bytes, line: str
) -> None:
    (tmp_path / name).write_bytes(content)
    with pytest.raises(ValueError, match=re.escape(line)) as raised:
        read_tasks(tmp_path, ["a"])
    assert "\n" not in str(raised.value)


def test_a_folder_without_tasks_gives_a_one_line_error(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.delenv("METARL_DATA", raising=False)
    with pytest.raises(FileNotFoundError, match=r"data_root must be .* got None"):
        find_tasks(None)
    with pytest.raises(FileNotFoundError, match=r"data_root must be .*, got .*nowhere"):
        find_tasks(tmp_path / "nowhere")
    with pytest.raises(FileNotFoundError, match=r"contains no text tasks: expected .* TASK\.jsonl"):
        find_tasks(tmp_path)
    write_task(tmp_path, "colors", ["red", "blue"], 2)
    monkeypatch.setenv("METARL_DATA", str(tmp_path))
    assert list(find_tasks(None)) == ["colors"]


def test_json_lines_support_unicode_line_separators_and_byte_order_marks(tmp_path: Path) -> None:
    sentences = ["one\u2028two", "form\x0cfeed", "next\x85line"]
    rows = [{"sentence1": x, "label": str(i)} for i, x in enumerate(sentences)]
    lines = "\r\n".join(json.dumps(row, ensure_ascii=False) for row in rows)
    (tmp_path / "a.jsonl").write_bytes(lines.encode("utf-8-sig"))
    (task,) = read_tasks(tmp_path, ["a"])
    assert [row.sentence1 for row in task.rows] == sentences


def test_published_files_can_be_gzipped_and_hidden_files_are_ignored(tmp_path: Path) -> None:
    published(tmp_path, "colors")
    for path in [*tmp_path.rglob("*.json")]:
        path.with_name(f"{path.name}.gz").write_bytes(gzip.compress(path.read_bytes()))
        path.unlink()
    hidden = tmp_path / "data/json/.ipynb_checkpoints"
    hidden.mkdir()
    write_task(hidden, "colors-checkpoint", ["red", "blue"], 2)
    assert list(find_tasks(tmp_path)) == ["colors"]
    (task,) = read_tasks(tmp_path, ["colors"])
    assert sorted(task.samples) == [(1, 0), (2, 0), (2, 1)]


def test_one_name_in_two_folders_gives_a_one_line_error(tmp_path: Path) -> None:
    for folder in ("coats", "moods"):
        (tmp_path / folder).mkdir()
        write_task(tmp_path / folder, "train", ["red", "blue"], 2)
    with pytest.raises(
        ValueError, match=r"'train' has files in two folders: .*coats and .*moods\. Rename"
    ):
        find_tasks(tmp_path)


def test_evaluation_rows_are_never_used_for_training(tmp_path: Path) -> None:
    write_task(tmp_path, "colors", ["red", "blue"], 4, evaluation=2)
    lines = (tmp_path / "colors.jsonl").read_text().splitlines(keepends=True)
    with (tmp_path / "colors.eval.jsonl").open("a") as file:
        file.writelines([lines[0]] * 2)  # repeated rows are evaluated repeatedly
    (task,) = read_tasks(tmp_path, ["colors"])
    assert len(task.evaluation) == 6
    for index in range(5):
        assert not {*task.sample(3, index)} & {*task.evaluation}
    with pytest.raises(ValueError, match="at least 4 rows per class, got 3"):
        task.sample(4, 0)


def test_all_samples_of_a_pair_task_have_pairs(tmp_path: Path) -> None:
    rows = [PAIR | {"label": "red"}, {"sentence1": "a dog", "label": "blue"}]
    write_lines(tmp_path / "pairs.jsonl", rows)
    (task,) = read_tasks(tmp_path, ["pairs"])
    assert task.has_pairs()
    alone = task._replace(rows=task.rows[1:])
    assert not alone.has_pairs()
