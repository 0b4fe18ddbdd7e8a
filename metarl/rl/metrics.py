"""Metrics of a meta-batch that say how the policy behaves."""

import torch
from torch import Tensor

from metarl.core.speed import chunks, processes
from metarl.core.types import Metrics, Task
from metarl.rl.distributions import Gaussian
from metarl.rl.episodes import Episodes, masked


@chunks.one_thread_per_operator()
def rollout_metrics(task: Task) -> Metrics:
    """Describe the policies that collected a meta-batch, before and after adaptation.

    Returns:
        Transitions (``env/steps``), mean episode length after adaptation, and the policy's entropy
        or, if it is Gaussian, its mean standard deviation.
    """
    batches: list[Episodes] = [*task.support, task.query]
    pairs = {"episode/length": _pair(task.query.mask.sum(1).float())}
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


def _pair(values: Tensor, mask: Tensor | None = None) -> tuple[Tensor, Tensor]:
    """Return the sum of what happened, and how much did."""
    if mask is None:
        return values.sum(), torch.tensor(values.numel(), device=values.device)
    return masked(values, mask).sum(), mask.sum()
