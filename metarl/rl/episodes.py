"""Batches of episodes, and the masked means that losses are made of."""

from typing import Any, NamedTuple

import torch
from jaxtyping import Bool, Float, Shaped
from torch import Tensor

from metarl.core import Metrics, Task, tree
from metarl.core.speed import chunks, processes
from metarl.rl.distributions import Gaussian


class Rollout(NamedTuple):
    """What a policy did: one task without the leading axis, a meta-batch with it.

    Time comes before the episode and is padded to the horizon; padding has mask ``False``.

    Attributes:
        observations: What the policy saw, shape (*task, time, episode, *observation). Floats have
            the type of the parameters; others, such as the bytes of images, keep their own.
        actions: Its unclipped samples; shape (..., actions) if continuous, (...) if discrete.
        rewards: Reward of each transition.
        mask: Which transitions happened.
        behavior: The distributions that the actions were drawn from.
        diverged: In which transitions the simulation diverged, and so ended the episode.
    """

    observations: Shaped[Tensor, "..."]
    actions: Any
    rewards: Float[Tensor, "*task time episode"]
    mask: Bool[Tensor, "*task time episode"]
    behavior: Any
    diverged: Bool[Tensor, "*task time episode"]


class Episodes(NamedTuple):
    """A rollout and its advantages: everything that losses need."""

    observations: Shaped[Tensor, "..."]
    actions: Any
    rewards: Float[Tensor, "*task time episode"]
    mask: Bool[Tensor, "*task time episode"]
    behavior: Any
    advantages: Float[Tensor, "*task time episode"]


def masked(values: Tensor, mask: Tensor) -> Tensor:
    """Zero the padding; by selection, since 0 × NaN is NaN."""
    return torch.where(mask, values, 0.0)


def zero_padding(batch: Any) -> Any:
    """Zero whatever the padding holds: in a backward pass 0 × NaN is NaN, whatever a loss masks."""
    mask = batch.mask

    def zero(x: Tensor) -> Tensor:
        return torch.where(
            mask.reshape(*mask.shape, *[1] * (x.ndim - mask.ndim)), x, x.new_zeros(())
        )

    return tree.map_leaves(zero, batch)


def zero_task_padding(tasks: Task) -> Task:
    """Zero whatever the padding of a task, or a meta-batch, holds."""
    return Task(tuple(zero_padding(batch) for batch in tasks.support), zero_padding(tasks.query))


def masked_mean(values: Float[Tensor, "*axes"], mask: Bool[Tensor, "*axes"]) -> Float[Tensor, ""]:
    """Average over the transitions that happened, every one with the same weight."""
    return masked(values, mask).sum() / mask.sum()


def mean_return(rollout: Rollout | Episodes) -> Float[Tensor, "*task"]:
    """Average undiscounted return of the episodes of each task."""
    return masked(rollout.rewards, rollout.mask).sum(-2).mean(-1)


def chunk_of(batch: Episodes) -> int:
    """Return how many tasks of a meta-batch of episodes make a chunk that fits the cache."""
    mask = batch.mask
    return chunks.cache_sized(mask[0].numel(), processes.count(len(mask)), mask.device) or len(mask)


@chunks.one_thread_per_operator()
def rollout_metrics(task: Task) -> Metrics:
    """Describe the policies that collected a meta-batch, before and after adaptation.

    Returns:
        Transitions (``env/steps``), mean episode length after adaptation, and the policy's entropy
        or, if it is Gaussian, its mean standard deviation.
    """
    batches: list[Episodes] = [*task.support, task.query]
    lengths = task.query.mask.sum(1).float()
    pairs = {"episode/length": _pair(lengths, torch.ones_like(lengths, dtype=torch.bool))}
    for name, batch in (("before", batches[0]), ("after", batches[-1])):
        behavior = batch.behavior
        if isinstance(behavior, Gaussian):
            mask = batch.mask.unsqueeze(-1).expand_as(behavior.log_std)
            pairs[f"policy/std_{name}"] = _pair(behavior.log_std.exp(), mask)
        else:
            pairs[f"policy/entropy_{name}"] = _pair(behavior.entropy(), batch.mask)
    steps = torch.stack([batch.mask.sum() for batch in batches]).sum().double()
    steps, pairs = processes.total([(steps, pairs)])
    return {"env/steps": steps, **{name: value / count for name, (value, count) in pairs.items()}}


def _pair(values: Tensor, mask: Tensor) -> tuple[Tensor, Tensor]:
    """Return the sum of what happened, and how much did."""
    return masked(values, mask).sum(), mask.sum()
