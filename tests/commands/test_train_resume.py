"""Training and resuming: the same numbers, however a process ends."""

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
from tests.support.commands import TRAIN, checkpoints, history, metarl, refusal


def test_the_same_seed_gives_the_same_run_and_another_does_not(whole: Path, tmp_path: Path) -> None:
    metarl(*TRAIN, "--iterations", 6, "--out", tmp_path / "again")
    assert history(tmp_path / "again") == history(whole)
    assert checkpoints(tmp_path / "again") == checkpoints(whole)
    metarl(*TRAIN, "--iterations", 1, "--seed", 1, "--out", tmp_path / "other")
    assert history(tmp_path / "other") != history(whole)[:1]


@pytest.mark.slow
def test_the_number_of_threads_changes_nothing(whole: Path, tmp_path: Path) -> None:
    for threads in ("1", "2", "3"):
        command = [sys.executable, "-m", "metarl", *TRAIN, "--iterations", "3"]
        environment = os.environ | {"OMP_NUM_THREADS": threads, "MKL_NUM_THREADS": threads}
        out = tmp_path / threads
        subprocess.run([*command, "--out", str(out)], check=True, env=environment)
        assert history(out) == history(whole)[:3]


@pytest.mark.parametrize("dies_at", [0, 1, 3, 4, 5])
def test_resume_continues_bit_for_bit(whole: Path, tmp_path: Path, dies_at: int) -> None:
    """Rebuild what a process leaves that dies in the middle of an iteration."""
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    lines = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    (run / "metrics.jsonl").write_text("".join(lines[:dies_at]) + lines[dies_at][:20])
    for path in (run / "checkpoints").iterdir():
        if int(path.stem) > dies_at:
            path.rename(path.with_name(f".{path.name}.tmp"))
            path.with_name(f".{path.name}.tmp").write_bytes(b"half a checkp")
    metarl("resume", run)
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)


def test_resume_of_a_run_that_died_at_birth(whole: Path, tmp_path: Path) -> None:
    run = tmp_path / "run"
    run.mkdir()
    shutil.copy(whole / "config.json", run)
    (run / "lock").touch()
    metarl("resume", run)
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)


@pytest.mark.slow
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


def test_resume_of_a_whole_run_says_so_and_can_go_further(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    metarl("resume", run)
    assert "complete" in capsys.readouterr().out
    metarl("resume", run, "--iterations", 7)
    assert len(history(run)) == 7
    assert history(run)[:6] == history(whole)


def test_resume_falls_back_to_the_last_whole_checkpoint(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    last = run / "checkpoints/00000006.safetensors"
    last.write_bytes(last.read_bytes()[:100])
    metarl("resume", run)
    assert "not a valid metarl checkpoint" in capsys.readouterr().err
    assert history(run) == history(whole)
    assert checkpoints(run) == checkpoints(whole)
    assert load_file(last)


def test_resume_changes_nothing_where_no_checkpoint_or_not_all_metrics_can_be_read(
    whole: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    run = tmp_path / "run"
    shutil.copytree(whole, run)
    (run / "metrics.jsonl").write_text("")
    (run / "checkpoints/00000006.safetensors").unlink()
    assert "does not have all lines up to iteration 4" in refusal(capsys, "resume", run)
    for path in (run / "checkpoints").iterdir():
        path.write_bytes(b"damaged")
    (run / "metrics.jsonl").write_bytes((whole / "metrics.jsonl").read_bytes())
    capsys.readouterr()
    with pytest.raises(SystemExit):
        cli.main(["resume", str(run), "--iterations", "1"])
    assert "nothing was changed" in capsys.readouterr().err.splitlines()[-1]
    assert history(run) == history(whole)
    assert {path.read_bytes() for path in (run / "checkpoints").iterdir()} == {b"damaged"}
