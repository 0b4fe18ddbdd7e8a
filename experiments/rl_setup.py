"""The parts of every meta-RL experiment: the policy, its inner loop, its learner, its sampler."""

import difflib
from dataclasses import replace
from typing import NamedTuple

import gymnasium
import torch
from gymnasium.error import UnregisteredEnv

from metarl.core.adapt import InnerLoop
from metarl.core.inner import adam, sgd
from metarl.core.optimizers import LEARNED_RATES, inner_optimizer
from metarl.core.seeding import torch_generator
from metarl.core.speed import chunks, processes
from metarl.core.types import MetaLearner, MetaState, Params
from metarl.envs import ENVIRONMENTS
from metarl.experiments.rl_settings import RLConfig
from metarl.rl.baseline import Process, advantages
from metarl.rl.evaluate import paper_episodes, paper_rates
from metarl.rl.losses import INNER_LOSSES
from metarl.rl.methods import METHODS
from metarl.rl.policies import Policy, make_policy
from metarl.rl.sampler import Sampler, make_sampler
from metarl.rl.trpo import context_loop
from metarl.util.device import resolve_device


class Parts(NamedTuple):
    """Everything that a configuration means."""

    policy: Policy
    params: Params
    loop: InnerLoop
    learner: MetaLearner
    process: tuple[Process, Process]
    sampler: Sampler

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return self.sampler.device

    def init(self) -> MetaState:
        """Return the state before the first iteration."""
        return self.learner.init(self.params, device=self.device)


def build(config: RLConfig, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run.

    Args:
        config: Its settings.
        num_tasks: Instead of the run's, for an evaluation.
        episodes: Episodes per task instead of the run's, for an evaluation.

    Raises:
        ValueError: If there is no such environment, or it has no tasks.
    """
    share = _share(config) if num_tasks is None else None
    sampler = _sampler(
        config, num_tasks or config.num_tasks, episodes or config.episodes_per_task, share
    )
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
    loop = _inner_loop(config, policy)
    method = METHODS[config.method]
    settings = {name: getattr(config, name) for name in method.options()}
    learner = method.function()(policy, loop, **settings)
    return Parts(policy, params, loop, learner, _processing(config), sampler)


def usual_episodes(config: RLConfig) -> int:
    """Return how many episodes of the run's environment the paper's evaluation takes per step."""
    return paper_episodes(_sampler(config, 1, 1).horizon)


def paper_loop(config: RLConfig, loop: InnerLoop, *, num_steps: int, rate: float) -> InnerLoop:
    """Return the loop of the paper's test: step size `rate`, then half of it; learned ones stay."""
    optimizer = loop.optimizer
    if config.inner not in LEARNED_RATES:
        optimizer = sgd(paper_rates(rate)) if config.inner == "sgd" else adam(rate)
    return replace(loop, num_steps=num_steps, optimizer=optimizer)


def _inner_loop(config: RLConfig, policy: Policy) -> InnerLoop:
    options = {"clip": config.inner_clip} if config.inner_loss == "clipped" else {}
    loop = InnerLoop(
        INNER_LOSSES[config.inner_loss](policy, **options),
        inner_optimizer(config.inner, config.inner_lr, config.inner_steps),
        first_order=config.first_order,
        num_steps=config.inner_steps,
    )
    return context_loop(loop, config.context_size) if config.context_size else loop


def _processing(config: RLConfig) -> tuple[Process, Process]:
    """Return what computes advantages: of the support episodes, and of the query."""
    inner = config.gae_lambda if config.inner_gae_lambda is None else config.inner_gae_lambda
    return (
        advantages(discount=config.discount, gae_lambda=inner),
        advantages(discount=config.discount, gae_lambda=config.gae_lambda),
    )


def _share(config: RLConfig) -> processes.TaskSlice:
    """Return the tasks of this process, whole chunks if they can be told before there are any."""
    spec = gymnasium.registry.get(config.env.rpartition(":")[2])
    steps = config.episodes_per_task * ((spec and spec.max_episode_steps) or 1)
    fitting = chunks.cache_sized(steps, config.num_tasks, torch.device("cpu")) or 1
    return processes.share(config.num_tasks, multiple=config.chunk_size or fitting)


def _sampler(
    config: RLConfig, num_tasks: int, episodes: int, share: processes.TaskSlice | None = None
) -> Sampler:
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
            f"there is no environment `env`={config.env}: {hint} (`metarl envs` lists ours)"
        ) from None
