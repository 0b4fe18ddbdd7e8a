"""Robustness of runs: kills, signals, full disks, damaged files and failing trackers."""

import errno
import os
import random
import signal
import time
from pathlib import Path
from typing import Any

import pytest

from metarl.commands import cli
from metarl.runs import checkpoint, stopping, trackers
from metarl.runs.folder import Run
from tests.support import nightly, ranks
from tests.support.commands import checkpoints, history, metarl, refusal
from tests.support.ranks import lines


# A fast method whose checkpoints contain the moments of an outer optimizer.
TRAIN = ["train", "vpg-maml", "--num-tasks", "2", "--episodes-per-task", "2", "--hidden", "4"]


def command(argv: list[str]) -> None:
    """Run a command line in a separate process, without progress output."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    cli.main(argv)


def started(*argv: Any) -> Any:
    process = ranks.processes().Process(target=command, args=([str(word) for word in argv],))
    process.start()
    return process


def finished(*argv: Any) -> None:
    """Run a command line in a process without runtime shape checks."""
    process = started(*argv)
    process.join()
    assert process.exitcode == 0


@pytest.mark.parametrize(("kills", "iterations"), [(4, 20), nightly(25, 120)])
def test_a_run_killed_at_random_times_equals_an_uninterrupted_one(
    kills: int, iterations: int, tmp_path: Path
) -> None:
    words = [*TRAIN, "--iterations", iterations, "--checkpoint-every", 4, "--keep-checkpoints", 2]
    finished(*words, "--out", tmp_path / "whole")
    killed, chance = tmp_path / "killed", random.Random(0)
    for _ in range(kills):  # at most 4 lines each, so that the run never ends first
        begun = (killed / "config.json").exists()
        argv = ["resume", killed] if begun else [*words, "--out", killed]
        process = started(*argv)
        ranks.wait_for_lines([process], killed, chance.randrange(4))
        time.sleep(chance.random() * 0.02)
        assert process.is_alive()
        process.kill()
        process.join()
        assert process.exitcode == -signal.SIGKILL
    finished("resume", killed)
    assert checkpoints(killed) == checkpoints(tmp_path / "whole")
    assert history(killed) == history(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_writes_a_checkpoint_and_prints_the_resume_command(
    tmp_path: Path, number: signal.Signals
) -> None:
    words = [*TRAIN, "--iterations", 30, "--checkpoint-every", 30]
    finished(*words, "--out", tmp_path / "whole")
    asked = tmp_path / "asked"
    process = started(*words, "--out", asked)
    ranks.wait_for_lines([process], asked, 2)
    os.kill(process.pid, number)
    process.join()
    assert process.exitcode == 128 + number
    stopped = max(Run.open(asked).checkpoints())
    assert 2 <= stopped < 30
    assert lines(asked) == stopped
    finished("resume", asked)
    final = "00000030.safetensors"
    assert checkpoints(asked)[final] == checkpoints(tmp_path / "whole")[final]
    assert history(asked) == history(tmp_path / "whole")


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_repeated_signal_is_ignored_for_a_second(
    number: signal.Signals, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    default = signal.signal(number, signal.default_int_handler)
    times = iter([10.0, 10.0, 10.9, 11.1])
    monkeypatch.setattr(stopping.time, "monotonic", lambda: next(times))
    try:
        with stopping.StopSignal() as stop:
            for _ in range(3):
                signal.raise_signal(number)
            assert stop.received == number
            with pytest.raises(KeyboardInterrupt):
                signal.raise_signal(number)
    finally:
        assert signal.signal(number, default) == signal.default_int_handler
    assert capsys.readouterr().err.count("stopping at the next checkpoint") == 1


def test_averaged_metrics_after_a_signal_equal_those_of_an_uninterrupted_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A run stops at the end of a metrics interval."""
    words = ["train", "regression", "--iterations", 12, "--log-every", 4, "--checkpoint-every", 12]
    metarl(*words, "--out", tmp_path / "whole")
    from metarl.core import seeding

    drawn = seeding.torch_generator

    def interrupting(seed: int, iteration: int, role: str, **kwargs: Any) -> Any:
        if (iteration, role) == (5, "tasks"):
            signal.raise_signal(signal.SIGTERM)
        return drawn(seed, iteration, role, **kwargs)

    argv = [str(word) for word in (*words, "--out", tmp_path / "asked")]
    with monkeypatch.context() as patch:
        patch.setattr("metarl.experiments.supervised.torch_generator", interrupting)
        with pytest.raises(SystemExit) as stopped:
            cli.main(argv)
    assert stopped.value.code == 128 + signal.SIGTERM
    assert Run.open(tmp_path / "asked").checkpoints() == [0, 8]
    metarl("resume", tmp_path / "asked")
    assert history(tmp_path / "asked") == history(tmp_path / "whole")


def test_only_the_newest_checkpoints_and_the_initialization_are_kept(tmp_path: Path) -> None:
    words = [*TRAIN, "--iterations", 6, "--checkpoint-every", 1, "--keep-checkpoints", 2]
    metarl(*words, "--out", tmp_path / "run")
    assert Run.open(tmp_path / "run").checkpoints() == [0, 5, 6]


def test_a_flipped_bit_is_detected_and_an_older_checkpoint_used(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    folder = tmp_path / "run"
    metarl(*TRAIN, "--iterations", 4, "--checkpoint-every", 2, "--out", folder)
    undisturbed = checkpoints(folder)
    path = folder / "checkpoints" / "00000004.safetensors"
    data = bytearray(path.read_bytes())
    data[-3] ^= 1  # in a tensor, which safetensors does not detect
    path.write_bytes(data)
    with pytest.raises(ValueError, match="checksum does not match"):
        checkpoint.load(path)
    capsys.readouterr()
    metarl("resume", folder)
    told = capsys.readouterr()
    assert "checksum does not match" in told.err
    assert "resuming" in told.out
    assert checkpoints(folder) == undisturbed


@pytest.mark.parametrize("file", ["checkpoints", "metrics.jsonl"])
def test_a_full_disk_gives_a_one_line_error_and_loses_nothing(
    file: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    words = [*TRAIN, "--iterations", 4, "--checkpoint-every", 1]
    metarl(*words, "--out", tmp_path / "whole")
    folder, written = tmp_path / "run", os.fsync

    def full(descriptor: int) -> None:
        target = os.readlink(f"/proc/self/fd/{descriptor}")
        third = lines(folder) >= 3 and (file == "metrics.jsonl" or "00000003" in target)
        if file in target and third:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        written(descriptor)

    with monkeypatch.context() as patch:
        patch.setattr(os, "fsync", full)
        told = refusal(capsys, *words, "--out", folder)
    assert "No space left on device" in told
    assert str(folder) in told
    assert not list(folder.rglob("*.tmp"))
    metarl("resume", folder)
    assert checkpoints(folder) == checkpoints(tmp_path / "whole")
    assert history(folder) == history(tmp_path / "whole")


class Failing(trackers.Tracker):
    """A tracker with a failing network."""

    def __init__(self, run: Run, start: int) -> None:
        del run, start

    def log(self, iteration: int, metrics: dict[str, float]) -> None:
        raise ConnectionError("no route to host")

    def show(self, iteration: int, name: str, path: Path) -> None:
        raise ConnectionError("no route to host")

    def close(self, *, failed: bool) -> None:
        raise ConnectionError("no route to host")


@pytest.mark.parametrize("when", ["made", "used"])
def test_a_failing_tracker_does_not_stop_a_run(
    when: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(run: Run, start: int) -> Failing:
        if when == "made":
            raise PermissionError("not allowed")
        return Failing(run, start)

    monkeypatch.setitem(trackers._TRACKERS, "tensorboard", (broken, "json", "track"))
    metarl(*TRAIN, "--iterations", 3, "--track", "tensorboard", "--out", tmp_path / "run")
    told = capsys.readouterr().err
    assert told.count("track=tensorboard failed") == 1
    assert lines(tmp_path / "run") == 3
