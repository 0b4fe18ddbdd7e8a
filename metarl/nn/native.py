"""PyTorch's image operators on images with the channels on the last axis."""

from collections.abc import Callable
from typing import Any, cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch._functorch.pyfunctorch import TransformType, retrieve_all_functorch_interpreters


def inside_vmap() -> bool:
    """Return whether the caller runs inside ``torch.func.vmap``.

    Under ``vmap`` over kernels, a convolution becomes a slow grouped
    convolution, and the derivatives of the fused batch norm are wrong.
    """
    stack = retrieve_all_functorch_interpreters()
    return any(level.key() == TransformType.Vmap for level in stack)


def channels_last(
    operator: Callable[..., Tensor], x: Float[Tensor, "n h w channels"], *args: Any, **options: Any
) -> Float[Tensor, "n h2 w2 channels2"]:
    """Apply an operator that expects images of shape (n, channels, h, w), without copying.

    Args:
        operator: The operator, such as ``torch.nn.functional.conv2d``.
        x: Images with the channels on the last axis.
        args: Further arguments of the operator.
        options: Keyword arguments of the operator.
    """
    return operator(x.permute(0, 3, 1, 2), *args, **options).permute(0, 2, 3, 1)


def batch_norm(
    x: Float[Tensor, "n h w channels"],
    weight: Float[Tensor, " channels"] | None,
    bias: Float[Tensor, " channels"],
    eps: float,
) -> Float[Tensor, "n h w channels"]:
    """Normalize every channel over all images and pixels.

    Args:
        x: Images with the channels on the last axis.
        weight: Scale of every channel. None means 1.
        bias: Shift of every channel.
        eps: Constant added to the variance.
    """
    return cast(Tensor, cast(Any, _BatchNorm).apply(x, weight, bias, eps)[0])


class _BatchNorm(torch.autograd.Function):
    """Batch norm with accurate statistics and PyTorch's fused derivatives.

    PyTorch's kernel for the ``channels_last`` format adds all pixels in one
    sum, which has a relative error of about 1e-5 in single precision. Here,
    the statistics of every pixel over the images are computed first.
    """

    @staticmethod
    def forward(x: Tensor, weight: Tensor | None, bias: Tensor, eps: float) -> tuple[Tensor, ...]:
        """Return the normalized images, the mean and the inverse standard deviation."""
        means, variances = torch.batch_norm_update_stats(x.flatten(1), None, None, 0.0)
        means, variances = (y.view(-1, x.shape[-1]) for y in (means, variances))
        mean = means.mean(0)
        variance = variances.mean(0) + (means - mean).square().mean(0)
        scale = inverse = torch.rsqrt(variance + eps)
        scale = scale if weight is None else scale * weight
        return torch.addcmul(bias - mean * scale, x, scale), mean, inverse

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Any) -> None:
        """Save the images and their statistics."""
        x, weight, _, ctx.eps = inputs
        _, mean, inverse = output
        ctx.mark_non_differentiable(mean, inverse)
        ctx.save_for_backward(x, weight, mean, inverse)

    @staticmethod
    def backward(ctx: Any, slope: Tensor, *_: Any) -> Any:
        """Return the derivatives with PyTorch's operator, which is differentiable."""
        x, weight, mean, inverse = ctx.saved_tensors
        x, slope = (y.permute(0, 3, 1, 2) for y in (x, slope))
        found = torch.ops.aten.native_batch_norm_backward(
            slope, x, weight, None, None, mean, inverse, True, ctx.eps, [True, weight is not None, True]
        )
        return found[0].permute(0, 2, 3, 1), found[1], found[2], None
