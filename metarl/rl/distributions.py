"""Action distributions as tuples of tensors, and layers that compute distributions.

Batch axes come first, and the last axis is the event axis.
``torch.distributions`` is not used, because it samples from the global
generator and raises errors under ``vmap``.
"""

import math
from collections.abc import Callable
from typing import Any, NamedTuple, Protocol, runtime_checkable

import torch
from jaxtyping import Float, Int
from torch import Tensor, nn

from metarl.core.speed import TaskSlice
from metarl.nn import linear


MIN_LOG_STD = math.log(1e-6)  # the floor of Finn et al.'s code; below it the gradient is zero


@runtime_checkable
class Distribution(Protocol):
    """The interface of action distributions, which are NamedTuples of tensors.

    All tensors of a distribution have the same batch axes.
    """

    def log_prob(self, actions: Tensor) -> Tensor:
        """Return log-probabilities or log-densities of `actions` as a tensor of shape (*batch)."""

    def kl(self, other: Any) -> Tensor:
        """Return the KL divergences KL(self ‖ other) in nats as a tensor of shape (*batch)."""

    def entropy(self) -> Tensor:
        """Return the entropies in nats as a tensor of shape (*batch)."""

    def mode(self) -> Tensor:
        """Return the most likely action for every batch element."""

    def sample(
        self, generator: torch.Generator | None = None, share: TaskSlice | None = None
    ) -> Tensor:
        """Sample one action for every batch element, without gradients.

        Args:
            generator: Random generator. None uses torch's global generator.
            share: The slice of the meta-batch on the first axis, in
                distributed training. Noise is sampled for the whole
                meta-batch, so that actions do not depend on the number of
                processes. None if the first axis contains all tasks.

        Returns:
            Actions of shape (*batch, actions), or (*batch) for discrete actions.
        """

    def fisher(self, tangent: Any) -> Any:
        """Return the product of the Fisher information matrix and a tangent.

        Args:
            tangent: A distribution of the same type that contains one tangent for each tensor.

        Returns:
            The products, one per tensor, as a distribution of the same type.
        """


class Gaussian(NamedTuple):
    """A diagonal Gaussian distribution over continuous actions.

    Attributes:
        mean: Means of shape (*batch, actions).
        log_std: Logarithms of the standard deviations, of shape (*batch, actions).
    """

    mean: Float[Tensor, "*batch actions"]
    log_std: Float[Tensor, "*batch actions"]

    def log_prob(self, actions: Float[Tensor, "*batch actions"]) -> Float[Tensor, "*batch"]:
        """Return the log-densities log N(actions; mean, std²), of shape (*batch)."""
        z = (actions - self.mean) * torch.exp(-self.log_std)
        return -(0.5 * z.square() + self.log_std + 0.5 * math.log(2 * math.pi)).sum(-1)

    def kl(self, other: "Gaussian") -> Float[Tensor, "*batch"]:
        """Return the closed-form KL divergence KL(self ‖ other) in nats."""
        log_ratio = self.log_std - other.log_std
        shift = (self.mean - other.mean) * torch.exp(-other.log_std)
        return (0.5 * (torch.exp(2 * log_ratio) + shift.square() - 1) - log_ratio).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the differential entropy in nats."""
        return (self.log_std + 0.5 * math.log(2 * math.pi * math.e)).sum(-1)

    def mode(self) -> Float[Tensor, "*batch actions"]:
        """Return the mean, which is the most likely action."""
        return self.mean

    def sample(
        self, generator: torch.Generator | None = None, share: TaskSlice | None = None
    ) -> Float[Tensor, "*batch actions"]:
        """Sample mean + std · ε with noise ε ~ N(0, I) from `generator`, without gradients.

        Args:
            generator: Random generator. None uses torch's global generator.
            share: Slice of the meta-batch on the first axis; see :meth:`Distribution.sample`.
        """
        with torch.no_grad():
            noise = _drawn(self.mean, share, lambda x: x.normal_(generator=generator))
            # exp is ten times slower on a view with stride 0, such as a shared log-std.
            return noise.mul_(torch.exp(self.log_std.contiguous())).add_(self.mean)

    def fisher(self, tangent: "Gaussian") -> "Gaussian":
        """Multiply `tangent` by the Fisher matrix, which is diagonal.

        The entries of the diagonal are 1/std² for the mean and 2 for the log-std.
        """
        return Gaussian(tangent.mean * torch.exp(-2 * self.log_std), 2 * tangent.log_std)


class Categorical(NamedTuple):
    """A categorical distribution over discrete actions; `logits` have shape (*batch, actions)."""

    logits: Float[Tensor, "*batch actions"]

    def log_prob(self, actions: Int[Tensor, "*batch"]) -> Float[Tensor, "*batch"]:
        """Return the log-probabilities of action indices, of shape (*batch)."""
        log_probs = torch.log_softmax(self.logits, -1)
        return log_probs.gather(-1, actions.unsqueeze(-1)).squeeze(-1)

    def kl(self, other: "Categorical") -> Float[Tensor, "*batch"]:
        """Return the KL divergence KL(self ‖ other) in nats."""
        p, q = torch.log_softmax(self.logits, -1), torch.log_softmax(other.logits, -1)
        return (p.exp() * (p - q)).sum(-1)

    def entropy(self) -> Float[Tensor, "*batch"]:
        """Return the entropy in nats."""
        p = torch.log_softmax(self.logits, -1)
        return -(p.exp() * p).sum(-1)

    def mode(self) -> Int[Tensor, "*batch"]:
        """Return the indices of the most likely actions."""
        return self.logits.argmax(-1)

    def sample(
        self, generator: torch.Generator | None = None, share: TaskSlice | None = None
    ) -> Int[Tensor, "*batch"]:
        """Sample action indices with the Gumbel-max trick and noise from `generator`.

        Args:
            generator: Random generator. None uses torch's global generator.
            share: Slice of the meta-batch on the first axis; see :meth:`Distribution.sample`.
        """
        with torch.no_grad():
            uniform = _drawn(self.logits, share, lambda x: x.uniform_(generator=generator))
            tiny = torch.finfo(uniform.dtype).tiny
            return (self.logits - torch.log(-torch.log(uniform.clamp(min=tiny)))).argmax(-1)

    def fisher(self, tangent: "Categorical") -> "Categorical":
        """Multiply `tangent` by diag(p) − p pᵀ, the Fisher matrix for the logits."""
        p = torch.softmax(self.logits, -1)
        weighted = p * tangent.logits
        return Categorical(weighted - p * weighted.sum(-1, keepdim=True))


def gaussian(outputs: Tensor, log_std: Tensor, scale: float = 1.0) -> Gaussian:
    """Return N(scale · outputs, (scale · exp(log_std))²), where exp(log_std) is at least 1e-6.

    Args:
        outputs: Network outputs of shape (*batch, actions).
        log_std: Logarithms of the standard deviations before scaling, of shape (actions).
        scale: Factor that converts the outputs to actions.
    """
    log_std = log_std + math.log(scale) if scale != 1 else log_std
    mean = outputs * scale if scale != 1 else outputs
    return Gaussian(mean, log_std.clamp(min=MIN_LOG_STD).expand_as(mean))


class GaussianHead(nn.Module):
    """A linear layer from features to a Gaussian with a learned log-std; see :class:`GaussianMLP`.

    Args:
        fan_in: Number of features.
        actions: Number of actions.
        init_std: Initial standard deviation of the actions.
        scale: Factor that multiplies the outputs and the standard deviation.
        gain: Factor applied to the initial weights.
        generator: Random generator for the weights; defaults to PyTorch's global generator.
    """

    def __init__(
        self,
        fan_in: int,
        actions: int,
        *,
        init_std: float = 1.0,
        scale: float = 1.0,
        gain: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.linear, self.scale = _scaled_linear(fan_in, actions, gain, generator), scale
        self.log_std = nn.Parameter(torch.full((actions,), math.log(init_std / scale)))

    def forward(self, features: Float[Tensor, "*batch fan_in"]) -> Gaussian:
        """Return the action distribution at each element of the batch."""
        return gaussian(self.linear(features), self.log_std, self.scale)


class CategoricalHead(nn.Module):
    """A linear layer from features to the logits of discrete actions.

    Args:
        fan_in: Number of features.
        actions: Number of actions.
        gain: Factor applied to the initial weights.
        generator: Random generator for the weights; defaults to PyTorch's global generator.
    """

    def __init__(
        self,
        fan_in: int,
        actions: int,
        *,
        gain: float = 1.0,
        generator: torch.Generator | None = None,
    ) -> None:
        super().__init__()
        self.linear = _scaled_linear(fan_in, actions, gain, generator)

    def forward(self, features: Float[Tensor, "*batch fan_in"]) -> Categorical:
        """Return the action distribution at each element of the batch."""
        return Categorical(self.linear(features))


def _scaled_linear(fan_in: int, fan_out: int, gain: float, generator: Any) -> nn.Linear:
    layer = linear(fan_in, fan_out, generator=generator)
    with torch.no_grad():
        layer.weight.mul_(gain)
    return layer


def _drawn(like: Tensor, share: TaskSlice | None, draw: Callable[[Tensor], Tensor]) -> Tensor:
    """Sample random numbers in the shape of `like`.

    Args:
        like: Tensor whose first axis is the task axis if `share` is set.
        share: The slice of the meta-batch that `like` contains. Numbers are
            sampled for the whole meta-batch, but only this slice is returned.
            None if `like` contains all tasks.
        draw: Function that fills a tensor with random numbers in place, and returns the tensor.
    """
    if share is None or share.number == share.total:
        return draw(like.new_empty(like.shape))
    whole = draw(like.new_empty((share.total, *like.shape[1:])))
    return share.of_batch(whole)
