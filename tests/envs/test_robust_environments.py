"""Faulty environments: a run succeeds, or a one-line error names the environment."""

import gc
import itertools
import multiprocessing
import os
import signal
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from metarl.rl.vector_env import Checked, EnvironmentFailed
from tests.support.own_environment import Mark, forget
from tests.support.robustness import Outcome, cases, contents, end_of


TRAIN = ["train", "vpg-maml", "--num-tasks", 1, "--episodes-per-task", 2, "--hidden", 3]
TRAIN += ["--iterations", 2, "--checkpoint-every", 1]
SB3 = ["train", "sb3", "--algo", "a2c", "--num-envs", 2, "--episodes", 2, "--eval-every", 10]
SB3 += ["--iterations", 1, "--hidden", 3]
HORIZON = 4


class Local(Exception):
    """An exception that cannot be unpickled, because its constructor has two arguments."""

    def __init__(self, one: int, two: int) -> None:
        super().__init__(f"{one} of {two}\nare 50% %d wrong")


def unpicklable() -> Exception:
    class Hidden(Exception):
        pass

    return Hidden(lambda: None)


RAISED: dict[str, Any] = {
    "KeyError": lambda: KeyError("wheel"),
    "AssertionError": AssertionError,
    "RecursionError": RecursionError,
    "MemoryError": MemoryError,
    "OSError": lambda: OSError(5, "no robot"),
    "EOFError": EOFError,
    "StopIteration": StopIteration,
    "SystemExit": lambda: SystemExit(3),
    "Local": lambda: Local(1, 2),
    "Hidden": unpicklable,
    "long": lambda: ValueError("x" * 10_000),
    "empty": lambda: Exception(""),
}
NUMBERS = [float("nan"), float("inf"), -float("inf"), 1e300, 3e38, -1, True, np.float32(1)]
NO_NUMBERS = [None, "1.0", [1.0], np.ones(1), np.ones((2, 2)), {}, 1j, object]
OBSERVATIONS: dict[str, Any] = {
    "more": np.zeros(3),
    "fewer": np.zeros(1),
    "none": np.zeros(0),
    "scalar": np.float32(0),
    "column": np.zeros((2, 1)),
    "double": np.zeros(2),
    "integers": np.zeros(2, int),
    "complex": np.zeros(2, complex),
    "text": np.array(["a", "b"]),
    "objects": np.array([None, 1]),
    "list": [0.0, 0.0],
    "NaN": np.full(2, np.nan),
    "inf": np.array([0, np.inf]),
    "None": None,
    "dict": {"x": 0.0},
}
RETURNED = ("seen", "reward", "terminated", "truncated", "info")
PLACES = ("__init__", "sample_tasks", "task", "reset", "step")


class Scripted(Mark):
    """An environment with a single fault in step `when`."""

    def __init__(self, script: dict[str, Any]) -> None:
        self.script, self.steps = script, 0
        self._fail("__init__")
        super().__init__()

    @property
    def task(self) -> Any:
        return self._task

    @task.setter
    def task(self, value: Any) -> None:
        self._fail("task")
        self._task = value

    def _fail(self, place: str) -> None:
        if self.script.get("place", "step") == place and "raises" in self.script:
            raise RAISED[self.script["raises"]]()

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Any:
        self._fail("sample_tasks")
        return self.script.get("tasks", super().sample_tasks(num_tasks, rng))

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        self._fail("reset")
        seen, info = super().reset(seed=seed)
        self.steps = 0
        return self.script.get("returned by reset", (seen, info))

    def step(self, action: Any) -> Any:
        self.steps += 1
        kept = dict(zip(RETURNED, super().step(action), strict=True))
        if self.steps < self.script["when"]:
            return tuple(kept.values())
        self._fail("step")
        if "kill" in self.script:
            os.kill(os.getpid(), self.script["kill"])
        if "space" in self.script:
            self.observation_space = gymnasium.spaces.Box(0, 1, (3,), np.float32)
            self.action_space = gymnasium.spaces.Discrete(2)
        kept |= {name: self.script[name] for name in kept if name in self.script}
        return tuple(kept.values())[: self.script.get("length", 5)]


COUNT = itertools.count()


def register(script: dict[str, Any]) -> str:
    """Register a scripted environment under a unique name."""
    forget("scripted/")
    env_id = f"scripted/Env{next(COUNT)}-v0"
    gymnasium.register(
        env_id,
        Scripted,
        max_episode_steps=HORIZON,
        kwargs={"script": script},
        disable_env_checker=True,
    )
    return env_id


any_number = st.sampled_from(NUMBERS + NO_NUMBERS)
scripts: st.SearchStrategy[dict[str, Any]] = st.fixed_dictionaries(
    {"when": st.integers(1, HORIZON + 1)},
    optional={
        "reward": any_number,
        "seen": st.sampled_from(sorted(OBSERVATIONS)).map(OBSERVATIONS.get),
        "terminated": any_number,
        "truncated": any_number,
        "info": st.sampled_from([{}, None, [], "all well", {"diverged": True}, {"diverged": None}]),
        "length": st.integers(0, 5),
        "raises": st.sampled_from(sorted(RAISED)),
        "place": st.sampled_from(PLACES),
        "space": st.just(True),
        "returned by reset": st.sampled_from([None, (), np.zeros(2), (np.zeros(2), None), "ready"]),
        "tasks": st.sampled_from([None, [], [{}], [{}, {}], [[], []], "ab", [{"mark": {1}}] * 2]),
    },
)


def trains(env_id: str, out: Path, *more: Any) -> Outcome:
    """Train; training succeeds, or a one-line error names the environment and no files remain."""
    done = end_of(*(more or TRAIN), "--env", env_id, "--out", out)
    if done.code:
        assert env_id in done.message or "iteration" in done.message
        assert not out.exists() or "metrics.jsonl" in contents(out)
    return done


@cases(0.3)
@given(script=scripts)
@example(script={"when": 1, "reward": None})
@example(script={"when": 2, "reward": float("nan")})
@example(script={"when": 1, "seen": np.zeros(3)})
@example(script={"when": 1, "length": 4})
@example(script={"when": 1, "terminated": True})
@example(script={"when": 1, "raises": "empty", "place": "sample_tasks"})
@example(script={"when": 1, "raises": "KeyError", "place": "task"})
@example(script={"when": 1, "raises": "long", "place": "__init__", "space": True})
def test_in_this_process(script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory) -> None:
    trains(register(script), tmp_path_factory.mktemp("sync") / "run")


@cases(0.1)
@given(script=scripts)
def test_under_stable_baselines(
    script: dict[str, Any], tmp_path_factory: pytest.TempPathFactory
) -> None:
    trains(register(script), tmp_path_factory.mktemp("sb3") / "run", *SB3)


@pytest.mark.nightly
@cases(0.03)
@given(script=scripts, kill=st.sampled_from([None, None, signal.SIGKILL, signal.SIGSEGV]))
@example(script={"when": 2}, kill=signal.SIGKILL)
@example(
    script={"when": 1, "seen": np.float32(0)}, kill=None
)  # would write to the shared memory of a different row
@example(script={"when": 1, "raises": "Hidden"}, kill=None)  # cannot be sent through the pipe
@example(script={"when": 1, "raises": "Local"}, kill=None)
def test_in_processes(
    script: dict[str, Any], kill: Any, tmp_path_factory: pytest.TempPathFactory
) -> None:
    """A killed process is reported immediately, and no process remains."""
    script = script | ({"kill": kill} if kill else {})
    out = tmp_path_factory.mktemp("async") / "run"
    done = trains(register(script), out, *TRAIN, "--vectorization", "async")
    gc.collect()  # files of a successful run
    assert not multiprocessing.active_children()
    assert not kill or script["when"] > HORIZON or done.code


def test_a_failed_command_can_be_repeated_after_a_fix(tmp_path: Path) -> None:
    script: dict[str, Any] = {"when": 3, "reward": float("nan")}
    env_id, out = register(script), tmp_path / "run"
    done = trains(env_id, out)
    assert f"{env_id} failed in step: the reward must be finite, got nan" in done.message
    del script["reward"]
    assert trains(env_id, out).code == 0


def test_a_non_finite_action_is_not_reported_as_an_environment_error() -> None:
    checked = Checked(gymnasium.make(register({"when": 1, "reward": float("inf")})))
    checked.reset()
    assert checked.step(np.array([np.nan]))[1] == float("inf")
    checked.reset()
    with pytest.raises(EnvironmentFailed, match="the reward must be finite, got inf"):
        checked.step(np.array([0.5]))
