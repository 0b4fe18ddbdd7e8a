"""Metrics of a meta-batch that say how the policy behaves."""

import torch

from metarl.core import chunks
from metarl.core.types import Metrics, Task
from metarl.rl.distributions import Gaussian
from metarl.rl.episodes import Episodes, masked_mean


@chunks.one_thread_per_operator()
def rollout_metrics(task: Task) -> Metrics:
    """Describe the policies that collected a meta-batch, before and after adaptation.

    Returns:
        Transitions (``env/steps``), mean episode length after adaptation, and the policy's entropy
        or, if it is Gaussian, its mean standard deviation.
    """
    batches: list[Episodes] = [*task.support, task.query]
    steps = torch.stack([batch.mask.sum() for batch in batches]).sum()
    lengths = task.query.mask.sum(1).float()
    metrics = {"env/steps": steps.double(), "episode/length": lengths.mean()}
    for name, batch in (("before", batches[0]), ("after", batches[-1])):
        behavior = batch.behavior
        if isinstance(behavior, Gaussian):
            mask = batch.mask.unsqueeze(-1).expand_as(behavior.log_std)
            metrics[f"policy/std_{name}"] = masked_mean(behavior.log_std.exp(), mask)
        else:
            metrics[f"policy/entropy_{name}"] = masked_mean(behavior.entropy(), batch.mask)
    return metrics
