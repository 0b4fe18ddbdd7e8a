"""Multi-task environments for Stable-Baselines3, with a fixed task or a new task in each episode.

SB3 resets each sub-environment when its episode ends. Vectorized environments
in metarl freeze a sub-environment whose episode has ended until all
sub-environments are reset together. Vectorized environments are therefore only
used with SB3 if all episodes end at the same time, as with robots that cannot
fall. All other environments run in SB3's ``DummyVecEnv``.
"""

from typing import Any

import gymnasium
import numpy as np
from stable_baselines3.common.vec_env import DummyVecEnv, VecEnv

from metarl.envs.base import TaskDescription
from metarl.envs.locomotion import LocomotionEnv
from metarl.rl import Checked, make_vector_env
from metarl.rl.infos import flattening
from metarl.rl.vector_env import brief, require_constant


def sb3_env(
    env_id: str, *, num_envs: int = 1, task: TaskDescription | None = None, **kwargs: Any
) -> VecEnv:
    """Create a vectorized environment for training an SB3 model.

    Args:
        env_id: Gymnasium ID of an environment with tasks.
        num_envs: Number of parallel environments.
        task: The task for every episode. None samples a task at the start of each episode.
        kwargs: Arguments of the environment, such as ``observe_task=True``.

    Raises:
        ValueError: If the environment has no tasks, a wrapper keeps running
            statistics, or a vectorized implementation rejects `task`. In a
            ``DummyVecEnv``, an invalid task raises EnvironmentFailed at the
            first reset.
    """
    one = make_vector_env(env_id, 1, **kwargs)  # raises an error if the environment has no tasks
    require_constant(one, env_id)
    require_flat(one.single_observation_space, "sb3")  # DummyVecEnv does not support all spaces
    one.close()
    formulas = getattr(one, "formulas", None)
    # The rows of robots that cannot fall all end at the horizon, unless they diverge.
    if isinstance(formulas, LocomotionEnv) and type(formulas).healthy is LocomotionEnv.healthy:
        return BatchedVecEnv(make_vector_env(env_id, num_envs, **kwargs), task)
    return DummyVecEnv(
        [lambda: Checked(OneTask(gymnasium.make(env_id, **kwargs), task), info=())] * num_envs
    )


def require_flat(space: Any, algo: str) -> None:
    """Raise a ValueError if the observations in a space are not a flat ``Box``."""
    if not isinstance(space, gymnasium.spaces.Box) or len(space.shape) != 1:
        raise ValueError(
            f"{algo} requires flat Box observations, got {brief(space)}; {flattening(space)}"
        )


class OneTask(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that sets the task at the start of every episode: a fixed task or a new sample."""

    def __init__(self, env: gymnasium.Env[Any, Any], task: TaskDescription | None) -> None:
        """Wrap `env`; if `task` is None, a task is sampled at the start of every episode."""
        super().__init__(env)
        self._given, self._rng = task, np.random.default_rng()

    def reset(self, *, seed: int | None = None, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Set the task and start an episode; `seed` also determines all tasks sampled later."""
        if seed is not None:
            self._rng = np.random.default_rng((seed, 1))  # not the stream of the environment
        bare: Any = self.env.unwrapped
        bare.task = bare.sample_tasks(1, self._rng)[0] if self._given is None else self._given
        return super().reset(seed=seed, **kwargs)


class BatchedVecEnv(VecEnv):
    """An SB3 ``VecEnv`` around a vectorized environment in which all episodes end together."""

    def __init__(self, env: Any, task: TaskDescription | None) -> None:
        """Wrap `env`; if `task` is None, a task is sampled at the start of every episode."""
        self.env, self._given, self._rng = env, task, np.random.default_rng()
        super().__init__(env.num_envs, env.single_observation_space, env.single_action_space)
        if task is not None:
            env.set_attr("task", task)

    def reset(self) -> Any:
        """Set the tasks, start an episode in every sub-environment, and return the observations."""
        if self._seeds[0] is not None:
            self._rng = np.random.default_rng(self._seeds[0])
            self._reset_seeds()
        if self._given is None:
            self.env.set_attr("task", self.env.sample_tasks(self.num_envs, self._rng))
        seen, _ = self.env.reset(seed=self._rng.integers(2**31, size=self.num_envs).tolist())
        return seen

    def step_async(self, actions: Any) -> None:
        """Store the actions for :meth:`step_wait`."""
        self._actions = actions

    def step_wait(self) -> Any:
        """Take a step with the actions stored by :meth:`step_async`.

        Returns:
            Observations, rewards, flags that are True if the episodes end,
            and one info dictionary per sub-environment. If the episodes end,
            all sub-environments are reset, and the observations are the
            first observations of the new episodes.
        """
        seen, rewards, terminated, truncated, _ = self.env.step(self._actions)
        infos: list[dict[str, Any]] = [{} for _ in range(self.num_envs)]
        ended = (terminated | truncated).any()
        if ended:  # if one row diverged, the others are truncated
            for info, last, died in zip(infos, seen, terminated, strict=True):
                info |= {"terminal_observation": last, "TimeLimit.truncated": not died}
            seen = self.reset()
        return seen, rewards.astype(np.float32), np.full(self.num_envs, ended), infos

    def close(self) -> None:
        """Close the environment."""
        self.env.close()

    def get_attr(self, attr_name: str, indices: Any = None) -> list[Any]:
        """Return the value of `attr_name` for sub-environments in `indices`; None selects all."""
        return self.env_method(attr_name, indices=indices)

    def set_attr(self, attr_name: str, value: Any, indices: Any = None) -> None:
        """Raise an AttributeError, because all sub-environments share their attributes."""
        raise AttributeError(
            f"the attribute {attr_name!r} cannot be changed; create a new environment with sb3_env"
        )

    def env_method(
        self, method_name: str, *method_args: Any, indices: Any = None, **method_kwargs: Any
    ) -> list[Any]:
        """Call a method, and return one result per index in `indices`, or for all if it is None."""
        found = self.env.call(method_name, *method_args, **method_kwargs)
        return [found[row] for row in self._get_indices(indices)]

    def env_is_wrapped(self, wrapper_class: Any, indices: Any = None) -> list[bool]:
        """Return False for every sub-environment, because sub-environments have no wrappers."""
        return [False for _ in self._get_indices(indices)]
