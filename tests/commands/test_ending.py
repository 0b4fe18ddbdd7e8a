"""How commands end: closed outputs, exhausted memory, hostile text and invalid variables."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from metarl.commands import cli
from metarl.runs import checkpoint
from tests.support.commands import FEW, TRAIN, metarl, refusal


POSIX = pytest.mark.skipif(sys.platform == "win32", reason="requires signals of POSIX")
HOSTILE = "metarl/\x1b]0;title\x07\x1b[2J\x9b31m\nmetarl: verified\u202e-v0"


@POSIX
@pytest.mark.parametrize(
    "words", ["--version", "--help", "train --help", "train maml-trpo --help", "methods", "envs"]
)
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_closed_pipe_ends_a_command_without_a_message(words: str, unbuffered: str) -> None:
    command = f"set -o pipefail; {sys.executable} -m metarl {words} | true"
    environment = os.environ | {"PYTHONUNBUFFERED": unbuffered}
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True, env=environment)
    assert (done.returncode, done.stderr) == (141, "")  # as of a program that SIGPIPE stops


@POSIX
def test_errors_to_a_closed_pipe_end_without_a_traceback() -> None:
    command = f"set -o pipefail; {sys.executable} -m metarl rendr 2>&1 >&3 | true"
    done = subprocess.run(["bash", "-c", f"exec 3>&1; {command}"], capture_output=True, text=True)
    assert (done.returncode, done.stdout, done.stderr) == (141, "", "")


@pytest.mark.skipif(not Path("/dev/full").exists(), reason="requires /dev/full of Linux")
@pytest.mark.parametrize("unbuffered", ["", "1"])
def test_a_full_disk_gives_a_one_line_error(unbuffered: str) -> None:
    command = f"PYTHONUNBUFFERED={unbuffered} {sys.executable} -m metarl --help > /dev/full"
    done = subprocess.run(["bash", "-c", command], capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr == "metarl: error: [Errno 28] No space left on device\n"


def test_a_broken_pipe_to_another_process_is_an_error(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def fail(args: object) -> None:
        raise BrokenPipeError(32, "Broken pipe")

    monkeypatch.setattr("metarl.commands.envs.main", fail)
    assert "Broken pipe" in refusal(capsys, "envs")


def exhausted() -> dict[str, BaseException]:
    """Return the errors of Python, NumPy, PyTorch on both devices and the operating system."""
    return {
        "Python": MemoryError(),
        "NumPy": MemoryError("Unable to allocate 8.00 EiB for an array with shape (9,)"),
        "CPU": RuntimeError(
            "[enforce fail at alloc_cpu.cpp:117] err == 0. DefaultCPUAllocator: can't allocate "
            "memory: you tried to allocate 4000000000000 bytes. Error code 12 (Cannot allocate)"
        ),
        "CUDA": RuntimeError("CUDA out of memory. Tried to allocate 20.00 GiB. GPU 0 has 1 GiB."),
        "fork": OSError(12, "Cannot allocate memory"),
    }


@pytest.mark.parametrize("kind", ["Python", "NumPy", "CPU", "CUDA", "fork"])
def test_exhausted_memory_gives_an_error_that_names_the_flags_to_reduce(
    kind: str, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    def fail(*args: Any) -> None:
        raise exhausted()[kind]

    monkeypatch.setattr("metarl.training.start", fail)
    error = refusal(capsys, *TRAIN, "--out", tmp_path / "run")
    assert "not enough memory: reduce --chunk-size or --num-tasks or --episodes-per-task" in error
    monkeypatch.setattr("metarl.commands.envs.main", fail)
    assert "not enough memory: close other programs" in refusal(capsys, "envs")
    monkeypatch.setattr(cli, "run", fail)
    refusal(capsys, "envs")


def change_environment(run: Path, env: str) -> None:
    """Change the environment ID in config.json and in the checkpoints."""
    about = json.loads((run / "config.json").read_text())
    about["config"]["env"] = env
    (run / "config.json").write_text(json.dumps(about))
    for path in (run / "checkpoints").iterdir():
        saved = checkpoint.load(path)
        checkpoint.write(path, saved._replace(config=saved.config | {"env": env}))


def is_harmless(text: str) -> bool:
    return all(x.isprintable() or x == "\n" for x in text)


def test_control_characters_in_files_of_a_run_are_not_printed(
    copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_environment(copied, HOSTILE)
    for words in (["evaluate", copied, *FEW], ["render", copied, "--out", copied / "a.png"]):
        error = refusal(capsys, *words)
        assert "\ufffd" in error
        assert is_harmless(error)
    metarl("plot", copied, "--out", copied / "a.png")
    printed = capsys.readouterr()
    assert is_harmless(printed.out + printed.err)


def test_control_characters_in_the_module_of_a_pulled_run_are_not_printed(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    change_environment(copied, f"{HOSTILE}:X-v0")
    metarl("pull", copied, "--out", tmp_path / "pulled")
    printed = capsys.readouterr()
    assert "do not import the module metarl/\ufffd]0;title" in printed.out
    assert is_harmless(printed.out + printed.err)
    assert len(printed.out.splitlines()) == 2


def test_tracebacks_contain_no_control_characters(copied: Path) -> None:
    change_environment(copied, HOSTILE)
    words = [sys.executable, "-m", "metarl", "evaluate", str(copied), *FEW, "--debug"]
    done = subprocess.run(words, capture_output=True, text=True)
    assert done.returncode == 1
    assert done.stderr.startswith("Traceback")
    assert is_harmless(done.stderr)


@pytest.mark.parametrize(
    ("variables", "expected"),
    [
        ({"WORLD_SIZE": "x"}, "WORLD_SIZE must be an integer of at least 1, got 'x'"),
        ({"WORLD_SIZE": "-1"}, "WORLD_SIZE must be an integer of at least 1, got '-1'"),
        ({"WORLD_SIZE": "1.5"}, "WORLD_SIZE must be an integer of at least 1, got '1.5'"),
        ({"WORLD_SIZE": "9" * 30}, "WORLD_SIZE must be an integer of at least 1, got '999"),
        ({"WORLD_SIZE": "0"}, "WORLD_SIZE must be an integer of at least 1, got '0'"),
        ({"WORLD_SIZE": "2", "RANK": "x"}, "RANK must be an integer of at least 0, got 'x'"),
        ({"WORLD_SIZE": "2", "RANK": "-1"}, "RANK must be an integer of at least 0, got '-1'"),
        (
            {"WORLD_SIZE": "2", "RANK": "0", "MASTER_PORT": "x"},
            "MASTER_PORT must be an integer of at least 0, got 'x'",
        ),
        ({"WORLD_SIZE": "2", "RANK": "2"}, "RANK must be less than WORLD_SIZE=2, got 2"),
    ],
    ids=str,
)
def test_invalid_variables_of_torchrun_are_named(
    variables: dict[str, str], expected: str, tmp_path: Path,
    capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch,
) -> None:  # fmt: skip
    for name, value in variables.items():
        monkeypatch.setenv(name, value)
    for words in ([*TRAIN, "--out", tmp_path / "run"], ["resume", tmp_path]):
        assert expected in refusal(capsys, *words)
    if variables["WORLD_SIZE"] != "2":
        assert expected in refusal(capsys, "compare", "promp", "maml-trpo", "--out", tmp_path)


def test_an_invalid_local_rank_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("LOCAL_RANK", "x")
    monkeypatch.setattr("torch.cuda.is_available", lambda: True)
    error = refusal(capsys, *TRAIN, "--device", "cuda", "--out", tmp_path / "run")
    assert "LOCAL_RANK must be an integer of at least 0, got 'x'" in error
