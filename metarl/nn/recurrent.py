"""Gated recurrent cells, whose derivatives of every order are exact under ``vmap``.

``torch.nn.GRU`` and ``torch.nn.LSTM`` do not support ``vmap``. The cells compute one time step; the
products of the inputs with the weights are computed for all time steps together.
"""

import math
from collections.abc import Sequence
from typing import TypeAlias

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.dense import linear


State: TypeAlias = tuple[Tensor, ...]
"""State of a cell, with tensors of shape (*batch, ...)."""

LONGEST = 100.0  # longest initial time constant in time steps


class Cell(nn.Module):
    """Base class of cells, which process a sequence with a memory.

    A subclass defines :meth:`shapes` and :meth:`forward`.

    Attributes:
        units: Number of outputs.
    """

    units: int

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the tensors in the state, without the batch axes."""
        raise NotImplementedError

    def initial(self, batch: Sequence[int], like: Tensor | None = None) -> State:
        """Return the state at the start of a sequence, which is zero.

        Args:
            batch: Sizes of the leading axes.
            like: Tensor with the data type and the device of the state; defaults to the weights.
        """
        like = next(self.parameters()) if like is None else like
        return tuple(like.new_zeros((*batch, *shape)) for shape in self.shapes())

    def forward(
        self, inputs: Float[Tensor, "time *batch inputs"], state: State
    ) -> tuple[Float[Tensor, "time *batch units"], State]:
        """Process a sequence.

        Args:
            inputs: Inputs of shape (time, *batch, inputs).
            state: State before the first time step.

        Returns:
            The outputs of shape (time, *batch, units), and the state after the last time step.
        """
        raise NotImplementedError


class GatedCell(Cell):
    """Base class of gated cells, with parameters in the layout of ``torch.nn.GRUCell``.

    Input weights are sampled from the Xavier-uniform distribution, and recurrent weights are
    orthogonal. The biases of the second gate, which keeps the memory, are log(τ − 1) for time
    constants τ with a log-uniform distribution from 2 to 100 time steps, as in the chrono
    initialization of Tallec & Ollivier 2018 with another distribution; other biases are zero.

    Attributes:
        units: Number of units.
        read: Linear layer from the inputs to the gates.
        recur: Linear layer from the previous output to the gates.
    """

    gates: int
    states: int

    def __init__(
        self, inputs: int, units: int, *, generator: torch.Generator | None = None
    ) -> None:
        """Sample the parameters.

        Args:
            inputs: Number of inputs.
            units: Number of units.
            generator: Random generator for the weights; defaults to PyTorch's global generator.
        """
        super().__init__()
        self.units = units
        self.read, self.recur = (
            linear(width, self.gates * units, generator=generator) for width in (inputs, units)
        )
        for block in self.recur.weight.data.chunk(self.gates):
            nn.init.orthogonal_(block, generator=generator)
        kept = self.read.bias.data.chunk(self.gates)[1]
        kept.uniform_(0.0, math.log(LONGEST - 1), generator=generator)

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the output and, for an LSTM, of the cell."""
        return [(self.units,)] * self.states

    def forward(
        self, inputs: Float[Tensor, "time *batch inputs"], state: State
    ) -> tuple[Float[Tensor, "time *batch units"], State]:
        """Process a sequence; see :meth:`Cell.forward`."""
        outputs = []
        for gates in self.read(inputs).unbind():
            state = self.advance(gates, self.recur(state[0]), state)
            outputs.append(state[0])
        return torch.stack(outputs), state

    def advance(self, read: Tensor, recurred: Tensor, state: State) -> State:
        """Return the next state, given the gates computed from the inputs and from the output."""
        raise NotImplementedError


class GRU(GatedCell):
    """A gated recurrent unit (Cho et al. 2014), as in ``torch.nn.GRUCell``.

    Example::

        >>> from metarl.nn import GRU
        >>> cell = GRU(3, 8)
        >>> outputs, state = cell(torch.rand(10, 5, 3), cell.initial((5,)))
        >>> outputs.shape
        torch.Size([10, 5, 8])
    """

    gates, states = 3, 1

    def advance(self, read: Tensor, recurred: Tensor, state: State) -> State:
        """Return h' = (1 − z) n + z h, with gates r and z and n = tanh(read + r · recurred)."""
        size = 2 * self.units
        opened = torch.sigmoid(read[..., :size] + recurred[..., :size])
        reset, keep = opened[..., : self.units], opened[..., self.units :]
        new = torch.tanh(read[..., size:] + reset * recurred[..., size:])
        return (new + keep * (state[0] - new),)


class LSTM(GatedCell):
    """A long short-term memory (Hochreiter and Schmidhuber 1997), as in ``torch.nn.LSTMCell``.

    The state consists of the output h and the cell c.
    """

    gates, states = 4, 2

    def advance(self, read: Tensor, recurred: Tensor, state: State) -> State:
        """Return h' = o tanh(c') and c' = f c + i g, with gates i, f, g and o in this order."""
        i, f, g, o = (read + recurred).chunk(4, -1)
        cell = torch.sigmoid(f) * state[1] + torch.sigmoid(i) * torch.tanh(g)
        return torch.sigmoid(o) * torch.tanh(cell), cell
