"""Worker processes that are stopped or hang: a signal and a time limit end the run."""

import contextlib
import json
import multiprocessing
import os
import shutil
import signal
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import pytest
from torch.testing import assert_close

from metarl.commands import cli
from metarl.runs import checkpoint, stopping
from metarl.runs.folder import Run
from tests.support import own_environment, ranks
from tests.support.commands import history, metarl
from tests.support.robustness import end_of


TRAIN = ["train", "vpg-maml", "--num-tasks", "2", "--episodes-per-task", "2", "--hidden", "4"]
TRAIN += ["--iterations", "6", "--checkpoint-every", "6"]
ASYNC = ["--vectorization", "async"]
pytestmark = pytest.mark.skipif(not Path("/proc/self/task").exists(), reason="requires Linux")


def command(argv: list[str]) -> None:
    """Run a command line in a separate process, with a shorter grace period."""
    os.dup2(os.open(os.devnull, os.O_WRONLY), 1)
    stopping.GRACE = 1.0
    multiprocessing.set_start_method("fork", force=True)  # workers are children of this process
    gymnasium.register("own/Slow-v0", Slow, max_episode_steps=5)
    cli.main(argv)


@contextlib.contextmanager
def started(*argv: Any) -> Iterator[Any]:
    """Start a command line; the process and its workers are killed at the end."""
    process = ranks.processes().Process(target=command, args=([str(word) for word in argv],))
    process.start()
    try:
        yield process
    finally:
        pids = children(process.pid)
        process.kill()
        process.join()
        for pid in pids:
            with contextlib.suppress(ProcessLookupError):
                os.kill(pid, signal.SIGKILL)


def children(pid: int) -> list[int]:
    path = Path(f"/proc/{pid}/task/{pid}/children")
    return [int(word) for word in path.read_text().split()] if path.exists() else []


@pytest.mark.parametrize(("number", "every"), [(signal.SIGTERM, 1), (signal.SIGINT, 3)])
def test_the_first_signal_saves_a_checkpoint_while_a_worker_is_stopped(
    number: signal.Signals, every: int, tmp_path: Path
) -> None:
    words, run = [*TRAIN, "--log-every", every], tmp_path / "run"
    with started(*words, *ASYNC, "--out", run) as process:
        ranks.wait_for_lines([process], run, 1)
        workers = children(process.pid)
        os.kill(workers[1], signal.SIGSTOP)
        time.sleep(0.5)  # the run waits for the worker, if it is still training
        os.kill(process.pid, number)
        process.join(60)
        assert process.exitcode == 128 + number
        assert not any(Path(f"/proc/{worker}").exists() for worker in workers)
    assert max(Run.open(run).checkpoints()) >= 1
    metarl("resume", run, "--worker-timeout", 300)
    metarl(*words, "--out", tmp_path / "whole")
    last = [folder / "checkpoints/00000006.safetensors" for folder in (run, tmp_path / "whole")]
    assert_close(*[checkpoint.load(path).params for path in last], rtol=0, atol=0)
    assert every > 1 or history(run) == history(tmp_path / "whole")


class Slow(own_environment.Mark):
    """An environment whose time steps take so long that signals arrive during a rollout."""

    def step(self, action: Any) -> Any:
        del action
        time.sleep(0.1)
        return super().step([-1.0])


def test_ctrl_c_in_a_terminal_saves_a_checkpoint(tmp_path: Path) -> None:
    """The terminal sends SIGINT to all processes, so that the workers end before the iteration."""
    words = [*TRAIN, "--env", "own/Slow-v0", "--iterations", 200, "--checkpoint-every", 200]
    run = tmp_path / "run"
    with started(*words, *ASYNC, "--out", run) as process:
        ranks.wait_for_lines([process], run, 1)
        time.sleep(0.3)  # in the second iteration, which takes one second
        for pid in [process.pid, *children(process.pid)]:
            os.kill(pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 128 + signal.SIGINT
    iteration = max(Run.open(run).checkpoints())
    assert 1 <= iteration == ranks.lines(run) < 200


class Hangs(own_environment.Mark):
    """An environment whose third time step never ends in one task."""

    def reset(self, **kwargs: Any) -> Any:
        self.steps = 0
        return super().reset(**kwargs)

    def step(self, action: Any) -> Any:
        self.steps += 1
        while self.steps == 3 and self.mark > 0:
            time.sleep(60)
        return super().step([-1.0])


def test_a_time_limit_ends_a_run_whose_simulator_hangs(tmp_path: Path) -> None:
    own_environment.forget("own/Hangs")
    gymnasium.register("own/Hangs-v0", Hangs, max_episode_steps=5)
    words = [*TRAIN, "--env", "own/Hangs-v0", *ASYNC, "--worker-timeout", "1.5"]
    begun = time.monotonic()
    done = end_of(*words, "--out", tmp_path / "run")
    assert time.monotonic() - begun < 60
    assert done.code == 1
    assert "own/Hangs-v0 failed in step: process " in done.message
    assert 'of 4 did not answer within 1.5 s in task {"mark": 0.' in done.message
    assert not (tmp_path / "run").exists()


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A run with worker processes and a time limit."""
    folder = tmp_path_factory.mktemp("runs") / "run"
    words = ["--iterations", 1, "--checkpoint-every", 1, *ASYNC, "--worker-timeout", 2]
    metarl(*TRAIN[:-4], *words, "--out", folder)
    return folder


def stopped_worker(process: Any) -> int:
    """Stop a worker process as soon as all four have started and worked; return its ID."""
    deadline = time.monotonic() + 120
    while len(found := children(process.pid)) < 4 or cpu_time(found[-1]) < 2:
        assert process.is_alive()
        assert time.monotonic() < deadline
        time.sleep(0.01)
    os.kill(found[1], signal.SIGSTOP)
    return found[1]


def cpu_time(pid: int) -> int:
    """Return the user time of a process in hundredths of a second."""
    return int(Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[11])


EVALUATE = ["--num-tasks", 2, "--episodes-per-task", 2, "--inner-steps", 300]


def test_a_time_limit_ends_an_evaluation_with_a_stopped_worker(trained: Path) -> None:
    with started("evaluate", trained, *EVALUATE) as process:
        worker = stopped_worker(process)
        process.join(60)
        assert process.exitcode == 1
        assert not Path(f"/proc/{worker}").exists()


def test_ctrl_c_ends_an_evaluation_with_a_stopped_worker(trained: Path, tmp_path: Path) -> None:
    waiting = tmp_path / "run"
    shutil.copytree(trained, waiting)
    about = json.loads((waiting / "config.json").read_text())
    about["config"]["worker_timeout"] = None
    (waiting / "config.json").write_text(json.dumps(about))
    with started("evaluate", waiting, *EVALUATE) as process:
        worker = stopped_worker(process)
        time.sleep(0.5)
        os.kill(process.pid, signal.SIGINT)
        process.join(60)
        assert process.exitcode == 130
        assert not Path(f"/proc/{worker}").exists()


def test_a_time_limit_requires_worker_processes(tmp_path: Path) -> None:
    done = end_of(*TRAIN, "--worker-timeout", 5, "--out", tmp_path / "run")
    assert "--worker-timeout requires --vectorization async, got auto" in done.message
