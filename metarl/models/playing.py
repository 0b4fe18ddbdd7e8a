"""Collection of episodes for adaptation, in a user's environment or in the simulator."""

from collections.abc import Callable, Mapping
from typing import Any, NamedTuple

import torch

from metarl.models.adaptation import Adaptation
from metarl.models.episodes import Episode, rollout_of
from metarl.models.recorder import Recorder
from metarl.rl import Rollout, Sampler
from metarl.rl.infos import flattened
from metarl.rl.vector_env import require_constant


class Playing(NamedTuple):
    """The simulator used in training, and the default numbers of inner steps and episodes.

    Attributes:
        simulator: Function ``(num_tasks, episodes) -> sampler`` for the
            training environment, which raises a ValueError if the environment
            is not available.
        steps: Default number of inner steps.
        episodes: Default number of episodes per task and inner step.
    """

    simulator: Callable[[int, int], Sampler]
    steps: int
    episodes: int

    def player(
        self, task: Any, episodes: int | None, generator: torch.Generator
    ) -> Callable[[Adaptation], Rollout]:
        """Return a function ``adaptation -> rollout`` that plays episodes of the current policy.

        Args:
            task: A Gymnasium environment, or a task description for the simulator.
            episodes: Number of episodes per call. Default: the attribute :attr:`episodes`.
            generator: Random generator for the actions and the seeds of the environment.

        Raises:
            ValueError: If `task` is neither an environment nor a task
                description, or a wrapper of the environment keeps running
                statistics.
        """
        number = self.episodes if episodes is None else episodes
        if isinstance(task, Mapping):
            tasks, sampler = [dict(task)], self.simulator(1, number)
            return lambda at: sampler.rollout(
                at.policy, at.params, tasks, generator, actor=at.actor()
            )
        if not (hasattr(task, "reset") and hasattr(task, "step")):
            raise ValueError(f"`task` must be an environment or a task description, got {task!r}")
        require_constant(task, "`task`")
        env = flattened(task)

        def play(at: Adaptation) -> Rollout:
            at.spaces.require_same(env)
            drawn = torch.randint(2**31, (number,), generator=generator, device=generator.device)
            found = play_in(env, at.recorder(generator), drawn.tolist())
            return rollout_of(at.policy, at.params, found, at.spaces.horizon, at.actor())

        return play


def play_in(env: Any, recorder: Recorder, seeds: list[int]) -> list[Episode]:
    """Play one episode per seed in an environment, and return all episodes of the recorder.

    Args:
        env: A Gymnasium environment.
        recorder: The recorder of the policy.
        seeds: Seeds for ``env.reset``.
    """
    for seed in seeds:
        observation, _ = env.reset(seed=seed)
        ended = False
        while not ended:
            action = recorder.act(observation)
            observation, reward, terminated, truncated, _ = env.step(action)
            ended = recorder.step(reward, terminated, truncated)
    return recorder.episodes
