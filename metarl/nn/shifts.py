"""Extraction of square image patches (im2col) as a linear map with a custom derivative."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor


Map: TypeAlias = Callable[[Tensor], Tensor]

SIZE = 3  # default kernel height and width


def shifted_copies(
    x: Float[Tensor, "n h w channels"], stride: int, size: int = SIZE
) -> Float[Tensor, "n h2 w2 patch"]:
    """Extract the patch at every kernel position (im2col).

    Args:
        x: Padded images with the channels on the last axis.
        stride: Distance between neighboring kernel positions in pixels.
        size: Height and width of a patch in pixels.

    Returns:
        The patches, with the pixels of a patch concatenated along the channel axis.

    Example::

        >>> from metarl.nn import shifted_copies
        >>> shifted_copies(torch.rand(5, 30, 30, 64), stride=1).shape
        torch.Size([5, 28, 28, 576])
    """
    adjoint = partial(_fold, x.shape[1:3], stride, size)
    return _linear_map(x, partial(_unfold, stride, size), adjoint)


def _windows(shape: Sequence[int], stride: int, size: int) -> list[tuple[slice, slice, slice]]:
    """Return indices; index i selects pixel i of the patch at every kernel position."""
    ends = [(length - size) // stride * stride + 1 for length in shape]
    return [
        (slice(None), slice(i, i + ends[0], stride), slice(j, j + ends[1], stride))
        for i in range(size)
        for j in range(size)
    ]


def _unfold(stride: int, size: int, x: Tensor) -> Tensor:
    return torch.cat([x[window] for window in _windows(x.shape[1:3], stride, size)], -1)


def _fold(shape: Sequence[int], stride: int, size: int, columns: Tensor) -> Tensor:
    """Return images in which each pixel is the sum over all patches that contain the pixel.

    This operation (col2im) is the adjoint of :func:`_unfold`.
    """
    rows = columns.chunk(size, -1)
    across = [_overlap_add(row.chunk(size, -1), 2, shape[1], stride) for row in rows]
    return _overlap_add(across, 1, shape[0], stride)


def _overlap_add(parts: Sequence[Tensor], axis: int, length: int, stride: int) -> Tensor:
    """Return the sum of tensors after their elements are spread along an axis.

    Tensor i contributes to positions i, i + stride, i + 2 stride, ... of
    `axis`, which has size `length` in the result.
    """
    shape = list(parts[0].shape)
    shape[axis] = length
    total = parts[0].new_zeros(shape)
    for start, part in enumerate(parts):
        end = start + stride * part.shape[axis]
        total.movedim(axis, 0)[start:end:stride].add_(part.movedim(axis, 0))
    return total


def _linear_map(x: Tensor, function: Map, adjoint: Map) -> Tensor:
    return cast(Tensor, cast(Any, _LinearMap).apply(x, function, adjoint))


class _LinearMap(torch.autograd.Function):
    """A linear map applied to each example, whose derivative applies the adjoint map.

    Without this class, autograd would allocate and sum eighteen zero-filled
    images for nine slices, which would take half of the time of a
    meta-gradient.
    """

    @staticmethod
    def forward(x: Tensor, function: Map, adjoint: Map) -> Tensor:
        """Apply `function`; the backward pass applies its `adjoint`."""
        return function(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Store the map and its adjoint for the derivatives."""
        ctx.maps = inputs[1:]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        """Apply the adjoint to the gradient of the output."""
        return _linear_map(slope, *reversed(ctx.maps)), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        """Apply the linear map to the tangent."""
        return _linear_map(tangent, *ctx.maps)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, function: Map, adjoint: Map) -> tuple[Tensor, int]:
        """Apply the map to the examples from all tasks as one batch."""
        flat = x.movedim(in_dims[0], 0).flatten(0, 1)
        result = _linear_map(flat, function, adjoint)
        return result.reshape(info.batch_size, -1, *result.shape[1:]), 0
