"""Convolutional networks from few-shot learning papers, by name.

The comments in the source state the number of parameters of each network as a 5-way classifier,
including the scale γ of batch normalization.
"""

from metarl.nn import ConvNet


NETWORKS: dict[str, ConvNet] = {
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
}
