"""Training and resuming: equal results, however a process ends."""

import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
from safetensors.numpy import load_file

from metarl.commands import cli
from tests.support import nightly
from tests.support.commands import TRAIN, checkpoints, history, metarl, refusal


def test_equal_seeds_give_equal_runs_and_different_seeds_do_not(
    whole: Path, tmp_path: Path
) -> None:
    metarl(*TRAIN, "--iterations", 6, "--out", tmp_path / "again")
    assert history(tmp_path / "again") == history(whole)
    assert checkpoints(tmp_path / "again") == checkpoints(whole)
    metarl(*TRAIN, "--iterations", 1, "--seed", 1, "--out", tmp_path / "other")
    assert history(tmp_path / "other") != history(whole)[:1]


@pytest.mark.nightly
def test_the_number_of_threads_does_not_change_results(whole: Path, tmp_path: Path) -> None:
    for threads in ("1", "2", "3"):
        command = [sys.executable, "-m", "metarl", *TRAIN, "--iterations", "3"]
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        out = tmp_path / threads
        subprocess.run([*command, "--out", str(out)], check=True, env=environment)
        assert history(out) == history(whole)[:3]


@pytest.mark.parametrize("dies_at", [nightly(0), 1, nightly(3), 4, 5])
def test_resume_continues_bit_for_bit(whole: Path, copied: Path, dies_at: int) -> None:
    """Recreate the files of a process that was killed during an iteration."""
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (copied / "metrics.jsonl").write_text("".join(lines[:dies_at]) + lines[dies_at][:20])
    for path in (copied / "checkpoints").iterdir():
        if int(path.stem) > dies_at:
            path.rename(path.with_name(f".{path.name}.tmp"))
            path.with_name(f".{path.name}.tmp").write_bytes(b"half a checkp")
    metarl("resume", copied)
    assert history(copied) == history(whole)
    assert checkpoints(copied) == checkpoints(whole)


def test_resume_after_a_crash_before_the_first_iteration(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole / "config.json", run)
    (run / "lock").touch()
    metarl("resume", run)
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)


@pytest.mark.nightly  # runs/test_long_runs.py kills processes more often
def test_a_killed_process_is_resumed_bit_for_bit(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    command = [
        sys.executable,
        "-m",
        "metarl",
        *TRAIN,
        "--iterations",
        "6",
        "--out",
        str(run),
    ]
    process = subprocess.Popen(command)
    deadline = time.monotonic() + 120
    while time.monotonic() < deadline and process.poll() is None:
        written = run / "metrics.jsonl"
        if written.exists() and len(written.read_text().splitlines()) >= 3:
            break
        time.sleep(0.005)
    process.send_signal(signal.SIGKILL)
    process.wait()
    metarl("resume", run)
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)


def test_resume_of_a_complete_run_reports_it_and_can_train_longer(
    whole: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("resume", copied)
    assert "complete" in capsys.readouterr().out
    metarl("resume", copied, "--iterations", 7)
    assert len(history(copied)) == 7
    assert history(copied)[:6] == history(whole)


def test_resume_falls_back_to_the_last_valid_checkpoint(
    whole: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    last = copied / "checkpoints/00000006.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    metarl("resume", copied)
    assert "not a valid metarl checkpoint" in capsys.readouterr().err
    assert history(copied) == history(whole)
    assert checkpoints(copied) == checkpoints(whole)
    assert load_file(last)


def test_resume_changes_nothing_without_readable_checkpoints_or_metrics(
    whole: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (copied / "metrics.jsonl").write_text("")
    (copied / "checkpoints/00000006.safetensors").unlink()
    line = refusal(capsys, "resume", copied, "--iterations", 9)
    assert "does not have all lines up to iteration 4" in line
    assert (copied / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    for path in (copied / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    (copied / "metrics.jsonl").write_bytes((whole / "metrics.jsonl").read_bytes())
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["resume", str(copied), "--iterations", "1"])
    assert "the run was not changed" in capsys.readouterr().err.splitlines()[-1]
    assert history(copied) == history(whole)
    assert {path.read_bytes() for path in (copied / "checkpoints").iterdir()} == {b"damaged"}


def test_resume_without_checkpoints_keeps_the_metrics(
    whole: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (copied / "checkpoints").iterdir():
        path.unlink()
    line = refusal(capsys, "resume", copied, "--iterations", 9)
    assert "has metrics up to iteration 6 but no checkpoint. Restore the folder" in line
    assert history(copied) == history(whole)
    assert (copied / "config.json").read_bytes() == (whole / "config.json").read_bytes()
    assert not list((copied / "checkpoints").iterdir())
