"""Policies and meta-learners built from a meta-RL configuration, and meta-trained policies."""

import difflib
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, Any, NamedTuple

import gymnasium
import numpy as np
import torch
from gymnasium.error import UnregisteredEnv

from metarl.core import (
    LEARNED_RATES,
    InnerLoop,
    MetaLearner,
    MetaParams,
    Params,
    inner_optimizer,
    numpy_generator,
    sgd,
    torch_generator,
    tree,
)
from metarl.core.speed import chunks, processes
from metarl.envs import ENVIRONMENTS
from metarl.experiments.rl_settings import RLConfig
from metarl.rl import (
    INNER_LOSSES,
    AdaptationCurve,
    Episodes,
    Policy,
    Process,
    Sampler,
    TaskDescription,
    adaptation_curve,
    advantages,
    context_loop,
    make_policy,
    make_sampler,
    mean_return,
    paper_rates,
)
from metarl.rl.methods import METHODS
from metarl.util import resolve_device


if TYPE_CHECKING:  # imported in to_sb3 at run time
    from stable_baselines3.common.policies import ActorCriticPolicy


class Parts(NamedTuple):
    """The objects that a meta-RL configuration describes.

    Attributes:
        policy: Function ``(params, observations) -> distribution``.
        params: Initial parameters of the policy.
        loop: Inner loop used in training.
        learner: Meta-learner of the method.
        process: Two functions that compute advantages, one for the support episodes and one for
            the query episodes.
        sampler: Sampler of tasks and episodes.
    """

    policy: Policy
    params: Params
    loop: InnerLoop
    learner: MetaLearner
    process: tuple[Process, Process]
    sampler: Sampler


def build(config: RLConfig, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the policy, the inner loop, the meta-learner and the sampler of a configuration.

    Args:
        config: The settings of the run.
        num_tasks: Number of tasks per meta-batch. Default: ``config.num_tasks``, divided among the
            processes in distributed training.
        episodes: Number of episodes per task. Default: ``config.episodes_per_task``.

    Raises:
        ValueError: If the environment does not exist or has no task distribution.
    """
    count, share = num_tasks or config.num_tasks, None
    if num_tasks is None:  # give each process whole chunks, if the horizon is registered
        spec = gymnasium.registry.get(config.env.rpartition(":")[2])
        steps = config.episodes_per_task * ((spec and spec.max_episode_steps) or 1)
        fitting = chunks.cache_sized(steps, count, torch.device("cpu")) or 1
        share = processes.share(count, multiple=config.chunk_size or fitting)
    sampler = sampler_of(config, count, episodes or config.episodes_per_task, share)
    policy, params = make_policy(
        config.network,
        sampler.env.single_observation_space,
        sampler.env.single_action_space,
        hidden=config.hidden,
        activation=config.activation,
        output_gain=config.output_gain,
        init_std=config.init_std,
        scale=config.action_scale,
        context=config.context_size,
        generator=torch_generator(config.seed, 0, "parameters"),
    )
    clip = {"clip": config.inner_clip} if config.inner_loss == "clipped" else {}
    loop = InnerLoop(
        INNER_LOSSES[config.inner_loss](policy, **clip),
        inner_optimizer(config.inner, config.inner_lr, config.inner_steps),
        first_order=config.first_order,
        num_steps=config.inner_steps,
    )
    if config.context_size:
        loop = context_loop(loop, config.context_size)
    method = METHODS[config.method]
    settings = {name: getattr(config, name) for name in method.options()}
    inner = config.gae_lambda if config.inner_gae_lambda is None else config.inner_gae_lambda
    support, query = (
        advantages(discount=config.discount, gae_lambda=gae) for gae in (inner, config.gae_lambda)
    )
    learner = method.function()(policy, loop, **settings)
    return Parts(policy, params, loop, learner, (support, query), sampler)


def sampler_of(
    config: RLConfig, num_tasks: int, episodes: int, share: processes.TaskSlice | None = None
) -> Sampler:
    """Return a sampler with one environment per task and episode.

    Args:
        config: The settings of the run.
        num_tasks: Number of tasks per meta-batch.
        episodes: Number of episodes per task.
        share: Tasks that this process samples in distributed training. Default: all tasks.

    Raises:
        ValueError: If the environment does not exist or has no task distribution.
    """
    try:
        return make_sampler(
            config.env,
            num_tasks=num_tasks,
            episodes_per_task=episodes,
            device=resolve_device(config.device),
            share=share,
            vectorization_mode=None if config.vectorization == "auto" else config.vectorization,
            **({"observe_task": True} if config.observe_task else {}),
        )
    except UnregisteredEnv as error:
        ours = [row.id for row in ENVIRONMENTS]
        name = config.env if "/" in config.env else f"metarl/{config.env}"
        close = difflib.get_close_matches(name, ours, 1, cutoff=0.8)
        hint = f"did you mean {close[0]}?" if close else str(error)
        raise ValueError(
            f"unknown environment `env`={config.env}: {hint} (run `metarl envs` to list all)"
        ) from None


@dataclass(frozen=True)
class AdaptedPolicy:
    """A policy that has adapted to a task.

    Attributes:
        parts: The policy function and the sampler of the environment.
        params: Policy parameters adapted to the task.
        returns: Mean undiscounted returns after 0, 1, ..., K inner steps. Each number is measured
            on newly collected episodes; the next inner step then uses these episodes.
    """

    parts: Parts
    params: Params
    returns: list[float]

    def act(self, observation: Any, *, generator: torch.Generator | None = None) -> Any:
        """Return the action for one observation or a batch of observations.

        Args:
            observation: Array of shape (*batch, features).
            generator: Random generator used to sample the actions. Default: the mode of the action
                distribution, without sampling.

        Returns:
            NumPy array of shape (*batch, actions), or (*batch) for discrete actions.
        """
        seen = torch.as_tensor(np.asarray(observation), device=self.parts.sampler.device).float()
        with torch.no_grad():
            actions = self.parts.policy(self.params, seen)
            chosen = actions.mode() if generator is None else actions.sample(generator)
        return chosen.numpy(force=True)

    def to_sb3(self) -> "ActorCriticPolicy":
        """Return the adapted policy as a Stable-Baselines3 policy, whose critic is untrained."""
        from metarl.sb3 import sb3_policy  # the import takes a second

        env: Any = self.parts.sampler.env
        spaces = env.single_observation_space, env.single_action_space
        return sb3_policy(self.parts.policy, self.params, *spaces)


@dataclass(frozen=True)
class MetaPolicy:
    """A meta-trained policy that can adapt to tasks of the environment used in training.

    Attributes:
        config: The settings of the run.
        parts: The policy function, the inner loop and the sampler of the environment.
        params: The meta-parameters.
    """

    config: RLConfig
    parts: Parts
    params: MetaParams

    def sample_task(self, seed: int = 0) -> TaskDescription:
        """Sample a task description from the environment's task distribution with a random seed."""
        return self.parts.sampler.sample_tasks(numpy_generator(seed, 0, "tasks"))[0]

    def loop(self, steps: int, rate: float | None = None) -> InnerLoop:
        """Return the inner loop for test time (Finn et al. 2017).

        Args:
            steps: Number of inner steps.
            rate: Step size of the first inner step. Gradient descent halves the step size for all
                later steps; other inner optimizers use the same step size in all steps. Ignored if
                the step sizes are learned. Default: the step size of the run.
        """
        config, loop = self.config, self.parts.loop
        rate = config.inner_lr if rate is None else rate
        optimizer = loop.optimizer
        if config.inner == "sgd":
            optimizer = sgd(paper_rates(rate))
        elif config.inner not in LEARNED_RATES:
            optimizer = inner_optimizer(config.inner, rate, steps)
        return replace(loop, num_steps=steps, optimizer=optimizer)

    def play(
        self, loop: InnerLoop, tasks: Sequence[TaskDescription], generator: torch.Generator
    ) -> list[Episodes]:
        """Collect episodes after 0, 1, ..., K inner steps; each step uses new episodes.

        Args:
            loop: Inner loop with K steps, see :meth:`loop`.
            tasks: Task descriptions; the number must equal ``parts.sampler.num_tasks``.
            generator: Random generator for actions and initial states.

        Returns:
            K + 1 batches of episodes with a leading task axis.
        """
        parts = self.parts
        batch, _ = parts.sampler.collect(
            parts.policy, loop, self.params, list(tasks), generator, parts.process
        )
        return [*batch.support, batch.query]

    def curve(
        self, loop: InnerLoop, tasks: Sequence[TaskDescription], generator: torch.Generator
    ) -> AdaptationCurve:
        """Measure the mean return on each task after 0, 1, ..., K inner steps.

        Args:
            loop: Inner loop with K steps, see :meth:`loop`.
            tasks: Task descriptions; the number must equal ``parts.sampler.num_tasks``.
            generator: Random generator for actions and initial states.
        """
        parts = self.parts
        return adaptation_curve(
            parts.sampler, parts.policy, loop, self.params, tasks, generator, process=parts.process
        )

    def adapt(
        self, task: TaskDescription, *, steps: int | None = None, seed: int = 0
    ) -> AdaptedPolicy:
        """Collect episodes on a task and adapt the policy to this task.

        The step sizes are those of ``metarl evaluate``, see :meth:`loop`.

        Args:
            task: Task description, such as a result of :meth:`sample_task`.
            steps: Number of inner steps; each step uses new episodes. Default: the number of inner
                steps in training; for policies trained without inner steps, 0 if the policy
                observes the task, otherwise 1.
            seed: Random seed for the initial states and the actions.
        """
        usual = max(self.config.inner_steps, 0 if self.config.observe_task else 1)
        loop = self.loop(usual if steps is None else steps)
        generator = torch_generator(seed, 0, "adaptation", device=self.parts.sampler.device)
        *support, query = self.play(loop, [task], generator)
        with torch.no_grad():
            adapted = loop.adapt(self.params, tree.map_leaves(lambda x: x[0], tuple(support)))
        returns = [mean_return(episodes).item() for episodes in (*support, query)]
        return AdaptedPolicy(self.parts, adapted, returns)
