"""Shifted copies of images, and their adjoint: a convolution without its matrix product."""

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, TypeAlias, cast

import torch
from jaxtyping import Float
from torch import Tensor


Map: TypeAlias = Callable[[Tensor], Tensor]

SIZE = 3  # of every kernel


def shifted_copies(
    x: Float[Tensor, "n h w channels"], stride: int
) -> Float[Tensor, "n h2 w2 nine_channels"]:
    """Lay the nine pixels under a 3×3 kernel side by side, wherever the kernel goes.

    Args:
        x: Images with their padding; the channels come last, here and in the result.
        stride: From one place of the kernel to the next.
    """
    return _linear_map(x, partial(_spread, stride), partial(_gather, x.shape[1:3], stride))


def _windows(size: Sequence[int], stride: int) -> list[tuple[slice, slice, slice]]:
    """Return where each of the nine pixels is, for all places of the kernel."""
    ends = [(length - SIZE) // stride * stride + 1 for length in size]
    return [
        (slice(None), slice(i, i + ends[0], stride), slice(j, j + ends[1], stride))
        for i in range(SIZE)
        for j in range(SIZE)
    ]


def _spread(stride: int, x: Tensor) -> Tensor:
    return torch.cat([x[window] for window in _windows(x.shape[1:3], stride)], -1)


def _gather(size: Sequence[int], stride: int, columns: Tensor) -> Tensor:
    """Add up what belongs to the same pixel: the adjoint of :func:`_spread`."""
    rows = columns.chunk(SIZE, -1)
    across = [_overlay(row.chunk(SIZE, -1), 2, size[1], stride) for row in rows]
    return _overlay(across, 1, size[0], stride)


def _overlay(parts: Sequence[Tensor], axis: int, length: int, stride: int) -> Tensor:
    """Add up three parts along an axis, of which part i starts at i and goes on by strides."""
    shape = list(parts[0].shape)
    shape[axis] = length
    total = parts[0].new_zeros(shape)
    for start, part in enumerate(parts):
        end = start + stride * part.shape[axis]
        total.movedim(axis, 0)[start:end:stride] += part.movedim(axis, 0)
    return total


def _linear_map(x: Tensor, there: Map, back: Map) -> Tensor:
    return cast(Tensor, cast(Any, _LinearMap).apply(x, there, back))


class _LinearMap(torch.autograd.Function):
    """A linear map of every example: its derivative is the adjoint, and that one's is the map.

    Autograd's own derivative of nine slices fills eighteen images with zeros and adds them up,
    which took half of the time of a meta-gradient.
    """

    @staticmethod
    def forward(x: Tensor, there: Map, back: Map) -> Tensor:
        """Apply `there`; `back` is its adjoint."""
        return there(x)

    @staticmethod
    def setup_context(ctx: Any, inputs: Any, output: Tensor) -> None:
        """Keep the two maps."""
        ctx.maps = inputs[1:]

    @staticmethod
    def backward(ctx: Any, slope: Tensor) -> Any:
        """Apply the adjoint."""
        there, back = ctx.maps
        return _linear_map(slope, back, there), None, None

    @staticmethod
    def jvp(ctx: Any, tangent: Tensor, *_: None) -> Tensor:
        """Apply the map."""
        return _linear_map(tangent, *ctx.maps)

    @staticmethod
    def vmap(info: Any, in_dims: Any, x: Tensor, there: Map, back: Map) -> tuple[Tensor, int]:
        """Take the examples of all tasks for one batch."""
        flat = x.movedim(in_dims[0], 0).flatten(0, 1)
        result = _linear_map(flat, there, back)
        return result.reshape(info.batch_size, -1, *result.shape[1:]), 0
