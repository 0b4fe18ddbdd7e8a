"""Linear attention, a memory for recurrent policies that is larger than the state of a GRU."""

import torch
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.dense import linear
from metarl.nn.recurrent import Cell, State


BLOCK = 100  # number of time steps that are processed together
SPREAD = 1.5  # standard deviation of the initial weights of addresses and gates


class LinearAttention(Cell):
    r"""A memory that is read by linear attention over all earlier time steps.

    A head is a table with a row for each of K keys. At each time step, the
    cell writes a value into the rows that were addressed at the previous time
    step, and reads from the rows that are addressed now. In RL², it thus
    stores the previous action and reward at the previous observation, and
    reads what happened at the same observation before:

    .. math::
        \phi_t = \mathrm{softmax}(A x_t), \quad
        M_t = M_{t-1} + g_t\, \phi_{t-1} v_t^\top, \quad
        n_t = n_{t-1} + g_t\, \phi_{t-1}

        m_t = \frac{K \phi_t^\top M_t}{1 + c_t}, \quad c_t = K \phi_t^\top n_t, \quad
        h_t = \tanh(W [x_t, m_t, \log(1 + c_t)])

    The value :math:`v_t` and the gate :math:`g_t`, a sigmoid, are computed from
    :math:`x_t` and :math:`x_{t-1}`; :math:`c_t` counts how often the
    addressed rows were written. The sums are those of Katharopoulos et al.
    2020 (eqs. 9 to 12). Addresses by softmax, gates, counts and the shift by
    one time step are additions.

    Training computes up to 100 time steps in parallel, which is faster than a
    :class:`~metarl.nn.GRU`, and acting takes the same time at every time step.

    Example::

        >>> from metarl.nn import LinearAttention
        >>> cell = LinearAttention(3, 8)
        >>> outputs, state = cell(torch.rand(10, 5, 3), cell.initial((5,)))
        >>> outputs.shape
        torch.Size([10, 5, 8])
    """

    def __init__(
        self,
        inputs: int,
        units: int,
        *,
        heads: int = 8,
        keys: int = 16,
        values: int = 4,
        generator: torch.Generator | None = None,
    ) -> None:
        """Sample the parameters.

        Args:
            inputs: Number of inputs.
            units: Number of outputs.
            heads: Number of tables.
            keys: Number of rows K of each table.
            values: Number of values in a row.
            generator: Random generator for the weights; defaults to PyTorch's global generator.
        """
        super().__init__()
        self.units, self.inputs, self.sizes = units, inputs, (heads, keys, values)
        self.address = linear(inputs, heads * keys, generator=generator)
        self.read = linear(2 * inputs, heads * values, generator=generator)
        self.gate = linear(2 * inputs, heads, generator=generator)
        self.mix = linear(inputs + heads * (values + 1), units, generator=generator)
        for layer in (self.address, self.gate):
            nn.init.normal_(layer.weight, std=SPREAD, generator=generator)

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the previous inputs, the tables and the counts."""
        heads, keys, values = self.sizes
        return [(self.inputs,), (heads, keys, values), (heads, keys)]

    def forward(
        self, inputs: Float[Tensor, "time *batch inputs"], state: State
    ) -> tuple[Float[Tensor, "time *batch units"], State]:
        """Process a sequence; see :meth:`Cell.forward`."""
        outputs = []
        for block in torch.split(inputs, BLOCK):
            found, state = self.block(block, state)
            outputs.append(found)
        return torch.cat(outputs), state

    def block(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Process the time steps of a block in parallel."""
        last, table, count = state
        heads, keys, values = self.sizes
        inputs_before = torch.cat([last[None], inputs])
        pairs = torch.cat([inputs_before[:-1], inputs], -1)
        address = self.address(inputs_before).unflatten(-1, (heads, keys)).softmax(-1)
        written = address[:-1] * torch.sigmoid(self.gate(pairs))[..., None]
        value = self.read(pairs).unflatten(-1, (heads, values))
        # (*batch, heads, time, ...)
        query, key, value = (x.movedim(0, -2) for x in (address[1:], written, value))
        weights = torch.tril(query @ key.mT)
        total = keys * (weights @ value + query @ table)
        visits = keys * (weights.sum(-1) + (query @ count[..., None]).squeeze(-1))
        read = torch.cat([total / (1 + visits[..., None]), torch.log1p(visits)[..., None]], -1)
        mixed = torch.cat([inputs, read.movedim(-2, 0).flatten(-2)], -1)
        state = inputs[-1], table + key.mT @ value, count + key.sum(-2)
        return torch.tanh(self.mix(mixed)), state
