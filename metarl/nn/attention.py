"""Linear attention, a memory for recurrent policies that is larger than the state of a GRU."""

import torch
import torch.nn.functional as F
from jaxtyping import Float
from torch import Tensor, nn

from metarl.nn.dense import linear
from metarl.nn.recurrent import Cell, State


BLOCK = 25  # time steps computed in parallel; fastest on a CPU for 20 to 400 trials
SPREAD = 1.5  # standard deviation of the initial weights of addresses and gates


class LinearAttention(Cell):
    r"""A memory that is read by linear attention over all earlier time steps.

    A head is a table with K rows. At each time step, the cell writes a value
    into the rows that were addressed at the previous time step, and reads
    from the rows that are addressed now. In RL², it can thus store the
    previous action and reward under the previous observation, and read what
    happened under the same observation before. The address :math:`\phi_t`,
    the gate :math:`g_t`, which is one number per head, and the value
    :math:`v_t` depend on the inputs :math:`x_t`. The table M and the number
    of writes n are sums over all writes up to time t:

    .. math:: \phi_t = \mathrm{softmax}(A x_t)
    .. math:: g_t = \sigma(G [x_{t-1}, x_t]), \quad v_t = V [x_{t-1}, x_t]
    .. math:: M_t = M_{t-1} + g_t \phi_{t-1} v_t^\top, \quad n_t = n_{t-1} + g_t \phi_{t-1}
    .. math:: m_t = K \phi_t^\top M_t / (1 + c_t), \quad c_t = K \phi_t^\top n_t
    .. math:: h_t = \tanh(W [x_t, m_t, \log(1 + c_t)])

    The output :math:`h_t` combines the inputs with :math:`m_t` and
    :math:`\log(1 + c_t)` of all heads. :math:`x_0`, :math:`M_0` and
    :math:`n_0` are zero, so that the first time step writes under the address
    of a zero vector. The sums are those of Katharopoulos et al. 2020 (section
    3). Additions are softmax addresses, gates, the denominator
    :math:`1 + c_t`, counts as outputs, and the shift by one time step.
    Blocks of 25 time steps are computed in parallel.

    The weights A and G are sampled from :math:`N(0, 1.5^2)`, so that initial
    addresses select mostly one row; the other weights are sampled from the
    Xavier-uniform distribution. All layers have biases, which start at zero.

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
        self.value = linear(2 * inputs, heads * values, generator=generator)
        self.gate = linear(2 * inputs, heads, generator=generator)
        self.mix = linear(inputs + heads * (values + 1), units, generator=generator)
        for layer in (self.address, self.gate):
            nn.init.normal_(layer.weight, std=SPREAD, generator=generator)

    def shapes(self) -> list[tuple[int, ...]]:
        """Return the shapes of the previous inputs, and of the tables with the number of writes."""
        heads, keys, values = self.sizes
        return [(self.inputs,), (heads, keys, values + 1)]

    def forward(
        self, inputs: Float[Tensor, "time *batch inputs"], state: State
    ) -> tuple[Float[Tensor, "time *batch units"], State]:
        """Process a sequence; see :meth:`Cell.forward`."""
        outputs = []
        for block in torch.split(inputs, BLOCK):
            found, state = self._attend(block, state)
            outputs.append(found)
        return torch.cat(outputs), state

    def _attend(self, inputs: Tensor, state: State) -> tuple[Tensor, State]:
        """Process the time steps of one block in parallel."""
        last, table = state
        heads, keys, values = self.sizes
        shifted = torch.cat([last[None], inputs])
        pairs = torch.cat([shifted[:-1], inputs], -1)
        address = self.address(shifted).unflatten(-1, (heads, keys)).softmax(-1)
        written = address[:-1] * torch.sigmoid(self.gate(pairs))[..., None]
        value = F.pad(self.value(pairs).unflatten(-1, (heads, values)), (0, 1), value=1.0)
        # (*batch, heads, time, ...)
        query, key, value = (x.movedim(0, -2) for x in (address[1:], written, value))
        sums = keys * (torch.tril(query @ key.mT) @ value + query @ table)
        writes = sums[..., -1:]
        read = torch.cat([sums[..., :-1] / (1 + writes), torch.log1p(writes)], -1)
        mixed = torch.cat([inputs, read.movedim(-2, 0).flatten(-2)], -1)
        return torch.tanh(self.mix(mixed)), (inputs[-1], table + key.mT @ value)
