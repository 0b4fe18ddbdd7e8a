"""Batches of episodes, and masked means over their transitions."""

from collections.abc import Sequence
from functools import partial
from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from metarl.core import Metrics, Task, tree
from metarl.core.speed import chunks, processes
from metarl.rl.distributions import Gaussian


class Rollout(NamedTuple):
    """The transitions from one task, or from a meta-batch with a leading task axis.

    All tensors have the axes (time, episode). The time axis is padded to the
    horizon or, if all episodes in the meta-batch are shorter, to a half, a
    quarter, ... of the horizon.

    Attributes:
        observations: Observations of shape (*task, time, episode,
            *observation). Floating-point observations have the dtype of the
            parameters; other observations, such as images of bytes, keep
            their dtype.
        actions: Sampled actions before clipping, of shape (*task, time,
            episode, actions) if the actions are continuous and (*task, time,
            episode) if they are discrete.
        rewards: Reward for each transition, of shape (*task, time, episode).
        mask: True for transitions, False for padding; same shape as `rewards`.
        behavior: The distributions from which the actions were sampled.
        diverged: True for transitions in which the simulation diverged, which ends the episode.
        infos: Entries of the environment's info by name, of the same shape as
            `rewards`; −∞ where the info had no such entry.
    """

    observations: Shaped[Tensor, "..."]
    actions: Any
    rewards: Float[Tensor, "*task time episode"]
    mask: Bool[Tensor, "*task time episode"]
    behavior: Any
    diverged: Bool[Tensor, "*task time episode"]
    infos: dict[str, Float[Tensor, "*task time episode"]] = {}  # noqa: RUF012 (never written to)


class Episodes(NamedTuple):
    """Episodes with one advantage per transition; :class:`Rollout` describes the other fields."""

    observations: Shaped[Tensor, "..."]
    actions: Any
    rewards: Float[Tensor, "*task time episode"]
    mask: Bool[Tensor, "*task time episode"]
    behavior: Any
    advantages: Float[Tensor, "*task time episode"]
    infos: dict[str, Float[Tensor, "*task time episode"]] = {}  # noqa: RUF012 (never written to)


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Return `values` with zeros where `mask` is False, even if the padding contains NaN."""
    return torch.where(mask, values, 0.0)


def zero_padding(batch: Any) -> Any:
    """Return a rollout or episodes with the padding set to zero in all tensors.

    NaN in the padding could otherwise affect gradients.
    """
    mask = batch.mask

    def zero(x: Tensor) -> Tensor:
        return torch.where(
            mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, x.new_zeros(())
        )

    return tree.map_leaves(zero, batch)


def zero_task_padding(tasks: Task) -> Task:
    """Return a task or a meta-batch of episodes with the padding set to zero in all tensors."""
    return Task(tuple(zero_padding(batch) for batch in tasks.support), zero_padding(tasks.query))


def masked_mean(values: Float[Tensor, "*axes"], mask: Bool[Tensor, "*axes"]) -> Float[Tensor, ""]:
    """Return the mean of `values` over all transitions, without padding."""
    return masked(values, mask).sum() / mask.sum()


def mean_return(rollout: Rollout | Episodes) -> Float[Tensor, "*task"]:
    """Return the mean undiscounted return over the episodes of each task."""
    return masked(rollout.rewards, rollout.mask).sum(-2).mean(-1)


def join_steps(steps: Sequence[tuple[Any, ...]], length: int, dtype: torch.dtype) -> Rollout:
    """Stack time steps into a rollout, and pad the time axis with zeros.

    Args:
        steps: For each time step, the action distribution, observations, actions, rewards, mask,
            divergence and infos, as trees of tensors of shape (task, episode, ...).
        length: Length of the padded time axis, at least ``len(steps)``.
        dtype: Data type of the rewards.
    """
    stacked = partial(_stacked, length=length)
    columns = (tree.map_leaves(stacked, *column) for column in zip(*steps, strict=True))
    behavior, seen, actions, rewards, mask, diverged, infos = columns
    rollout = Rollout(seen, actions, rewards.to(dtype), mask, behavior, diverged, infos)
    return Rollout(*zero_padding(rollout))


def padded_length(longest: int, horizon: int) -> int:
    """Return the padded length of the time axis for episodes with at most `longest` time steps.

    The result is the horizon, or a half, a quarter, ... of the horizon if the
    episodes fit. The few possible lengths limit the number of times that
    programs are traced.
    """
    while longest <= -(-horizon // 2) < horizon:
        horizon = -(-horizon // 2)
    return horizon


def _stacked(*steps: Tensor, length: int) -> Tensor:
    """Stack time steps along axis 1, and pad the axis with zeros to `length`."""
    stacked = torch.stack(steps, 1)
    padding = (stacked.shape[0], length - len(steps), *stacked.shape[2:])
    return torch.cat([stacked, stacked.new_zeros(padding)], 1) if padding[1] else stacked


def chunk_of(batch: Episodes) -> int:
    """Return the number of tasks per chunk for a meta-batch of episodes.

    On the CPU, a chunk fits into the cache; on other devices, one chunk contains all tasks.
    """
    mask = batch.mask
    return chunks.cache_sized(mask[0].numel(), processes.count(len(mask)), mask.device) or len(mask)


@chunks.one_thread_per_operator()
def rollout_metrics(task: Task) -> Metrics:
    """Return metrics of the policies that collected a meta-batch, over all processes.

    Args:
        task: The meta-batch of episodes.

    Returns:
        Metrics by name. ``env/steps`` is the number of transitions, and
        ``episode/length`` is the mean length of the episodes after
        adaptation. For Gaussian policies, ``policy/std_before`` and
        ``policy/std_after`` are the mean standard deviations before and after
        adaptation. For all other policies, ``policy/entropy_before`` and
        ``policy/entropy_after`` are the mean entropies in nats.
    """
    number = len(task.query.mask)
    each = [tree.map_leaves(lambda x, index=index: x[index], task) for index in range(number)]
    steps, pairs = processes.total([_sums(task) for task in each])
    return {"env/steps": steps, **{name: value / count for name, (value, count) in pairs.items()}}


def _sums(task: Task) -> tuple[Tensor, dict[str, tuple[Tensor, Tensor]]]:
    """Return a task's number of transitions, and metrics as pairs of a sum and a count."""
    batches: list[Episodes] = [*task.support, task.query]
    lengths = task.query.mask.sum(0).float()
    pairs = {"episode/length": _pair(lengths, torch.ones_like(lengths, dtype=torch.bool))}
    for name, batch in (("before", batches[0]), ("after", batches[-1])):
        behavior = batch.behavior
        if isinstance(behavior, Gaussian):
            mask = batch.mask.unsqueeze(-1).expand_as(behavior.log_std)
            pairs[f"policy/std_{name}"] = _pair(behavior.log_std.exp(), mask)
        else:
            pairs[f"policy/entropy_{name}"] = _pair(behavior.entropy(), batch.mask)
    return torch.stack([batch.mask.sum() for batch in batches]).sum().double(), pairs


def _pair(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of `values` where `mask` is True, and the number of these entries."""
    return masked(values, mask).sum(), mask.sum()
