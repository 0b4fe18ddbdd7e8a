"""Normalization layers with exact derivatives of every order."""

import copy
from collections.abc import Sequence
from typing import Any, TypeVar

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.fused_norm import batch_norm
from metarl.nn.native import is_native


CLIP = 10.0  # in standard deviations; also the default of Stable-Baselines3


class LayerNorm(nn.Module):
    """Layer normalization over the last axis (Ba et al. 2016), built from elementary operations.

    The fused kernel behind ``nn.LayerNorm`` returns wrong second derivatives
    in ``grad(vmap(...))``. This layer is exact for every order and nesting of
    derivatives.

    Example::

        >>> from metarl.nn import LayerNorm
        >>> LayerNorm(64)(torch.rand(10, 64)).shape
        torch.Size([10, 64])
    """

    def __init__(self, size: int, *, eps: float = 1e-5) -> None:
        """Initialize the scale to 1 and the shift to 0.

        Args:
            size: Number of features on the last axis.
            eps: Constant added to the variance.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size))
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, inputs: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        """Normalize the last axis to mean 0 and variance 1, then apply the scale and the shift."""
        centered = inputs - inputs.mean(-1, keepdim=True)
        variance = (centered * centered).mean(-1, keepdim=True)
        return centered * torch.rsqrt(variance + self.eps) * self.weight + self.bias


class BatchNorm(nn.Module):
    """Batch normalization over all axes except the last, without running statistics.

    Derivatives of every order are exact for any nesting of ``grad`` and
    ``vmap``.

    Example::

        >>> from metarl.nn import BatchNorm
        >>> BatchNorm(64)(torch.rand(10, 7, 7, 64)).shape
        torch.Size([10, 7, 7, 64])
    """

    def __init__(self, size: int, *, scale: bool = True, eps: float = 1e-5) -> None:
        """Initialize the scale γ to 1 and the shift β to 0.

        Args:
            size: Number of features on the last axis.
            scale: Whether to learn a scale γ in addition to the shift β.
            eps: Constant added to the variance.
        """
        super().__init__()
        self.weight = nn.Parameter(torch.ones(size)) if scale else None
        self.bias = nn.Parameter(torch.zeros(size))
        self.eps = eps

    def forward(self, x: Float[Tensor, "n *pixels size"], first: int = 0) -> Tensor:
        """Normalize all examples with the mean and variance of the examples ``x[first:]``.

        Args:
            x: Examples of shape (n, *pixels, size).
            first: Index of the first example that contributes to the mean and variance.

        Returns:
            The normalized examples, multiplied by γ and shifted by β, with the shape of `x`.
        """
        if first == 0 and x.ndim == 4 and is_native(x):
            return batch_norm(x, self.weight, self.bias, self.eps)
        axes = tuple(range(x.ndim - 1))
        # No slice if first is 0, because the derivative of a slice is a copy.
        centered = x - (x[first:] if first else x).mean(axes)
        squares = centered * centered
        scale = torch.rsqrt((squares[first:] if first else squares).mean(axes) + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        return centered * scale + self.bias


class FixedBatchNorm(nn.Module):
    """Batch normalization with a fixed mean and variance, such as those of a support set.

    The scale γ and the shift β are parameters; the mean and the variance are buffers.

    Example::

        >>> from metarl.nn import BatchNorm, FixedBatchNorm
        >>> FixedBatchNorm(BatchNorm(64))(torch.rand(10, 7, 7, 64)).shape
        torch.Size([10, 7, 7, 64])
    """

    mean: Tensor
    variance: Tensor

    def __init__(self, norm: BatchNorm, inputs: Tensor | None = None) -> None:
        """Copy the parameters of a layer, and compute the statistics of its inputs.

        Args:
            norm: The layer.
            inputs: Inputs of the layer, of shape (n, *pixels, size). None sets the mean and the
                variance to 0, for a layer whose statistics are loaded afterwards.
        """
        super().__init__()
        self.weight, self.bias, self.eps = norm.weight, norm.bias, norm.eps
        x = torch.zeros_like(norm.bias)[None] if inputs is None else inputs
        axes = tuple(range(x.ndim - 1))
        mean = x.mean(axes)
        self.register_buffer("mean", mean)
        self.register_buffer("variance", ((x - mean) ** 2).mean(axes))

    def forward(self, x: Float[Tensor, "n *pixels size"], first: int = 0) -> Tensor:
        """Normalize all examples with the fixed mean and variance; `first` is ignored."""
        scale = torch.rsqrt(self.variance + self.eps)
        scale = scale if self.weight is None else scale * self.weight
        return (x - self.mean) * scale + self.bias


Module = TypeVar("Module", bound=nn.Module)


def normalize_inputs(module: Module, mean: Sequence[float], std: Sequence[float]) -> Module:
    """Return a copy of a module that first normalizes the channels of its input images.

    The statistics are the buffers ``input_mean`` and ``input_std``, so that
    they are saved, moved and exported with the module. The names of the
    parameters do not change.

    Args:
        module: A module whose inputs are images of shape (..., channels, height, width).
        mean: Mean of each channel, which is subtracted.
        std: Standard deviation of each channel, by which the difference is divided.

    Example::

        >>> from metarl.nn import ConvBody, ConvNet, normalize_inputs
        >>> body = normalize_inputs(ConvBody(ConvNet(), channels=3), (0.5, 0.4, 0.4), (0.2,) * 3)
        >>> body(torch.rand(5, 3, 84, 84)).shape
        torch.Size([5, 64])
    """
    module = copy.deepcopy(module)
    module.register_buffer("input_mean", torch.tensor(mean)[:, None, None])
    module.register_buffer("input_std", torch.tensor(std)[:, None, None])
    module.register_forward_pre_hook(_normalized)
    return module


def _normalized(module: Any, inputs: tuple[Tensor | None, ...]) -> tuple[Tensor | None, ...]:
    return tuple(x if x is None else (x - module.input_mean) / module.input_std for x in inputs)


class RunningNorm(nn.Module):
    """Standardization of inputs with running statistics, for observations of a policy.

    The statistics are parameters, so that they are saved and used with the other parameters, but
    they receive no gradients: :func:`metarl.rl.stability.normalizing` updates them. Before the
    first update, all outputs are zero.

    Args:
        size: Number of features on the last axis.

    Example::

        >>> from metarl.nn import RunningNorm
        >>> RunningNorm(3)(torch.ones(10, 3)).sum()
        tensor(0.)
    """

    def __init__(self, size: int) -> None:
        super().__init__()
        self.mean, self.scale = nn.Parameter(torch.zeros(size)), nn.Parameter(torch.zeros(size))
        self.count = nn.Parameter(torch.zeros(()))

    def forward(self, x: Float[Tensor, "*batch size"]) -> Float[Tensor, "*batch size"]:
        """Return the standardized inputs, clipped to [−10, 10]."""
        return standardized(x, self.mean, self.scale)


def standardized(
    x: Float[Tensor, "*batch size"], mean: Float[Tensor, "..."], scale: Float[Tensor, "..."]
) -> Float[Tensor, "*batch size"]:
    """Return (x − mean) · scale, clipped to [−10, 10], without gradients of the statistics.

    Args:
        x: Inputs.
        mean: Mean of every feature.
        scale: Inverse of the standard deviation of every feature.
    """
    return ((x - mean.detach()) * scale.detach()).clamp(-CLIP, CLIP)
