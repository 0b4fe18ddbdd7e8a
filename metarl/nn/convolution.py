"""Convolutional networks whose derivatives of every order are exact, and fast under ``vmap``.

Images are (batch, height, width, channels) inside. A convolution is nine shifted copies and one
matrix product: under ``vmap`` over tasks, where every task has kernels of its own, that is a
batched product, and grouped convolutions are slower at every order of derivative.
"""

from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.dense import ACTIVATIONS
from metarl.nn.norms import BatchNorm
from metarl.nn.shifts import SIZE, shifted_copies


class ConvNet(NamedTuple):
    """A convolutional network of the few-shot literature: blocks of convolution, norm, activation.

    Attributes:
        filters: Channels of every block.
        blocks: Number of blocks.
        down: Halve the image by a stride of 2, or by a 2×2 max-pool after the activation.
        pool_padding: Pool the last odd row and column with padding, or leave them out.
        features: Average the last image over its pixels, or flatten it.
        scale: Batch norm has a scale γ beside its shift β.
        eps: Added to the variance in batch norm.
        activation: ``relu`` or ``leaky_relu``.
    """

    filters: int = 64
    blocks: int = 4
    down: Literal["stride", "pool"] = "stride"
    pool_padding: Literal["valid", "same"] = "valid"
    features: Literal["mean", "flatten"] = "mean"
    scale: bool = True
    eps: float = 1e-5
    activation: str = "relu"


class Classifier(nn.Module):
    """A body that computes features and a linear head: what ANIL, BOIL and prototypes tell apart.

    With a second argument, normalization takes its statistics from those `reference` inputs alone,
    as when a query is classified with what the support set says (not transductive).
    """

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        """Join a body, called as ``body(inputs)`` or ``body(inputs, reference)``, and a head."""
        super().__init__()
        self.body, self.head = body, head

    def forward(self, inputs: Any, reference: Any = None) -> Float[Tensor, "n ways"]:
        """Return one logit per class; inputs are what the body takes."""
        features = self.body(inputs) if reference is None else self.body(inputs, reference)
        return cast(Tensor, self.head(features))


class ConvBody(nn.Module):
    """The blocks of a :class:`ConvNet`, from images in [0, 1] to features."""

    def __init__(
        self, net: ConvNet, channels: int, *, generator: torch.Generator | None = None
    ) -> None:
        """Draw Xavier-uniform kernels, and norms that start as identities."""
        super().__init__()
        self.net = net
        widths = pairwise([channels, *[net.filters] * net.blocks])
        self.blocks = nn.ModuleList(Block(net, *width, generator=generator) for width in widths)

    def forward(
        self, images: Float[Tensor, "n channels height width"], reference: Tensor | None = None
    ) -> Float[Tensor, "n features"]:
        """Return the features of every image."""
        count = 0 if reference is None else len(images)
        x = images if reference is None else torch.cat([images, reference])
        x = x.permute(0, 2, 3, 1)
        for block in self.blocks:
            x = block(x, count)
        x = x[:count] if count else x
        return x.mean((1, 2)) if self.net.features == "mean" else x.flatten(1)


class Block(nn.Module):
    """Convolution, batch norm, activation, and a max-pool where there is no stride."""

    def __init__(
        self, net: ConvNet, fan_in: int, fan_out: int, *, generator: torch.Generator | None
    ) -> None:
        """Build one block of `net`."""
        super().__init__()
        self.net = net
        stride = 2 if net.down == "stride" else 1
        self.conv = Conv3x3(fan_in, fan_out, stride=stride, generator=generator)
        self.norm = BatchNorm(fan_out, scale=net.scale, eps=net.eps)
        self.activation = ACTIVATIONS[net.activation]()

    def forward(self, x: Tensor, first: int) -> Tensor:
        """Apply the block; batch statistics are those of ``x[first:]``."""
        x = self.activation(self.norm(self.conv(x), first))
        return x if self.net.down == "stride" else max_pool(x, padding=self.net.pool_padding)


class Conv3x3(nn.Module):
    """A 3×3 convolution that keeps the size of the image, divided by the stride and rounded up.

    Padding is TensorFlow's SAME: where it is uneven, the odd pixel comes last.
    """

    def __init__(
        self, fan_in: int, fan_out: int, *, stride: int, generator: torch.Generator | None
    ) -> None:
        """Draw a Xavier-uniform kernel of shape (out, in, 3, 3), and a zero bias."""
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in, SIZE, SIZE))
        nn.init.xavier_uniform_(self.weight, generator=generator)
        self.bias = nn.Parameter(torch.zeros(fan_out))

    def forward(self, x: Float[Tensor, "n h w channels"]) -> Float[Tensor, "n h2 w2 filters"]:
        """Convolve."""
        step, (height, width) = self.stride, x.shape[1:3]
        tall, wide = -(-height // step), -(-width // step)
        down = max((tall - 1) * step + SIZE - height, 0)
        across = max((wide - 1) * step + SIZE - width, 0)
        x = F.pad(x, (0, 0, across // 2, -(-across // 2), down // 2, -(-down // 2)))
        columns = shifted_copies(x, step).flatten(0, 2)
        kernel = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        return (columns @ kernel).view(len(x), tall, wide, len(self.bias)) + self.bias


def max_pool(
    x: Float[Tensor, "n h w channels"], *, padding: str = "valid"
) -> Float[Tensor, "n h2 w2 channels"]:
    """Take the maximum of every 2×2 pixels; ``same`` keeps a last odd row or column."""
    if padding == "same":
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2), value=-torch.inf)
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    rows = torch.maximum(x[:, ::2], x[:, 1::2])
    return torch.maximum(rows[:, :, ::2], rows[:, :, 1::2])
