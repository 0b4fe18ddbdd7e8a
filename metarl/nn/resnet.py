"""ResNet-12, the larger network of the few-shot literature."""

from itertools import pairwise
from typing import NamedTuple, cast

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.convolution import Conv3x3, feature_maps, max_pool
from metarl.nn.norms import BatchNorm


class ResNet(NamedTuple):
    """The architecture of ResNet-12: four residual blocks, each with three 3×3 convolutions.

    The network is that of TADAM (Oreshkin et al. 2018) and MetaOptNet (Lee et
    al. 2019), without DropBlock: dropped pixels would be different random
    numbers in every inner step.

    Attributes:
        filters: Number of channels in the first block, a multiple of 2. The
            other blocks have 2.5, 5 and 10 times as many.
        slope: Slope of the leaky ReLU for negative inputs.

    Example::

        >>> from metarl.nn import ResNet, ResNetBody
        >>> body = ResNetBody(ResNet(filters=4), channels=3)
        >>> body(torch.rand(5, 3, 84, 84)).shape
        torch.Size([5, 40])
    """

    filters: int = 64
    slope: float = 0.1

    @property
    def widths(self) -> tuple[int, ...]:
        """Number of channels in every block."""
        return self.filters, self.filters * 5 // 2, self.filters * 5, self.filters * 10


class ResNetBody(nn.Module):
    """A feature extractor with the architecture of a :class:`ResNet`.

    Example::

        >>> from metarl.nn import ResNet, ResNetBody
        >>> ResNetBody(ResNet(filters=4), channels=1)(torch.rand(5, 1, 28, 28)).shape
        torch.Size([5, 40])
    """

    def __init__(
        self, net: ResNet, channels: int, *, generator: torch.Generator | None = None
    ) -> None:
        """Initialize kernels with Xavier-uniform values and the scales of batch norm to 1.

        Args:
            net: The architecture.
            channels: Number of channels in the input images.
            generator: Random generator for the kernels; defaults to PyTorch's global generator.

        Raises:
            ValueError: If the number of filters is odd.
        """
        super().__init__()
        if net.filters % 2:
            raise ValueError(f"`filters` of resnet12 must be a multiple of 2, got {net.filters}")
        self.blocks = nn.ModuleList(
            ResidualBlock(*widths, slope=net.slope, generator=generator)
            for widths in pairwise([channels, *net.widths])
        )

    def forward(
        self, images: Float[Tensor, "n channels height width"], reference: Tensor | None = None
    ) -> Float[Tensor, "n features"]:
        """Return the last feature map of every image, averaged over the pixels.

        Args:
            images: Images of shape (n, channels, height, width) with values in [0, 1].
            reference: Images from which batch norm computes its statistics; defaults to `images`.
        """
        return feature_maps(self.blocks, images, reference).mean((1, 2))


class ResidualBlock(nn.Module):
    """Three convolutions with batch norm, a projected shortcut, and a 2×2 max-pool."""

    def __init__(
        self, fan_in: int, fan_out: int, *, slope: float, generator: torch.Generator | None
    ) -> None:
        """Build a block with `fan_in` input channels and `fan_out` output channels."""
        super().__init__()
        widths = pairwise([fan_in, *[fan_out] * 3])
        self.convs = nn.ModuleList(
            Conv3x3(*width, bias=False, generator=generator) for width in widths
        )
        self.norms = nn.ModuleList(BatchNorm(fan_out) for _ in self.convs)
        self.shortcut = nn.Parameter(torch.empty(fan_out, fan_in))  # a 1×1 convolution
        nn.init.xavier_uniform_(self.shortcut, generator=generator)
        self.shortcut_norm = BatchNorm(fan_out)
        self.activation = nn.LeakyReLU(slope)

    def forward(self, x: Tensor, first: int) -> Tensor:
        """Apply the block to images of shape (n, height, width, channels).

        Args:
            x: The images.
            first: Index of the first image from which batch norm computes its statistics.
        """
        total = self.shortcut_norm(F.linear(x, self.shortcut), first)
        for index, (conv, norm) in enumerate(zip(self.convs, self.norms, strict=True)):
            x = norm(conv(x if index == 0 else self.activation(x)), first)
        # Before the activation, which is increasing: same result
        return cast(Tensor, self.activation(max_pool(total + x)))
