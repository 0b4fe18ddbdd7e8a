"""Networks, initialized from a generator, whose derivatives of every order are exact."""

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


def mlp(
    sizes: Sequence[int],
    *,
    activation: str = "relu",
    output_gain: float = 1.0,
    generator: torch.Generator | None = None,
) -> nn.Sequential:
    """Build a multilayer perceptron with Xavier-uniform weights and zero biases.

    Args:
        sizes: Widths from input to output: ``(2, 100, 100, 2)`` has two hidden layers.
        activation: A name of :data:`ACTIVATIONS`, between layers and not after the last.
        output_gain: Factor of the last layer's initial weights.
        generator: Source of the weights; the global one of torch where ``None``.

    Raises:
        ValueError: If there are fewer than two sizes, one is not positive, or the activation is
            unknown.
    """
    if len(sizes) < 2 or min(sizes) < 1:
        raise ValueError(f"sizes must be two or more positive widths, got {tuple(sizes)}")
    among(ACTIVATIONS).check("activation", activation)
    layers: list[nn.Module] = []
    for fan_in, fan_out in itertools.pairwise(sizes):
        layers += [linear(fan_in, fan_out, generator=generator), ACTIVATIONS[activation]()]
    with torch.no_grad():
        layers[-2].weight.mul_(output_gain)  # type: ignore[operator]
    return nn.Sequential(*layers[:-1])


def linear(fan_in: int, fan_out: int, *, generator: torch.Generator | None = None) -> nn.Linear:
    """Build a linear layer with Xavier-uniform weights and zero biases."""
    layer: nn.Linear = nn.utils.skip_init(nn.Linear, fan_in, fan_out)  # type: ignore[no-untyped-call]
    nn.init.xavier_uniform_(layer.weight, generator=generator)
    nn.init.zeros_(layer.bias)
    return layer
