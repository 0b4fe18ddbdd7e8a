"""Action distributions as tuples of tensors, so that they cross ``vmap`` and autograd.

Batch axes come first and the last axis is the event. ``torch.distributions`` samples from the
global generator and raises under ``vmap``.
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
    """What a policy returns. Subclasses are NamedTuples of tensors with the same batch axes."""

    def log_prob(self, actions: Tensor) -> Tensor:
        """Log-density of `actions`, summed over the event axis: shape (*batch)."""

    def kl(self, other: Any) -> Tensor:
        """KL(self ‖ other): shape (*batch)."""

    def entropy(self) -> Tensor:
        """Entropy: shape (*batch)."""

    def mode(self) -> Tensor:
        """Most likely action."""

    def sample(
        self, generator: torch.Generator | None = None, share: TaskSlice | None = None
    ) -> Tensor:
        """Draw one action for each row, from `generator` alone; without gradient.

        With a `share` the first axis is that of its tasks, and the noise that of all tasks.
        """

    def fisher(self, tangent: Any) -> Any:
        """Apply the Fisher information matrix of the parameters to a tangent."""


class Gaussian(NamedTuple):
    """Diagonal Gaussian; both tensors have shape (*batch, actions)."""

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
            # A policy's log-std is often a view with stride 0, on which exp is ten times slower.
            return noise.mul_(torch.exp(self.log_std.contiguous())).add_(self.mean)

    def fisher(self, tangent: "Gaussian") -> "Gaussian":
        """Scale by the diagonal Fisher: 1/std² for the mean, 2 for the log-std."""
        return Gaussian(tangent.mean * torch.exp(-2 * self.log_std), 2 * tangent.log_std)


class Categorical(NamedTuple):
    """Categorical over discrete actions; unnormalized `logits` of shape (*batch, actions)."""

    logits: Float[Tensor, "*batch actions"]

    def log_prob(self, actions: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probability of `actions`, given as indices."""
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
        """Draw indices by the Gumbel-max rule with noise from `generator`."""
        with torch.no_grad():
            uniform = _drawn(self.logits, share, lambda x: x.uniform_(generator=generator))
            tiny = torch.finfo(uniform.dtype).tiny
            return (self.logits - torch.log(-torch.log(uniform.clamp(min=tiny)))).argmax(-1)

    def fisher(self, tangent: "Categorical") -> "Categorical":
        """Apply diag(p) − p pᵀ, the Fisher information of the logits."""
        p = torch.softmax(self.logits, -1)
        weighted = p * tangent.logits
        return Categorical(weighted - p * weighted.sum(-1, keepdim=True))


def _drawn(like: Tensor, share: TaskSlice | None, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Draw numbers in the form of `like`; of a share of the tasks, those that belong to it."""
    if share is None or share.number == share.total:
        return draw(like.new_empty(like.shape))
    whole = draw(like.new_empty((share.total, *like.shape[1:])))
    return share.of_batch(whole)
