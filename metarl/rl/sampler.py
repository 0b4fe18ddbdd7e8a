"""The sampler, which steps all episodes for all tasks in a meta-batch together."""

import copy
from collections.abc import Sequence
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.core import InnerLoop, MetaParams, Metrics, Params, Task, tree
from metarl.core.speed import Mode, chunks, processes
from metarl.rl.acting import Actor
from metarl.rl.baseline import Process
from metarl.rl.episodes import Episodes, Rollout, join_steps, mean_return, padded_length
from metarl.rl.infos import Infos, diverged_in, episode_infos
from metarl.rl.inner_step import inner_step
from metarl.rl.policies import Policy
from metarl.rl.vector_env import (
    error_context,
    horizon_of,
    make_vector_env,
    require_constant,
    spec_of,
)


TaskDescription = dict[str, Any]


class Sampler:
    """A sampler that collects episodes for many tasks in a vectorized environment.

    Each sub-environment runs one episode for one task. Every rollout starts
    with a reset. The seeds of the reset come from the generator passed to
    :meth:`rollout`, so that results do not depend on earlier rollouts.

    Attributes:
        env: The vectorized environment.
        name: Gymnasium ID of the environment.
        horizon: Number of time steps after which episodes are truncated.
        episodes_per_task: Number of episodes per task.
        num_tasks: Number of tasks assigned to this process.
        share: The slice of the meta-batch assigned to this process.
        device: Device of the policy and the episodes.
        interrupted: Whether the last rollout failed; the environment can then be in an invalid
            state, and a new sampler must be created.
    """

    def __init__(
        self,
        env: Any,
        *,
        episodes_per_task: int,
        device: Any = "cpu",
        share: processes.TaskSlice | None = None,
        info: Sequence[str] = (),
    ) -> None:
        """Create a sampler on a vectorized environment.

        Args:
            env: A Gymnasium vector environment with the methods ``reset``, ``step``, ``set_attr``
                and ``call`` of ``SyncVectorEnv``. Each sub-environment has an attribute `task` and
                a method ``sample_tasks(num_tasks, rng)`` that returns task descriptions. Groups of
                `episodes_per_task` consecutive sub-environments share a task. A sub-environment can
                freeze or be reset when its episode ends; later transitions are masked.
            episodes_per_task: Number of episodes, and therefore of sub-environments, per task.
            device: Device for the policy and the episodes.
            share: The slice of the meta-batch assigned to this process in
                distributed training; defaults to all tasks. Tasks, seeds and
                noise are sampled for the whole meta-batch, so that results do
                not depend on the number of processes.
            info: Names of entries of the environment's info to collect, such
                as ``("success",)``. The entries are numbers or booleans.

        Raises:
            ValueError: If the number of sub-environments is not a multiple of
                `episodes_per_task`, the environment has no horizon, or a wrapper
                keeps running statistics, such as ``NormalizeObservation``.
        """
        if episodes_per_task < 1 or env.num_envs % episodes_per_task:
            raise ValueError(
                f"num_envs must be a multiple of episodes_per_task={episodes_per_task}, got "
                f"{env.num_envs}"
            )
        self.env = env
        self.name: str = getattr(spec_of(env), "id", type(env).__name__)
        require_constant(env, self.name)
        self.horizon = horizon_of(env)
        self.episodes_per_task = episodes_per_task
        self.num_tasks = env.num_envs // episodes_per_task
        self.share = share or processes.TaskSlice(0, self.num_tasks, self.num_tasks)
        self.device = torch.device(device)
        self.interrupted = False
        self._infos = Infos(info, env, self.name)
        self._rows: list[TaskDescription] = []  # the task of each sub-environment
        self._errors_of = partial(error_context, self.name, env=env, tasks=self._rows)

    def sample_tasks(self, rng: np.random.Generator) -> list[TaskDescription]:
        """Sample the meta-batch's tasks, and return the tasks assigned to this process.

        The environment receives a copy of `rng`, and `rng` jumps ahead. The
        state of `rng` is therefore the same whether the sub-environments are
        in this process or in worker processes.
        """
        with self._errors_of("sample_tasks"):
            drawn = self.env.call("sample_tasks", self.share.total, copy.deepcopy(rng))
        bits: Any = rng.bit_generator
        bits.state = bits.jumped().state
        return self.share.of_list(drawn[0])

    def rollout(
        self,
        policy: Policy,
        params: Params,
        tasks: list[TaskDescription],
        generator: torch.Generator,
        *,
        actor: Actor | None = None,
    ) -> Rollout:
        """Collect `episodes_per_task` episodes for every task.

        Args:
            policy: The policy.
            params: Parameters with a leading task axis, such as ``tree.expand(params, num_tasks)``.
            tasks: One task description per task.
            generator: Random generator for the actions and the environment seeds. Each combination
                of task and episode has a separate seed, which does not depend on the number of
                workers or threads.
            actor: An actor that continues with its memory, as in RL². Default: every episode starts
                with the policy's initial carry.

        Returns:
            A rollout with tensors of shape (task, time, episode, ...).

        Raises:
            ValueError: If no info contained one of the entries to collect.
        """
        self.interrupted = True
        with torch.no_grad(), chunks.one_thread_per_operator(), self._errors_of("step", Exception):
            actor = actor or policy.actor(params, (self.episodes_per_task,))
            actor.begin()
            dtype = next(iter(params.values())).dtype
            seen = self._grouped(self._reset(tasks, generator), dtype)
            ended = np.zeros(self.env.num_envs, dtype=bool)
            steps = []
            for _ in range(self.horizon):
                inputs = actor.inputs(seen)
                behavior = actor.act(inputs)
                actions = behavior.sample(generator, self.share)
                flat = actions.flatten(0, 1).numpy(force=True)
                with self._errors_of("step"):
                    following, rewards, terminated, truncated, info = self.env.step(flat)
                diverged = ~ended & diverged_in(info, self.env.num_envs)
                happened = [self._grouped(x, dtype) for x in (rewards, ~ended, diverged)]
                infos = {n: self._grouped(x, dtype) for n, x in self._infos.read(info).items()}
                steps.append((behavior, inputs, actions, *happened, infos))
                actor.observe(actions, *happened[:2])
                ended = ended | _flags(terminated) | _flags(truncated)
                if ended.all():
                    break
                seen = self._grouped(following, dtype)
            self._infos.require_found()
            longest = processes.most(len(steps))
            for _ in range(longest - len(steps)):  # all processes sample the same noise
                behavior.sample(generator, self.share)
            self.interrupted = False
            return join_steps(steps, padded_length(longest, self.horizon), dtype)

    def collect(
        self,
        policy: Policy,
        loop: InnerLoop,
        meta: MetaParams,
        tasks: list[TaskDescription],
        generator: torch.Generator,
        process: Process | tuple[Process, Process],
        *,
        start: Params | None = None,
    ) -> tuple[Task, Metrics]:
        """Collect a meta-batch by alternating rollouts and inner steps for every task.

        With K = ``loop.num_steps``, the rollout after k = 0, ..., K − 1 inner
        steps is the support batch for inner step k + 1. The rollout after K
        inner steps is the query batch.

        Args:
            policy: The policy.
            loop: The inner loop, with `num_steps` set.
            meta: The meta-parameters.
            tasks: One task description per task.
            generator: Random generator for the actions and the environment seeds.
            process: Function that computes advantages, such as the result of
                ``advantages()``, or a pair of functions for the support and
                the query episodes.
            start: Parameters with a leading task axis from which adaptation
                starts; defaults to the meta-learned initialization.

        Returns:
            The meta-batch, and adaptation metrics: returns, entries of the
            infos, inner gradients and baseline fit.

        Raises:
            ValueError: If ``loop.num_steps`` is None, or ``loop.per_step`` contains names.
        """
        if loop.num_steps is None or loop.per_step:
            raise ValueError(
                "collect requires a loop with num_steps set and no per_step names, got "
                f"num_steps={loop.num_steps} and per_step={sorted(loop.per_step)}"
            )
        inner, outer = process if isinstance(process, tuple) else (process, process)
        params = start or tree.expand(loop.start(meta.model, ())[0], self.num_tasks)
        state = loop.state(params)
        actor = policy.actor(params, (self.episodes_per_task,)) if policy.trials else None  # RL²
        mode: Mode = "traced" if policy.traced(meta.model) else "eager"
        batches: list[Episodes] = []
        each: Metrics = {}  # metrics with a task axis
        diverged: Any = 0
        for index in range(loop.num_steps + 1):
            if index > 0 and actor is None:
                params, state, about = inner_step(
                    loop, meta, params, state, batches[-1], index - 1, mode=mode
                )
                each |= {f"gradient/{n}_{index - 1}": x for n, x in about.items()}
            rollout = self.rollout(policy, params, tasks, generator, actor=actor)
            process = outer if index == loop.num_steps else inner
            # Separately for each task, so that results do not depend on the number of tasks.
            size = 1 if self.device.type == "cpu" else None
            episodes, fit = chunks.map_tasks(process, rollout, size)
            batches.append(episodes)
            diverged = diverged + rollout.diverged.sum()
            measured = {"return": mean_return(episodes), **episode_infos(episodes)}
            each |= {f"{name}/step_{index}": x for name, x in measured.items()} | fit
        whole = processes.total([{"episodes/diverged": diverged}])
        return Task(tuple(batches[:-1]), batches[-1]), processes.mean_over_tasks(each) | whole

    def _reset(self, tasks: list[TaskDescription], generator: torch.Generator) -> Any:
        shape, device = (self.share.total, self.episodes_per_task), generator.device
        drawn = torch.randint(2**31, shape, generator=generator, device=device)
        seeds = self.share.of_batch(drawn).flatten().tolist()
        self._rows[:] = [task for task in tasks for _ in range(self.episodes_per_task)]
        with self._errors_of("set_attr", ValueError):
            self.env.set_attr("task", list(self._rows))
        with self._errors_of("reset"):
            return self.env.reset(seed=seeds)[0]

    def _grouped(self, values: Any, dtype: torch.dtype) -> Tensor:
        """Return the values of all sub-environments as a tensor of shape (task, episode, ...).

        Floating-point values are converted to `dtype`; integers, such as
        image bytes, keep their dtype.
        """
        rows = torch.as_tensor(values)
        kind = dtype if rows.is_floating_point() else rows.dtype
        shape = (self.num_tasks, self.episodes_per_task, *rows.shape[1:])
        # Copied, because environments can reuse the array for the next observations.
        return rows.to(self.device, kind, copy=True).reshape(shape)


def make_sampler(
    env_id: str,
    *,
    num_tasks: int,
    episodes_per_task: int,
    device: Any = "cpu",
    share: processes.TaskSlice | None = None,
    info: Sequence[str] = (),
    **kwargs: Any,
) -> Sampler:
    """Create a sampler for an environment that is registered with Gymnasium.

    By default, environments without a vectorized implementation run in a
    ``SyncVectorEnv``. With ``vectorization_mode="async"``, each sub-environment
    runs in a separate process; the episodes are the same as with ``SyncVectorEnv``.

    Args:
        env_id: Gymnasium ID of the environment. For an ID of the form
            ``module:namespace/Name-v0``, the module that registers the
            environment is imported first.
        num_tasks: Number of tasks in a meta-batch.
        episodes_per_task: Number of episodes per task.
        device: Device for the policy and the episodes.
        share: The slice of the meta-batch assigned to this process in
            distributed training; defaults to all tasks.
        info: Names of entries of the environment's info to collect; see :class:`Sampler`.
        kwargs: Arguments of :func:`~metarl.rl.vector_env.make_vector_env`, such as
            ``vectorization_mode`` and `worker_timeout`, and of the environment.

    Raises:
        ValueError: If the environment has no tasks, or tasks cannot be written as JSON.
    """
    own = num_tasks if share is None else share.number
    env = make_vector_env(env_id, own * episodes_per_task, info=info, **kwargs)
    return Sampler(env, episodes_per_task=episodes_per_task, device=device, share=share, info=info)


def _flags(values: Any) -> Any:
    """Convert values to a boolean array; None, Gymnasium's missing value, becomes False."""
    return np.asarray(values.numpy(force=True) if isinstance(values, Tensor) else values, bool)
