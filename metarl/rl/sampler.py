"""The sampler: all tasks × episodes of a meta-batch step together."""

import copy
from functools import partial
from typing import Any

import numpy as np
import torch
from torch import Tensor

from metarl.core import InnerLoop, MetaParams, Metrics, Params, Task, tree
from metarl.core.speed import chunks, processes
from metarl.rl.baseline import Process
from metarl.rl.episodes import Episodes, Rollout, chunk_of, mean_return, zero_padding
from metarl.rl.policies import Policy
from metarl.rl.vector_env import error_context, horizon_of, make_vector_env, spec_of


TaskDescription = dict[str, Any]


class Sampler:
    """Owns a vector environment with one row for each episode of each task.

    With ``torch.optim`` it is the only stateful object of the package, and even its state does not
    outlive a rollout: every rollout starts with a reset, seeded from the generator it is given.
    """

    def __init__(
        self,
        env: Any,
        *,
        episodes_per_task: int,
        device: Any = "cpu",
        share: processes.TaskSlice | None = None,
    ) -> None:
        """Take over `env`, whose rows are grouped by task.

        Args:
            env: A Gymnasium vector environment whose rows have `task` and `sample_tasks`. Like
                ``SyncVectorEnv`` it has ``reset``, ``step``, ``set_attr`` and ``call``. Rows that
                ended may freeze or be reset: what comes after a row's first end is masked.
            episodes_per_task: Rows per task.
            device: Where the policy runs and the episodes are kept.
            share: Which tasks of a meta-batch the rows are for, where processes share it; by
                default all. Tasks, seeds and noise are those of the whole meta-batch.

        Raises:
            ValueError: If the rows are not a multiple of `episodes_per_task`, or the environment
                states no horizon.
        """
        if episodes_per_task < 1 or env.num_envs % episodes_per_task:
            raise ValueError(
                f"{env.num_envs} rows are not a multiple of episodes_per_task={episodes_per_task}"
            )
        self.env = env
        self.name: str = getattr(spec_of(env), "id", type(env).__name__)
        self.horizon = horizon_of(env)
        self.episodes_per_task = episodes_per_task
        self.num_tasks = env.num_envs // episodes_per_task
        self.share = share or processes.TaskSlice(0, self.num_tasks, self.num_tasks)
        self.device = torch.device(device)
        self._errors_of = partial(error_context, self.name, env=env)

    def sample_tasks(self, rng: np.random.Generator) -> list[TaskDescription]:
        """Draw one task for each group of rows.

        The environment draws from a copy of `rng`, which itself jumps far ahead: rows in one
        process would all draw from it, and rows in other processes would leave it where it was.
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
    ) -> Rollout:
        """Roll out `episodes_per_task` episodes of every task.

        Args:
            policy: The policy. Its carry is initial at the start of every episode.
            params: Its parameters, with a leading task axis.
            tasks: One description for each task.
            generator: The only source of randomness: of the actions, and of the environments'
                seeds, which belong to (task, episode) and to no worker or thread.
        """
        with torch.no_grad(), chunks.one_thread_per_operator():
            carry, act = policy.over_tasks(params, (self.episodes_per_task,))
            dtype = next(iter(params.values())).dtype
            seen = self._grouped(self._reset(tasks, generator), dtype)
            ended = np.zeros(self.env.num_envs, dtype=bool)
            steps = []
            for _ in range(self.horizon):
                carry, behavior = act(carry, seen)
                actions = behavior.sample(generator, self.share)
                flat = actions.flatten(0, 1).numpy(force=True)
                with self._errors_of("step"):
                    following, rewards, terminated, truncated, info = self.env.step(flat)
                diverged = ~ended & _flags(info.get("diverged", False))
                happened = [self._grouped(x, dtype) for x in (rewards, ~ended, diverged)]
                steps.append((behavior, seen, actions, *happened))
                ended = ended | _flags(terminated) | _flags(truncated)
                if ended.all():
                    break
                seen = self._grouped(following, dtype)
            for _ in range(self.horizon - len(steps)):
                behavior.sample(generator, self.share)  # as much noise whatever has happened
            behaviors, *columns = zip(*steps, strict=True)
            seen, actions, rewards, mask, diverged = (self._stacked(*x) for x in columns)
            behavior = tree.map_leaves(self._stacked, *behaviors)
            rollout = Rollout(seen, actions, rewards.to(dtype), mask, behavior, diverged)
            return Rollout(*zero_padding(rollout))

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
        """Adapt to every task by interaction: roll out, take an inner step, roll out again.

        Episodes number k are drawn from the policy after k inner steps, for k = 0, ..., K with
        K = ``loop.num_steps``; the last are the query. `process` computes advantages; of a pair the
        first serves the support and the second the query. Every task adapts from its parameters in
        `start`, which have a leading task axis; by default all do from the start of the loop.

        Returns:
            The meta-batch, and metrics of the way: returns, inner gradients, baseline.
        """
        if loop.num_steps is None or loop.per_step:
            raise ValueError("collect needs a loop with num_steps set, and without per_step leaves")
        inner, outer = process if isinstance(process, tuple) else (process, process)
        params = start or tree.expand(loop.start(meta.model, ())[0], self.num_tasks)
        state = loop.state(params)
        batches: list[Episodes] = []
        each: Metrics = {}  # of every task
        diverged: Any = 0
        for index in range(loop.num_steps + 1):
            if index > 0:
                params, state, about = inner_step(loop, meta, params, state, batches[-1], index - 1)
                each |= {f"gradient/{n}_{index - 1}": x for n, x in about.items()}
            rollout = self.rollout(policy, params, tasks, generator)
            process = outer if index == loop.num_steps else inner
            # Task by task: the same bits, however many tasks there are.
            size = 1 if self.device.type == "cpu" else None
            episodes, fit = chunks.map_tasks(process, rollout, size)
            batches.append(episodes)
            diverged = diverged + rollout.diverged.sum()
            each |= {f"return/step_{index}": mean_return(episodes), **fit}
        whole = processes.total([{"episodes/diverged": diverged}])
        return Task(tuple(batches[:-1]), batches[-1]), processes.mean_over_tasks(each) | whole

    def _reset(self, tasks: list[TaskDescription], generator: torch.Generator) -> Any:
        shape, device = (self.share.total, self.episodes_per_task), generator.device
        drawn = torch.randint(2**31, shape, generator=generator, device=device)
        seeds = self.share.of_batch(drawn).flatten().tolist()
        rows = [task for task in tasks for _ in range(self.episodes_per_task)]
        with self._errors_of("set_attr", ValueError):
            self.env.set_attr("task", rows)
        with self._errors_of("reset"):
            return self.env.reset(seed=seeds)[0]

    def _grouped(self, values: Any, dtype: torch.dtype) -> Tensor:
        """Put what the rows returned on the device, in shape (task, episode, ...).

        Floating-point numbers are converted to `dtype`; the bytes of images stay bytes.
        """
        rows = torch.as_tensor(values)
        kind = dtype if rows.is_floating_point() else rows.dtype
        shape = (self.num_tasks, self.episodes_per_task, *rows.shape[1:])
        # A copy: an environment may write its next observations into the same array.
        return rows.to(self.device, kind, copy=True).reshape(shape)

    def _stacked(self, *steps: Tensor) -> Tensor:
        """Stack time steps along the second axis and pad them to the horizon."""
        stacked = torch.stack(steps, 1)
        padding = (stacked.shape[0], self.horizon - len(steps), *stacked.shape[2:])
        return torch.cat([stacked, stacked.new_zeros(padding)], 1) if padding[1] else stacked


def make_sampler(
    env_id: str,
    *,
    num_tasks: int,
    episodes_per_task: int,
    device: Any = "cpu",
    share: processes.TaskSlice | None = None,
    **kwargs: Any,
) -> Sampler:
    """Build a registered environment with a row for each episode, and a sampler on it.

    An environment without a vectorized implementation runs as ``SyncVectorEnv``, one row after the
    other, or with ``vectorization_mode="async"`` in one process per row; the episodes are the same.

    Args:
        env_id: A Gymnasium id; ``module:namespace/Name-v0`` imports the module that registers it.
        num_tasks: Tasks of a meta-batch.
        episodes_per_task: Episodes rolled out for each task.
        device: See :class:`Sampler`.
        share: Which of the tasks are this process's; by default all of them.
        kwargs: Arguments of ``gymnasium.make_vec``, such as ``vectorization_mode`` and
            ``vector_kwargs``, and of the environment, such as ``observe_task=True``.

    Raises:
        ValueError: If the environment has no tasks, or they cannot be written as JSON.
    """
    own = num_tasks if share is None else share.number
    env = make_vector_env(env_id, own * episodes_per_task, **kwargs)
    return Sampler(env, episodes_per_task=episodes_per_task, device=device, share=share)


def _flags(values: Any) -> Any:
    """Return an array of booleans; rows that say nothing are None in Gymnasium's infos."""
    return np.asarray(values.numpy(force=True) if isinstance(values, Tensor) else values, bool)


def inner_step(
    loop: InnerLoop, meta: MetaParams, params: Params, state: Any, batch: Episodes, index: int
) -> tuple[Params, Any, dict[str, Tensor]]:
    """Take one inner step on every task, in chunks that fit the cache.

    Args:
        loop: The inner loop.
        meta: Meta-parameters, without a task axis.
        params: Parameters of every task.
        state: State of the inner optimizer of every task.
        batch: The episodes that each task steps on.
        index: Number of the step, from 0.

    Returns:
        Parameters and state after the step, and of each task's gradient the norm (``inner``) and
        the :func:`agreement`.
    """

    def step(part: tuple[Params, Any, Episodes]) -> tuple[Params, Any, dict[str, Tensor]]:
        params, state, batch = part
        grads = loop.gradient(params, batch)
        about = {"inner": tree.norm(grads)} | agreement(loop, params, batch)
        return *loop.update(meta, params, grads, state, index), about

    with torch.no_grad():
        return chunks.map_tasks(step, (params, state, batch), chunk_of(batch))


def agreement(loop: InnerLoop, params: Params, batch: Episodes) -> dict[str, Tensor]:
    """Compare the inner gradients of two halves of a task's episodes: their cosine.

    It says how much of an adaptation step is signal: halves that share nothing but noise have 0.
    """
    half = batch.mask.shape[1] // 2
    if half == 0:
        return {}
    cut = [slice(None, half), slice(half, None)]
    first, second = (
        loop.gradient(params, tree.map_leaves(lambda x, s=s: x[:, s], batch)) for s in cut
    )
    return {"agreement": tree.dot(first, second) / (tree.norm(first) * tree.norm(second))}
