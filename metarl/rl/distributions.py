"""Action distributions as tuples of tensors, which work with ``vmap`` and autograd.

Batch axes come first, and the last axis is the event. ``torch.distributions`` is not used, because
it samples from the global generator and raises errors under ``vmap``.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor

from metarl.core.speed import TaskSlice


@runtime_checkable
class Distribution(Protocol):
    """The base class of action distributions: NamedTuples of tensors with the same batch axes."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return the log-density of `actions`, summed over the event axis, shape (*batch)."""

    def kl(self, other: Any) -> Tensor:
        """Return KL(self ‖ other), shape (*batch)."""

    def entropy(self) -> Tensor:
        """Return the entropy in nats, shape (*batch)."""

    def mode(self) -> Tensor:
        """Return the most likely action."""

    def sample(
        self, generator: torch.Generator | None = None, share: TaskSlice | None = None
    ) -> Tensor:
        """Sample one action per row with random numbers of `generator`, without gradient.

        With a `share`, the first axis contains the tasks of this process, and the noise is sampled
        for all tasks, so that it does not depend on the number of processes.
        """

    def fisher(self, tangent: Any) -> Any:
        """Return the product of the Fisher information matrix with a tangent."""


class Gaussian(NamedTuple):
    """A diagonal Gaussian; mean and log-std have shape (*batch, actions)."""

    mean: Float[Tensor, "*batch actions"]
    log_std: Float[Tensor, "*batch actions"]

    def log_prob(self, actions: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch"]:
        """Return log N(actions; mean, std²)."""
        z = (actions - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * z.square() + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def kl(self, other: "Gaussian") -> Float[Tensor, "*batch"]:
        """Return KL(self ‖ other) in closed form."""
        log_ratio = self.log_std - other.log_std
        shift = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (torch.exp(2 * log_ratio) + shift.square() - 1) - log_ratio).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the differential entropy in nats."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def mode(self) -> Float[Tensor, "*batch actions"]:
        """Return the mean."""
        return self.mean

    def sample(
        self, generator: torch.Generator | None = None, share: TaskSlice | None = None
    ) -> Float[Tensor, "*batch actions"]:
        """Return mean + std · ε with ε from `generator`."""
        with torch.no_grad():
            noise = _drawn(self.mean, share, lambda x: x.normal_(generator=generator))
            # exp is ten times slower on a view with stride 0, such as a shared log-std.
            return noise.mul_(torch.exp(self.log_std.contiguous())).add_(self.mean)

    def fisher(self, tangent: "Gaussian") -> "Gaussian":
        """Return the product with the Fisher matrix: 1/std² for the mean, 2 for the log-std."""
        return Gaussian(tangent.mean * torch.exp(-2 * self.log_std), 2 * tangent.log_std)


class Categorical(NamedTuple):
    """A categorical distribution over discrete actions; `logits` have shape (*batch, actions)."""

    logits: Float[Tensor, "*batch actions"]

    def log_prob(self, actions: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of the action indices."""
        log_probs = torch.log_softmax(self.logits, -1)
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def kl(self, other: "Categorical") -> Float[Tensor, "*batch"]:
        """Return KL(self ‖ other)."""
        p, q = torch.log_softmax(self.logits, -1), torch.log_softmax(other.logits, -1)
        return (p.exp() * (p - q)).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the entropy in nats."""
        p = torch.log_softmax(self.logits, -1)
        return -(p.exp() * p).sum(-1)

    def mode(self) -> Int[Tensor, "*batch"]:
        """Return the most likely index."""
        return self.logits.argmax(-1)

    def sample(
        self, generator: torch.Generator | None = None, share: TaskSlice | None = None
    ) -> Int[Tensor, "*batch"]:
        """Sample action indices by the Gumbel-max trick with noise from `generator`."""
        with torch.no_grad():
            uniform = _drawn(self.logits, share, lambda x: x.uniform_(generator=generator))
            tiny = torch.finfo(uniform.dtype).tiny
            return (self.logits - torch.log(-torch.log(uniform.clamp(min=tiny)))).argmax(-1)

    def fisher(self, tangent: "Categorical") -> "Categorical":
        """Return the product with diag(p) − p pᵀ, the Fisher matrix of the logits."""
        p = torch.softmax(self.logits, -1)
        weighted = p * tangent.logits
        return Categorical(weighted - p * weighted.sum(-1, keepdim=True))


def _drawn(like: Tensor, share: TaskSlice | None, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Sample numbers with the shape of `like`; with a share, the rows of its tasks."""
    if share is None or share.number == share.total:
        return draw(like.new_empty(like.shape))
    whole = draw(like.new_empty((share.total, *like.shape[1:])))
    return share.of_batch(whole)
