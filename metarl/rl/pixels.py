"""A convolutional network for image observations."""

import math
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from metarl.nn import shifted_copies
from metarl.nn.native import channels_last, is_native
from metarl.rl.infos import flattening
from metarl.rl.vector_env import brief


class Layer(NamedTuple):
    """Number of filters, kernel size and stride of a convolution."""

    filters: int
    size: int
    stride: int


NATURE = (Layer(32, 8, 4), Layer(64, 4, 2), Layer(64, 3, 1))
"""Convolutions of Mnih et al. 2015, for images of 36 pixels or more."""
BLOCK = 256
"""Number of images that are convolved at a time, so that their activations fit in the CPU cache."""
SMALL = (Layer(32, 3, 2), Layer(32, 3, 2), Layer(32, 3, 2))
"""Convolutions for images with a height and width of 15 to 35 pixels."""


def is_image(space: gymnasium.Space[Any]) -> bool:
    """Return whether a space contains images: a ``Box`` of two or three dimensions."""
    return isinstance(space, gymnasium.spaces.Box) and len(space.shape) in (2, 3)


class PixelEncoder(nn.Module):
    """A convolutional feature extractor for image observations, with ReLU activations.

    Images of 36 pixels or more use the convolutions of Mnih et al. 2015; smaller images use three
    3×3 convolutions with stride 2. If the bounds of the space are finite, values are scaled to
    [0, 1].

    Attributes:
        size: Number of features.

    Example::

        >>> from gymnasium.spaces import Box
        >>> from metarl.rl import PixelEncoder
        >>> encoder = PixelEncoder(Box(0, 255, (84, 84, 3), "uint8"))
        >>> encoder(torch.zeros(10, 5, 84, 84, 3, dtype=torch.uint8)).shape
        torch.Size([10, 5, 3136])
    """

    def __init__(
        self, space: gymnasium.spaces.Box, *, generator: torch.Generator | None = None
    ) -> None:
        """Sample orthogonal kernels with gain √2, and set all biases to zero.

        Args:
            space: Observation space of shape (height, width), (height, width, channels) or
                (channels, height, width). The first axis is the channel axis if it is the smallest.
            generator: Random generator for the kernels; defaults to PyTorch's global generator.

        Raises:
            TypeError: If the space contains no images, or images of less than 15 pixels.
        """
        super().__init__()
        if not is_image(space) or min(sorted(space.shape)[-2:]) < 15:
            raise TypeError(
                f"network=cnn requires images of at least 15x15 pixels, got {brief(space)}; use "
                f"network=mlp: {flattening(space)}"
            )
        shape = space.shape
        self.rank, self.first = len(shape), len(shape) == 3 and shape[0] < min(shape[1:])
        low, high = (np.asarray(x, np.float64) for x in (space.low, space.high))
        bounded = bool(np.isfinite(low).all() and np.isfinite(high).all())
        self.low, self.high = (float(low.min()), float(high.max())) if bounded else (0.0, 1.0)
        channels = 1 if self.rank == 2 else shape[0] if self.first else shape[-1]
        height, width = (shape[1:] if self.first else shape)[:2]
        self.layers = NATURE if min(height, width) >= 36 else SMALL
        self.kernels, self.biases = nn.ParameterList(), nn.ParameterList()
        for layer in self.layers:
            kernel = torch.empty(layer.filters, channels, layer.size, layer.size)
            nn.init.orthogonal_(kernel, math.sqrt(2), generator=generator)
            self.kernels.append(nn.Parameter(kernel))
            self.biases.append(nn.Parameter(torch.zeros(layer.filters)))
            channels = layer.filters
            height, width = ((n - layer.size) // layer.stride + 1 for n in (height, width))
        self.size = channels * height * width

    def forward(self, images: Shaped[Tensor, "..."]) -> Float[Tensor, "*batch features"]:
        """Return the features of images of shape (*batch, *image)."""
        batch = images.shape[: images.ndim - self.rank]
        x = images.reshape(-1, *images.shape[images.ndim - self.rank :])
        x = x.unsqueeze(-1) if self.rank == 2 else x.permute(0, 2, 3, 1) if self.first else x
        x = x.to(self.kernels[0].dtype)
        if (self.low, self.high) != (0.0, 1.0):
            x = (x - self.low) / (self.high - self.low)
        blocks = torch.split(x, BLOCK) if is_native(x) else (x,)
        return torch.cat([self._features(block) for block in blocks]).reshape(*batch, -1)

    def _features(self, x: Float[Tensor, "n h w channels"]) -> Float[Tensor, "n h2 w2 filters"]:
        """Apply all convolutions."""
        for layer, kernel, bias in zip(self.layers, self.kernels, self.biases, strict=True):
            x = F.relu(_convolved(x, kernel, bias, layer.stride))
        return x


def _convolved(
    x: Float[Tensor, "n h w channels"], kernel: Tensor, bias: Tensor, stride: int
) -> Float[Tensor, "n h2 w2 filters"]:
    """Convolve images without padding; under ``vmap``, by a product with the patches."""
    if is_native(x):
        return channels_last(F.conv2d, x, kernel, bias, stride=stride)
    patches = shifted_copies(x, stride, kernel.shape[-1])
    return patches @ kernel.permute(2, 3, 1, 0).flatten(0, 2) + bias
