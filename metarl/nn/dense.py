"""Multilayer perceptrons and linear layers, initialized from a random generator."""

import itertools
from collections.abc import Sequence

import torch
from torch import nn

from metarl.util import among


ACTIVATIONS: dict[str, type[nn.Module]] = {
    "relu": nn.ReLU,
    "tanh": nn.Tanh,
    "leaky_relu": nn.LeakyReLU,  # slope 0.01, as in MAML++
}
"""Activation modules by name, for :func:`mlp` and :class:`ConvNet`."""


def mlp(
    sizes: Sequence[int],
    *,
    activation: str = "relu",
    output_gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Build a multilayer perceptron with Xavier-uniform weights and zero biases.

    Args:
        sizes: Layer widths from input to output; ``(2, 100, 100, 2)`` has two hidden layers.
        activation: A key of :data:`ACTIVATIONS`. An activation follows every layer except the last.
        output_gain: Factor applied to the initial weights of the last layer.
        generator: Random generator for the weights; defaults to PyTorch's global generator.

    Returns:
        A module that maps inputs of shape (*batch, sizes[0]) to outputs of
        shape (*batch, sizes[-1]).

    Raises:
        ValueError: If `sizes` has fewer than two widths or a width below 1,
            or if `activation` is unknown.

    Example::

        >>> from metarl.nn import mlp
        >>> network = mlp((1, 40, 40, 1), generator=torch.Generator().manual_seed(0))
        >>> network(torch.rand(10, 1)).shape
        torch.Size([10, 1])
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"`sizes` must contain two or more positive widths, got {tuple(sizes)}")
    among(ACTIVATIONS).check("activation", activation)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [linear(fan_in, fan_out, generator=generator), ACTIVATIONS[activation]()]
    with torch.no_grad():
        layers[-2].weight.mul_(output_gain)  # type: ignore[operator]
    return nn.Sequential(*layers[:-1])


def linear(fan_in: int, fan_out: int, *, generator: torch.Generator | None = None) -> nn.Linear:
    """Build a linear layer with Xavier-uniform weights and zero biases.

    Args:
        fan_in: Number of input features.
        fan_out: Number of output features.
        generator: Random generator for the weights; defaults to PyTorch's global generator.

    Example::

        >>> from metarl.nn import linear
        >>> linear(64, 5)(torch.rand(10, 64)).shape
        torch.Size([10, 5])
    """
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)  # type: ignore[no-untyped-call]
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
