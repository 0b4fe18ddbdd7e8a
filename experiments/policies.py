"""Policies and meta-learners built from a meta-RL configuration."""

from collections.abc import Callable
from dataclasses import replace
from functools import cache
from typing import NamedTuple

import gymnasium
import torch

from metarl.core import (
    LEARNED_RATES,
    InnerLoop,
    MetaLearner,
    MetaParams,
    Params,
    inner_optimizer,
    sgd,
    torch_generator,
)
from metarl.core.speed import chunks, processes
from metarl.experiments.environment_errors import creation_errors
from metarl.experiments.rl_settings import RLConfig
from metarl.models import MetaPolicy, Spaces
from metarl.nn import CELLS
from metarl.rl import (
    INNER_LOSSES,
    Policy,
    Process,
    Sampler,
    advantages,
    context_loop,
    make_policy,
    make_sampler,
    paper_episodes,
    paper_rates,
)
from metarl.rl.methods import METHODS
from metarl.rl.policies import NORMALIZER
from metarl.rl.stability import normalizing
from metarl.rl.vector_env import clipped_actions
from metarl.runs import checkpoint
from metarl.util import integer_at_least, resolve_device


class Learning(NamedTuple):
    """The policy, the inner loop and the meta-learner for a meta-RL configuration.

    Attributes:
        policy: Function ``(params, observations) -> distribution``.
        params: Initial parameters of the policy.
        loop: Inner loop used in training.
        learner: Meta-learner of the method.
        process: Two functions that compute advantages, one for the support
            episodes and one for the query episodes.
    """

    policy: Policy
    params: Params
    loop: InnerLoop
    learner: MetaLearner
    process: tuple[Process, Process]


class Parts(NamedTuple):
    """The fields of :class:`Learning`, and a sampler of tasks and episodes."""

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
        num_tasks: Number of tasks per meta-batch. Default:
            ``config.num_tasks``, divided among the processes in distributed
            training.
        episodes: Number of episodes per task. Default: ``config.episodes_per_task``.

    Raises:
        ValueError: If the environment does not exist or has no task distribution.
    """
    count, share = num_tasks or config.num_tasks, None
    if num_tasks is None:  # whole chunks per process, if the horizon is registered
        spec = gymnasium.registry.get(config.env.rpartition(":")[2])
        steps = config.episodes_per_task * ((spec and spec.max_episode_steps) or 1)
        fitting = chunks.cache_sized(steps, count, torch.device("cpu")) or 1
        share = processes.share(count, multiple=config.chunk_size or fitting)
    sampler = sampler_of(config, count, episodes or config.episodes_per_task, share)
    return Parts(*learning_of(config, spaces_of(sampler)), sampler)


def spaces_of(sampler: Sampler) -> Spaces:
    """Return the spaces and the horizon of a sampler's environment."""
    env = sampler.env
    return Spaces(env.single_observation_space, clipped_actions(env), sampler.horizon)


def policy_of(config: RLConfig, spaces: Spaces) -> tuple[Policy, Params]:
    """Return the policy for a configuration and spaces, and the initial policy parameters.

    Raises:
        TypeError: If the network does not support the spaces.
    """
    recurrent = {
        "memory": config.memory,
        "trials": METHODS[config.method].trials,
        "value": getattr(config, "baseline", "linear") == "value",
    }
    return make_policy(
        config.network,
        spaces.observation,
        spaces.action,
        hidden=config.hidden,
        activation=config.activation,
        output_gain=config.output_gain,
        init_std=config.init_std,
        scale=config.action_scale,
        context=config.context_size,
        generator=torch_generator(config.seed, 0, "parameters"),
        **(recurrent if config.network in CELLS else {}),
        **({"normalize": True} if config.normalize_observations else {}),
    )


def learning_of(config: RLConfig, spaces: Spaces) -> Learning:
    """Return the policy, the inner loop and the meta-learner for a configuration and spaces."""
    policy, params = policy_of(config, spaces)
    clip = {"clip": config.inner_clip} if config.inner_loss == "clipped" else {}
    loop = InnerLoop(
        INNER_LOSSES[config.inner_loss](policy, **clip),
        inner_optimizer(config.inner, config.inner_lr, config.inner_steps),
        first_order=config.first_order,
        num_steps=config.inner_steps,
    )
    if config.normalize_observations:
        loop = replace(loop, fast=lambda name: not name.startswith(NORMALIZER))
    if config.context_size:
        loop = context_loop(loop, config.context_size)
    method = METHODS[config.method]
    settings = {name: getattr(config, name) for name in method.options()}
    inner = config.gae_lambda if config.inner_gae_lambda is None else config.inner_gae_lambda
    support, query = (
        advantages(discount=config.discount, gae_lambda=gae) for gae in (inner, config.gae_lambda)
    )
    learner = method.function()(policy, loop, **settings)
    if config.normalize_observations:
        learner = normalizing(learner)
    return Learning(policy, params, loop, learner, (support, query))


def meta_policy(
    config: RLConfig,
    params: MetaParams,
    spaces: Spaces | None,
    *,
    num_tasks: int,
    episodes: int | None,
    guard: Callable[[], None],
) -> MetaPolicy:
    """Return the meta-trained policy of a run.

    Args:
        config: The settings of the run.
        params: The meta-parameters.
        spaces: The spaces in config.json. If None, as for runs of older
            versions, the environment is created to determine the spaces.
        num_tasks: Number of tasks that the policy adapts to at the same time.
        episodes: Number of episodes per task and inner step. Default: 4000
            divided by the horizon, rounded down, but at least 1.
        guard: Function that is called before the environment is created.

    Raises:
        ValueError: If the parameters do not match the configuration.
    """

    def simulator(num_tasks: int, episodes: int) -> Sampler:
        guard()
        return sampler_of(config, num_tasks, episodes)

    for name, value in (("num_tasks", num_tasks), ("episodes", episodes)):
        integer_at_least(1).check(f"`{name}`", value)
    spaces = spaces or _missing_spaces(simulator)
    found = learning_of(config, spaces)
    for mine, theirs in zip(found.learner.init(found.params).params, params, strict=True):
        checkpoint.require_same_tensors(mine, theirs)
    return MetaPolicy(
        policy=found.policy,
        params=params,
        spaces=spaces,
        process=found.process,
        loops=cache(loops(config, found.loop)),  # programs are traced once per loop
        simulator=simulator,
        steps=max(config.inner_steps, 0 if config.observe_task else 1),
        episodes=episodes or paper_episodes(spaces.horizon),
        num_tasks=num_tasks,
        experiment=config.method,
        config=config,
    )


def _missing_spaces(simulator: Callable[[int, int], Sampler]) -> Spaces:
    """Return the spaces of the environment for a run whose config.json has no `spaces`.

    Args:
        simulator: Function ``(number of tasks, number of episodes) -> sampler``.

    Raises:
        ValueError: If the environment cannot be created.
        ModuleNotFoundError: If the module of the environment is not installed.
    """
    try:
        return spaces_of(simulator(1, 1))
    except (ValueError, ModuleNotFoundError) as error:
        raise type(error)(
            f"config.json of the run contains no `spaces`, so that the environment is required: "
            f"{error}. To add `spaces`, run `metarl resume RUN` where the environment is installed"
        ) from None


def loops(config: RLConfig, loop: InnerLoop) -> Callable[[int, float | None], InnerLoop]:
    """Return a function ``(steps, rate) -> inner loop`` for test time; see :class:`MetaPolicy`.

    With ``rate=None``, the step size is ``config.inner_lr``. With
    ``inner="sgd"``, steps after those of training use half of the step size.

    Args:
        config: The settings of the run.
        loop: Inner loop used in training.
    """

    def changed(steps: int, rate: float | None = None) -> InnerLoop:
        rate = config.inner_lr if rate is None else rate
        optimizer = loop.optimizer
        if config.inner == "sgd":
            optimizer = sgd(paper_rates(rate, config.inner_steps))
        elif config.inner not in LEARNED_RATES:
            optimizer = inner_optimizer(config.inner, rate, steps)
        return replace(loop, num_steps=steps, optimizer=optimizer)

    return changed


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
        ModuleNotFoundError: If the module of the environment is not installed.
        ValueError: If the environment does not exist or has no task distribution.
    """
    with creation_errors(config.env):
        return make_sampler(
            config.env,
            num_tasks=num_tasks,
            episodes_per_task=episodes,
            device=resolve_device(config.device),
            share=share,
            info=config.info,
            vectorization_mode=None if config.vectorization == "auto" else config.vectorization,
            worker_timeout=config.worker_timeout,
            **({"observe_task": True} if config.observe_task else {}),
        )
