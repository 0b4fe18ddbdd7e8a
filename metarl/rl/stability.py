"""Normalization of observations, and warnings about updates that fail or are too large."""

from functools import cache

import torch
from torch import Tensor

from metarl.core import MetaLearner, MetaState, Metrics, Params, Task
from metarl.core.speed import chunks, processes
from metarl.rl.episodes import Episodes
from metarl.rl.policies import NORMALIZER
from metarl.util import warn


ADVICE = (
    "set normalize_observations, or scale the observations to values near 1 (for example with "
    "gymnasium.wrappers.TransformObservation)"
)
PATIENCE = 3
LARGEST_KL = 100.0  # nats; updates usually have a KL divergence of 0.01 to 1
LEAST_STD = 1e-4  # of an observation
ROUNDING = 1e-6  # least standard deviation relative to the mean, for float32


def normalizing(learner: MetaLearner) -> MetaLearner:
    """Return a meta-learner that updates the observation statistics after every meta-update.

    The statistics are the mean and the standard deviation of all observations
    since the start of training, and are part of the meta-parameters
    (:class:`metarl.nn.RunningNorm`). The episodes of an iteration, its inner
    steps and its meta-update use the same statistics, so that gradients and
    likelihood ratios are exact. The observations of the iteration are then
    added to the statistics, which the next iteration uses. In the first
    iteration, the policy therefore observes zeros.

    Args:
        learner: A meta-learner for a policy built with ``normalize=True``.

    Example::

        policy, params = mlp_policy(space, actions, normalize=True)
        learner = normalizing(maml_trpo(policy, loop))
    """

    def step(state: MetaState, tasks: Task) -> tuple[MetaState, Metrics]:
        state, metrics = learner.step(state, tasks)
        add_observations(state.params.model, tasks)
        return state, metrics

    return learner._replace(step=step)


@torch.no_grad()
@chunks.one_thread_per_operator()
def add_observations(params: Params, tasks: Task) -> None:
    """Add the observations of a meta-batch to the statistics in the parameters, in place.

    Args:
        params: Parameters of a policy built with ``normalize=True``.
        tasks: The meta-batch; in distributed training, the tasks of this process.
    """
    mean, scale, count = (params[f"{NORMALIZER}.{name}"] for name in ("mean", "scale", "count"))
    old = mean.double()

    def sums(batch: Episodes, task: int) -> tuple[Tensor, Tensor, Tensor]:
        mask = batch.mask[task]
        shifted = batch.observations[task][mask].double() - old
        return mask.sum().double(), shifted.sum(0), shifted.square().sum(0)

    batches, number = (*tasks.support, tasks.query), len(tasks.query.mask)
    each = [sums(batch, task) for batch in batches for task in range(number)]
    added, first, second = processes.total(each)
    total, squares = count + added, torch.where(count > 0, count / scale.double().square(), 0.0)
    shift = first / total
    variance = (squares + second) / total - shift.square()
    least = torch.maximum(ROUNDING * (old + shift).abs(), torch.full_like(old, LEAST_STD))
    mean.copy_(old + shift)
    scale.copy_(torch.maximum(variance.clamp(min=0).sqrt(), least).reciprocal())
    count.copy_(total)


class RejectedSteps:
    """A counter that warns after three consecutive updates without an accepted step."""

    def __init__(self) -> None:
        """Start counting at zero."""
        self._count = 0

    def add(self, *, accepted: bool) -> None:
        """Record an update; warn after the third consecutive update without an accepted step."""
        self._count = 0 if accepted else self._count + 1
        if self._count == PATIENCE and processes.writes():
            warn(
                f"the line search has accepted no step in {PATIENCE} consecutive updates, so the "
                f"policy does not change. To fix this, {ADVICE}, lower inner_lr, or collect more "
                "episodes"
            )


def warn_of_large_kl(metrics: Metrics) -> None:
    """Warn once per process if a KL divergence (``outer/kl*``) exceeds 100 nats or is NaN."""
    found = [float(value) for name, value in metrics.items() if name.startswith("outer/kl")]
    if not all(value <= LARGEST_KL for value in found):
        _warn_of_large_kl()


@cache
def _warn_of_large_kl() -> None:
    if processes.writes():
        warn(
            f"the KL divergence of an update is NaN or exceeds {LARGEST_KL:g} nats, which can make "
            f"training unstable. To fix this, {ADVICE}, or lower outer_lr"
        )
