"""Convolutional networks with exact derivatives of every order, with and without ``vmap``.

Inside the networks, images have shape (batch, height, width, channels). Under
``vmap`` over tasks with different kernels, a convolution concatenates nine
shifted copies of the image and multiplies them by the kernel matrix, which
becomes a batched matrix product. Without ``vmap``, PyTorch's convolution,
batch norm and max-pool are used, which read the same memory as images in the
``channels_last`` format. Small images are faster under ``vmap``, and large
images one task at a time.
"""

from collections.abc import Iterable
from itertools import pairwise
from typing import Any, Literal, NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.dense import ACTIVATIONS
from metarl.nn.native import channels_last, is_native
from metarl.nn.norms import BatchNorm
from metarl.nn.shifts import SIZE, shifted_copies


class ConvNet(NamedTuple):
    """The architecture of a few-shot network with blocks of convolution, batch norm and activation.

    Attributes:
        filters: Number of channels in every block.
        blocks: Number of blocks.
        down: How a block halves the image height and width. ``stride`` uses a
            convolution with stride 2; ``pool`` uses a 2×2 max-pool after the
            activation.
        pool_padding: How max-pooling treats an odd image height or width.
            ``same`` pads one row or column; ``valid`` drops the last row or
            column.
        features: ``mean`` averages the last feature map over all pixels;
            ``flatten`` flattens the feature map.
        scale: Whether batch norm learns a scale γ in addition to the shift β.
        eps: Constant added to the variance in batch norm.
        activation: A key of :data:`~metarl.nn.dense.ACTIVATIONS`, such as ``relu``.

    Example::

        >>> from metarl.nn import ConvBody, ConvNet
        >>> body = ConvBody(ConvNet(filters=32, down="pool"), channels=3)
        >>> body(torch.rand(5, 3, 84, 84)).shape
        torch.Size([5, 32])
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
    """A classifier with a body that computes features and a linear head that computes logits.

    All parameter names start with ``body.`` or ``head.``. Methods such as
    ANIL, BOIL and ProtoMAML use these prefixes to treat the two parts
    differently.

    Attributes:
        meta_only: Names of the parameters that are meta-learned but never adapt.

    Example::

        >>> from metarl.nn import Classifier, ConvBody, ConvNet, linear
        >>> module = Classifier(ConvBody(ConvNet(), channels=1), linear(64, 5))
        >>> module(torch.rand(10, 1, 28, 28)).shape
        torch.Size([10, 5])
    """

    meta_only: frozenset[str] = frozenset()

    def __init__(self, body: nn.Module, head: nn.Linear) -> None:
        """Combine a body and a head.

        Args:
            body: A module that returns features, called as ``body(inputs)`` or, if
                :meth:`forward` receives `reference`, as ``body(inputs, reference)``.
            head: A linear layer from the features to the logits.
        """
        super().__init__()
        self.body, self.head = body, head

    def forward(self, inputs: Any, reference: Any = None) -> Float[Tensor, "n ways"]:
        """Return the logits for every input, of shape (n, ways).

        Args:
            inputs: Inputs for the body.
            reference: Inputs from which normalization layers compute their
                statistics, such as the support set in non-transductive
                evaluation. Defaults to `inputs`.
        """
        features = self.body(inputs) if reference is None else self.body(inputs, reference)
        return cast(Tensor, self.head(features))


class ConvBody(nn.Module):
    """A convolutional feature extractor with the architecture of a :class:`ConvNet`.

    Example::

        >>> from metarl.nn import ConvBody, ConvNet
        >>> ConvBody(ConvNet(), channels=1)(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 64])
    """

    def __init__(
        self, net: ConvNet, channels: int, *, generator: torch.Generator | None = None
    ) -> None:
        """Initialize kernels with Xavier-uniform values, biases to 0 and batch-norm scales to 1.

        Args:
            net: The architecture.
            channels: Number of channels in the input images.
            generator: Random generator for the kernels; defaults to PyTorch's global generator.
        """
        super().__init__()
        self.net = net
        widths = pairwise([channels, *[net.filters] * net.blocks])
        self.blocks = nn.ModuleList(Block(net, *width, generator=generator) for width in widths)

    def forward(
        self, images: Float[Tensor, "n channels height width"], reference: Tensor | None = None
    ) -> Float[Tensor, "n features"]:
        """Return the features of every image, of shape (n, features).

        Args:
            images: Images of shape (n, channels, height, width) with values in [0, 1].
            reference: Images from which batch norm computes its statistics; defaults to `images`.
        """
        x = feature_maps(self.blocks, images, reference)
        return x.mean((1, 2)) if self.net.features == "mean" else x.flatten(1)


def feature_maps(
    blocks: Iterable[nn.Module],
    images: Float[Tensor, "n channels height width"],
    reference: Tensor | None,
) -> Float[Tensor, "n h w filters"]:
    """Return the last feature map of every image.

    Args:
        blocks: Modules ``(x, first) -> x``, such as :class:`Block`.
        images: The images.
        reference: Images from which batch norm computes its statistics; defaults to `images`.
    """
    count = 0 if reference is None else len(images)
    x = images if reference is None else torch.cat([images, reference])
    x = x.permute(0, 2, 3, 1).contiguous()
    for block in blocks:
        x = block(x, count)
    return x[:count] if count else x


class Block(nn.Module):
    """A block with convolution, batch norm, activation and, for ``down="pool"``, a max-pool."""

    def __init__(
        self, net: ConvNet, fan_in: int, fan_out: int, *, generator: torch.Generator | None
    ) -> None:
        """Build one block of `net` with `fan_in` input channels and `fan_out` output channels."""
        super().__init__()
        self.net = net
        stride = 2 if net.down == "stride" else 1
        self.conv = Conv3x3(fan_in, fan_out, stride=stride, generator=generator)
        self.norm = BatchNorm(fan_out, scale=net.scale, eps=net.eps)
        self.activation = ACTIVATIONS[net.activation]()

    def forward(self, x: Tensor, first: int) -> Tensor:
        """Apply the block to images of shape (n, height, width, channels).

        Args:
            x: The images.
            first: Index of the first image from which batch norm computes its statistics.
        """
        x = self.norm(self.conv(x), first)
        if self.net.down == "pool":  # before the activation, which is increasing: same result
            x = max_pool(x, padding=self.net.pool_padding)
        return cast(Tensor, self.activation(x))


class Conv3x3(nn.Module):
    """A 3×3 convolution with TensorFlow's SAME padding.

    The output height and width are the input height and width divided by the
    stride, rounded up. If the padding is uneven, the end of an axis receives
    the extra pixel.
    """

    def __init__(
        self,
        fan_in: int,
        fan_out: int,
        *,
        stride: int = 1,
        bias: bool = True,
        generator: torch.Generator | None,
    ) -> None:
        """Initialize a Xavier-uniform kernel of shape (fan_out, fan_in, 3, 3) and a zero bias."""
        super().__init__()
        self.stride = stride
        self.weight = nn.Parameter(torch.empty(fan_out, fan_in, SIZE, SIZE))
        nn.init.xavier_uniform_(self.weight, generator=generator)
        self.bias = nn.Parameter(torch.zeros(fan_out)) if bias else None

    def forward(self, x: Float[Tensor, "n h w channels"]) -> Float[Tensor, "n h2 w2 filters"]:
        """Apply the convolution to images of shape (n, height, width, channels)."""
        step, (height, width) = self.stride, x.shape[1:3]
        tall, wide = -(-height // step), -(-width // step)
        down = max((tall - 1) * step + SIZE - height, 0)
        across = max((wide - 1) * step + SIZE - width, 0)
        native = is_native(x)
        if native and step == 1:
            return channels_last(F.conv2d, x, self.weight, self.bias, padding=1)
        x = F.pad(x, (0, 0, across // 2, -(-across // 2), down // 2, -(-down // 2)))
        if native:
            return channels_last(F.conv2d, x, self.weight, self.bias, stride=step)
        columns = shifted_copies(x, step).flatten(0, 2)
        kernel = self.weight.permute(2, 3, 1, 0).flatten(0, 2)
        x = (columns @ kernel).view(x.shape[0], tall, wide, len(self.weight))
        return x if self.bias is None else x + self.bias


def max_pool(
    x: Float[Tensor, "n h w channels"], *, padding: str = "valid"
) -> Float[Tensor, "n h2 w2 channels"]:
    """Return the maximum over every 2×2 block of pixels.

    Args:
        x: Images of shape (n, height, width, channels).
        padding: How to treat an odd height or width. ``same`` pads one row or
            column; ``valid`` drops the last row or column.
    """
    if is_native(x) and min(x.shape[1:3]) > 1:
        return channels_last(F.max_pool2d, x, 2, ceil_mode=padding == "same")
    if padding == "same":
        x = F.pad(x, (0, 0, 0, x.shape[2] % 2, 0, x.shape[1] % 2), value=-torch.inf)
    x = x[:, : x.shape[1] // 2 * 2, : x.shape[2] // 2 * 2]
    rows = torch.maximum(x[:, ::2], x[:, 1::2])
    return torch.maximum(rows[:, :, ::2], rows[:, :, 1::2])
