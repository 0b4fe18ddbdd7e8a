"""Normalization layers written from primitives, exact in derivatives of every order."""

import torch
from jaxtyping import Float
from torch import Tensor, nn


class LayerNorm(nn.Module):
    """Layer normalization over the last axis, written from primitives (Ba et al. 2016).

    The fused kernel behind ``nn.LayerNorm`` gives wrong second derivatives in ``grad(vmap(...))``;
    this one is exact in any order and nesting.
    """

    def __init__(self, size: int, *, eps: float = 1e-5) -> None:
        """Start with scale 1 and shift 0 over the `size` features of the last axis."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, inputs: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        """Normalize every row to mean 0 and variance 1, then scale and shift it."""
        centered = inputs - inputs.mean(-1, keepdim=True)
        variance = (centered * centered).mean(-1, keepdim=True)
        return centered * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class BatchNorm(nn.Module):
    """Batch normalization over all axes but the last, without running statistics.

    Written from primitives, so that derivatives of every order are exact in any nesting.
    """

    def __init__(self, size: int, *, scale: bool = True, eps: float = 1e-5) -> None:
        """Start with scale γ = 1 (if there is one) and shift β = 0."""
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if scale else None
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "n *pixels size"], first: int = 0) -> Tensor:
        """Normalize with the mean and variance of ``x[first:]``, then scale and shift."""
        axes = tuple(range(x.ndim - 1))
        # Without a slice where it would keep everything, since its derivative is a copy.
        centered = x - (x[first:] if first else x).mean(axes)
        squares = centered * centered
        scale = torch.rsqrt((squares[first:] if first else squares).mean(axes) + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        return centered * scale + self.bias
