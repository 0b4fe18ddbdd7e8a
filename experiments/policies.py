"""A meta-learned policy, ready to adapt in Python."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metarl.core import tree
from metarl.core.adapt import InnerLoop
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.core.types import MetaParams, Params
from metarl.experiments.rl_settings import RLConfig
from metarl.experiments.rl_setup import Parts, paper_loop
from metarl.rl.episodes import Episodes, mean_return
from metarl.rl.evaluate import AdaptationCurve, adaptation_curve
from metarl.rl.sampler import TaskDescription


if TYPE_CHECKING:  # at run time it is imported where it is needed
    from stable_baselines3.common.policies import ActorCriticPolicy


@dataclass(frozen=True)
class AdaptedPolicy:
    """A policy that adapted to a task.

    Attributes:
        parts: The policy as a function, and its environment.
        params: Its parameters, of this task.
        returns: Mean return after 0, 1, ..., K steps, on the episodes that the steps learned from
            and, the last, on new ones.
    """

    parts: Parts
    params: Params
    returns: list[float]

    def act(self, observation: Any, *, generator: torch.Generator | None = None) -> Any:
        """Return the most likely action at one observation or a batch; with a generator, draw it.

        Args:
            observation: An array (*batch, features).
            generator: Source of the noise that the policy adapts with.
        """
        seen = torch.as_tensor(np.asarray(observation), device=self.parts.device).float()
        with torch.no_grad():
            actions = self.parts.policy(self.params, seen)
            chosen = actions.mode() if generator is None else actions.sample(generator)
        return chosen.numpy(force=True)

    def to_sb3(self) -> "ActorCriticPolicy":
        """Return the same policy as Stable-Baselines3's own."""
        from metarl.sb3.policies import sb3_policy  # the import takes a second

        env: Any = self.parts.sampler.env
        spaces = env.single_observation_space, env.single_action_space
        return sb3_policy(self.parts.policy, self.params, *spaces)


@dataclass(frozen=True)
class MetaPolicy:
    """A meta-learned policy, ready to adapt.

    Attributes:
        config: The settings of its run.
        parts: The policy as a function, its inner loop and its environment.
        params: The meta-parameters.
    """

    config: RLConfig
    parts: Parts
    params: MetaParams

    def sample_task(self, seed: int = 0) -> TaskDescription:
        """Draw a task of its environment."""
        return self.parts.sampler.sample_tasks(numpy_generator(seed, 0, "tasks"))[0]

    def loop(self, steps: int, rate: float | None = None) -> InnerLoop:
        """Return the inner loop of the paper's test.

        Args:
            steps: Inner steps.
            rate: Step size of the first; by default the run's.
        """
        rate = self.config.inner_lr if rate is None else rate
        return paper_loop(self.config, self.parts.loop, num_steps=steps, rate=rate)

    def play(
        self, loop: InnerLoop, tasks: Sequence[TaskDescription], generator: torch.Generator
    ) -> list[Episodes]:
        """Return the episodes of tasks after 0, 1, ..., K steps, each step on fresh ones."""
        parts = self.parts
        batch, _ = parts.sampler.collect(
            parts.policy, loop, self.params, list(tasks), generator, parts.process
        )
        return [*batch.support, batch.query]

    def curve(
        self, loop: InnerLoop, tasks: Sequence[TaskDescription], generator: torch.Generator
    ) -> AdaptationCurve:
        """Return the returns of tasks after 0, 1, ..., K steps."""
        parts = self.parts
        return adaptation_curve(
            parts.sampler, parts.policy, loop, self.params, tasks, generator, process=parts.process
        )

    def adapt(
        self, task: TaskDescription, *, steps: int | None = None, seed: int = 0
    ) -> AdaptedPolicy:
        """Play episodes of a task and adapt to it, with the step sizes of `metarl evaluate`.

        Args:
            task: A task of its environment.
            steps: Inner steps, each on new episodes; by default as many as in training, and one
                of a policy that was pretrained.
            seed: Seed of the episodes.
        """
        usual = max(self.config.inner_steps, 0 if self.config.observe_task else 1)
        loop = self.loop(usual if steps is None else steps)
        generator = torch_generator(seed, 0, "adaptation", device=self.parts.device)
        *support, query = self.play(loop, [task], generator)
        with torch.no_grad():
            adapted = loop.adapt(self.params, tree.map_leaves(lambda x: x[0], tuple(support)))
        returns = [mean_return(episodes).item() for episodes in (*support, query)]
        return AdaptedPolicy(self.parts, adapted, returns)
