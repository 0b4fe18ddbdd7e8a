"""The environment of docs/custom-environments.md as a module, and environments with faults."""

import os
import sys
from collections.abc import Iterator
from contextlib import AbstractContextManager, contextmanager
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
from gymnasium import spaces

from tests.support.pages import block


PAGE = "docs/custom-environments.md"


def playground(folder: Path) -> AbstractContextManager[Path]:
    """Save the page's environment as an importable module in `folder`, and unregister it later."""
    return saved(PAGE, "playground", folder, namespace="playground")


@contextmanager
def saved(page: str, module: str, folder: Path, *, namespace: str) -> Iterator[Path]:
    """Save a module that registers ids of one namespace, and unregister them later."""
    (folder / f"{module}.py").write_text(block(page, f"{module}.py"))
    sys.path.insert(0, str(folder))
    try:
        yield folder
    finally:
        sys.path.remove(str(folder))
        sys.modules.pop(module, None)
        forget(f"{namespace}/")


def register(name: str, *, horizon: int | None = 5, **kwargs: Any) -> str:
    """Register a class of this file and return its id."""
    env_id = f"own/{name}-v0"
    forget(f"own/{name}")
    gymnasium.register(env_id, f"{__name__}:{name}", max_episode_steps=horizon, **kwargs)
    return env_id


def forget(prefix: str) -> None:
    for env_id in [name for name in gymnasium.registry if name.startswith(prefix)]:
        del gymnasium.registry[env_id]


class Mark(gymnasium.Env[Any, Any]):
    """Guess an unobserved number; guesses above 1 end the episode."""

    observation_space: Any = spaces.Box(-np.inf, np.inf, (2,), np.float32)
    action_space: Any = spaces.Box(-1.0, 1.0, (1,), np.float32)

    def __init__(self) -> None:
        self.task: dict[str, Any] = {"mark": 0.0}

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Any:
        return [{"mark": mark} for mark in rng.uniform(-1, 1, num_tasks).tolist()]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.mark = self.task["mark"]
        return self._noise(), {}

    def step(self, action: Any) -> Any:
        guess = float(action[0])
        return self._noise(), -abs(guess - self.mark), guess > 1, False, self.info(guess)

    def info(self, guess: float) -> dict[str, Any]:
        del guess
        return {}

    def _noise(self) -> Any:
        return self.np_random.normal(size=2).astype(np.float32)


class Tells(Mark):
    """An environment that reports divergence as a NumPy boolean, and nothing otherwise."""

    def info(self, guess: float) -> dict[str, Any]:
        return {"diverged": np.bool_(True)} if guess > 0.5 else {}


class Raises(Mark):
    def info(self, guess: float) -> dict[str, Any]:
        return {}["wheel"]


class Dies(Mark):
    def info(self, guess: float) -> dict[str, Any]:
        os._exit(1)


class NoTask(Mark):
    def __init__(self) -> None:
        pass


class NoSampling(gymnasium.Wrapper[Any, Any, Any, Any]):
    metadata: ClassVar[Any] = {
        "render_modes": []
    }  # Gymnasium 1.2 reads this attribute from every entry point

    def __init__(self) -> None:
        super().__init__(gymnasium.make("CartPole-v1"))
        self.task = {"mark": 0.0}


class FewTasks(Mark):
    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Any:
        return super().sample_tasks(num_tasks - 1, rng)


class ArrayTasks(Mark):
    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Any:
        return [{"mark": mark} for mark in rng.uniform(-1, 1, (num_tasks, 1))]


class DictObservation(Mark):
    observation_space = spaces.Dict(
        {"part": spaces.Discrete(3), "position": Mark.observation_space}
    )

    def _noise(self) -> Any:
        return {"part": 1, "position": super()._noise()}


class ImageObservation(Mark):
    observation_space = spaces.Box(0, 255, (4, 4, 3), np.uint8)


class ManyActions(Mark):
    action_space = spaces.MultiDiscrete([2, 3])


class CountsFromOne(Mark):
    action_space = spaces.Discrete(3, start=1)


class Reports(Mark):
    """An environment with numbers, booleans, and values that Gymnasium cannot convert to arrays."""

    def info(self, guess: float) -> dict[str, Any]:
        sometimes = {"near": -abs(guess - self.mark)} if guess > 0 else {}
        state = {"state": 10**400, "text": "a", "lists": [[1], []], "guess": np.float32(guess)}
        return {"success": np.bool_(guess > 0.5), **sometimes, **state}

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        return super().reset(seed=seed)[0], {"state": 10**30}


class RewardTerms(Mark):
    """An environment whose infos contain many numbers."""

    def info(self, guess: float) -> dict[str, Any]:
        return {f"reward_term_{number}": 1000.0 * guess - number for number in range(8)}


class IntegerActions(Mark):
    action_space = spaces.Box(0, 4, (1,), np.int64)
