"""Convolutional networks from few-shot learning papers, by name.

The comments in the source state the number of parameters of each network as a
5-way classifier, including the scale γ of batch normalization.
"""

import torch

from metarl.nn import ConvBody, ConvNet, ResNet, ResNetBody


NETWORKS: dict[str, ConvNet | ResNet] = {
    # Finn et al. 2017, Omniglot: strides instead of pooling, mean over pixels; 112,261.
    "conv4-stride": ConvNet(),
    # Nichol et al. 2018 and Rajeswaran et al. 2019, Omniglot: flattened 2×2 pixels; 113,221.
    "conv4-flat": ConvNet(features="flatten"),
    # Antoniou et al. 2019 and most PyTorch code, Omniglot: max-pool; 112,261.
    "conv4-pool": ConvNet(down="pool", features="flatten", activation="leaky_relu"),
    # Ravi & Larochelle 2017 and Finn et al. 2017, miniImageNet: 32 filters; 32,901.
    "mini-32": ConvNet(32, down="pool", features="flatten"),
    # Antoniou et al. 2019, miniImageNet, as in their configurations: 48 filters; 70,085.
    "mini-48": ConvNet(48, down="pool", features="flatten", activation="leaky_relu"),
    # Nichol et al. 2018, miniImageNet: pooling keeps odd rows, 6×6 pixels at the end; 34,661.
    "mini-same": ConvNet(32, down="pool", features="flatten", pool_padding="same"),
    # Oreshkin et al. 2018 and Lee et al. 2019, miniImageNet, without DropBlock; 12,427,525.
    "resnet12": ResNet(),
}


def image_body(
    name: str,
    channels: int,
    *,
    filters: int | None = None,
    generator: torch.Generator | None = None,
) -> ConvBody | ResNetBody:
    """Build the body of a network for images.

    Args:
        name: A key of :data:`NETWORKS`.
        channels: Number of channels in the input images.
        filters: Number of channels in the first block, which scales the other blocks. Default:
            the published number.
        generator: Random generator for the kernels; defaults to PyTorch's global generator.

    Raises:
        ValueError: If the network does not support the number of filters.

    Example::

        >>> from metarl.supervised import image_body
        >>> image_body("mini-32", 3)(torch.rand(5, 3, 84, 84)).shape
        torch.Size([5, 800])
    """
    net = NETWORKS[name]
    net = net._replace(filters=filters or net.filters)
    if isinstance(net, ResNet):
        return ResNetBody(net, channels, generator=generator)
    return ConvBody(net, channels, generator=generator)
