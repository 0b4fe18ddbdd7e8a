"""The run folder: contents, locking and damaged files."""

import json
import os
import shutil
import threading
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from safetensors.numpy import save_file

from metarl.runs import records
from metarl.runs.folder import Run
from tests.support.commands import FEW, TRAIN, checkpoints, metarl, refusal


def test_a_run_folder_contains_the_documented_files(whole: Path) -> None:
    assert {path.name for path in whole.iterdir()} >= {
        "config.json",
        "metrics.jsonl",
        "checkpoints",
    }
    assert sorted(checkpoints(whole)) == [f"{n:08d}.safetensors" for n in (0, 2, 4, 6)]
    entries = [json.loads(line) for line in (whole / "metrics.jsonl").read_text().splitlines()]
    assert [entry["iteration"] for entry in entries] == [1, 2, 3, 4, 5, 6]
    assert set(entries[0]) >= {
        "return/step_0",
        "return/step_1",
        "trpo/kl",
        "trpo/improvement",
        "trpo/step_fraction",
        "policy/std_before",
        "policy/std_after",
        "baseline/explained_variance",
        "gradient/inner_0",
        "gradient/outer",
        "env/steps",
        "time/sampling",
        "time/update",
        "time/other",
    }
    about = json.loads((whole / "config.json").read_text())
    assert about["experiment"] == "maml-trpo"
    assert about["config"]["hidden"] == [8, 8]
    assert "torch" in about["versions"]


def test_a_second_writer_is_rejected(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    with Run.open(whole).lock():
        assert "another process" in refusal(capsys, "resume", whole)


def test_an_existing_output_folder_is_rejected_and_unchanged(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    before = checkpoints(whole)
    assert f"metarl resume {whole}" in refusal(capsys, *TRAIN, "--out", whole)
    assert checkpoints(whole) == before
    (tmp_path / "thesis.tex").write_text("precious")
    assert "not an empty folder" in refusal(capsys, *TRAIN, "--out", tmp_path)
    assert (tmp_path / "thesis.tex").read_text() == "precious"
    assert "not an empty folder" in refusal(capsys, *TRAIN, "--out", tmp_path / "thesis.tex")


def test_damaged_and_foreign_checkpoints_give_one_line_errors_and_are_kept(
    whole: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = copied / "checkpoints/00000006.safetensors"
    good = last.read_bytes()
    for damaged in (good[: len(good) // 2], b"", b"not a checkpoint at all", good[:-1]):
        last.write_bytes(damaged)
        assert "choose a different --checkpoint: the run has checkpoints [0, 2, 4, 6]" in refusal(
            capsys, "evaluate", copied
        )
        assert last.read_bytes() == damaged
    save_file({"weights": np.zeros(3)}, last)
    assert "not a valid metarl checkpoint" in refusal(capsys, "evaluate", copied)
    metarl("evaluate", copied, "--checkpoint", 4, *FEW)
    assert "[0, 2, 4, 6]" in refusal(capsys, "evaluate", copied, "--checkpoint", 3)


def test_a_checkpoint_of_a_different_run_or_iteration_is_rejected(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    shutil.copy(
        copied / "checkpoints/00000002.safetensors", copied / "checkpoints/00000006.safetensors"
    )
    assert "written at iteration 2" in refusal(capsys, "evaluate", copied)


def test_a_damaged_configuration_gives_a_one_line_error(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    about = json.loads((copied / "config.json").read_text())
    del about["config"]["hidden"]  # takes its default, which differs from the checkpoints
    (copied / "config.json").write_text(json.dumps(about))
    assert "differs from config.json in ['hidden']" in refusal(capsys, "evaluate", copied)
    about["config"]["hidden"] = "8x8"
    (copied / "config.json").write_text(json.dumps(about))
    assert "`hidden` must be tuple" in refusal(capsys, "resume", copied)
    (copied / "config.json").write_text("{")
    assert "not a metarl configuration" in refusal(capsys, "resume", copied)


def test_exactly_one_of_two_processes_creates_a_run_in_a_folder(tmp_path: Path) -> None:
    folder, together, outcomes = tmp_path / "run", threading.Barrier(8), []

    def make(number: int) -> None:
        together.wait()
        try:
            with Run.create(folder, "example", {"number": number}):
                outcomes.append(number)
        except (FileExistsError, RuntimeError) as error:
            outcomes.append(str(error))

    threads = [threading.Thread(target=make, args=(number,)) for number in range(8)]
    for thread in threads:
        thread.start()
    for thread in threads:
        thread.join()
    (winner,) = [outcome for outcome in outcomes if isinstance(outcome, int)]
    assert Run.open(folder).read_config()["config"] == {"number": winner}
    assert all("\n" not in str(outcome) for outcome in outcomes)


def test_a_folder_used_by_another_process_is_rejected_and_unchanged(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    folder.mkdir()
    with Run(folder).lock():
        message = refusal(capsys, *TRAIN, "--out", folder)
    assert "another process" in message
    assert {path.name for path in folder.iterdir()} <= {"lock"}


def test_evaluations_are_sorted_by_their_recorded_time(tmp_path: Path) -> None:
    values = {"iteration": 1, "mean": [0.0], "interval95": [0.0], "seed": 1}
    values |= {"num_tasks": 1, "episodes_per_task": 1}
    with Run.create(tmp_path / "run", "example", {}) as run:
        paths = [run.write_evaluation(name, values | {"name": name}) for name in "bca"]
    for age, path in enumerate(paths):  # as after copying the files
        os.utime(path, (1e9 - age, 1e9 - age))
    assert [entry["name"] for entry in run.evaluations()] == ["a", "c", "b"]


@pytest.mark.parametrize("text", ["{", "[]", '{"iteration": 3}'])
def test_a_damaged_evaluation_gives_a_one_line_error_with_its_path(
    text: str, whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    shutil.copytree(whole, tmp_path / "run")
    damaged = tmp_path / "run/evaluations/damaged.json"
    damaged.parent.mkdir(exist_ok=True)
    damaged.write_text(text)
    message = refusal(capsys, "plot", tmp_path / "run", "--out", tmp_path / "curves.png")
    assert str(damaged) in message


def test_a_run_does_not_write_to_a_replaced_folder(tmp_path: Path) -> None:
    with Run.create(tmp_path / "run", "example", {}) as run:
        run.log(1, {})
        shutil.rmtree(run.folder)
        run.folder.mkdir()  # as another process would
        (run.folder / "lock").touch()
        with pytest.raises(RuntimeError, match="was removed or replaced"):
            run.log(2, {})
    assert [path.name for path in run.folder.iterdir()] == ["lock"]


def replace_and_go_on(folder: Path) -> None:
    with Run.create(folder, "example", {}) as run:
        shutil.rmtree(folder)
        folder.mkdir()  # as another untrained process would
        for name in ("lock", "config.json"):
            (folder / name).write_text("")
        run.log(1, {})


def test_an_untrained_run_does_not_delete_a_replaced_folder(
    tmp_path: Path,
) -> None:
    with pytest.raises(RuntimeError, match="was removed or replaced"):
        replace_and_go_on(tmp_path / "run")
    assert sorted(path.name for path in (tmp_path / "run").iterdir()) == ["config.json", "lock"]


def test_new_runs_have_a_format_and_runs_without_one_are_read(copied: Path) -> None:
    path = copied / "config.json"
    about = json.loads(path.read_text())
    assert about.pop("format") == records.FORMAT == 1
    path.write_text(json.dumps(about))
    metarl("evaluate", copied, *FEW)
    metarl("resume", copied, "--iterations", 7)
    assert json.loads(path.read_text())["format"] == 1  # because the file was written again


@pytest.mark.parametrize(
    ("number", "expected"),
    [
        (2, "has format 2: expected 1. A newer version of metarl wrote the run: upgrade metarl"),
        (0, "has format 0: expected 1. Restore the file from a backup"),
        (10**400, "has format 100000000: expected 1. A newer version of metarl wrote the run"),
        (1.0, "is not a metarl configuration (expected `format` as an integer, got '1.0')"),
        (True, "is not a metarl configuration (expected `format` as an integer, got 'True')"),
        ("1", "is not a metarl configuration (expected `format` as an integer, got '1')"),
        (None, "is not a metarl configuration (expected `format` as an integer, got 'None')"),
    ],
    ids=lambda value: str(value)[:20],
)
def test_runs_in_the_format_of_a_different_version_are_rejected(
    number: Any, expected: str, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = copied / "config.json"
    newer: dict[str, Any] = {"format": number, "trained": {}}  # other entries have changed, too
    path.write_text(json.dumps(newer))
    for words in (["evaluate"], ["resume"], ["push", "--no-picture"], ["plot"]):
        out = {"push": [copied.with_name("out")], "plot": ["--out", copied.with_name("out.png")]}
        line = refusal(capsys, words[0], copied, *words[1:], *out.get(words[0], []))
        assert f"{path} {expected}" in line
    assert json.loads(path.read_text()) == newer
