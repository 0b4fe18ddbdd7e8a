"""Recurrent policies, whose memory lasts for one episode or, in RL², for all episodes of a task."""

from collections.abc import Sequence
from typing import Any

import torch
import torch.nn.functional as F
from jaxtyping import Float, Shaped
from torch import Tensor, nn

from metarl.core import Params, functional
from metarl.core.parameters import part
from metarl.nn import Cell
from metarl.rl.acting import Carry, Previous, Step, TrialActor
from metarl.rl.distributions import Distribution
from metarl.rl.policies import Policy


class RecurrentModule(nn.Module):
    """The network of a recurrent policy: an encoder, a recurrent cell and a head.

    Attributes:
        trunk: The encoder of the observations and the cell.
        head: Module that maps the outputs of the cell to action distributions.
        value: Linear layer that predicts the return-to-go from the outputs of the cell, or None.
    """

    def __init__(
        self, encoder: nn.Module, cell: Cell, head: nn.Module, value: nn.Module | None = None
    ) -> None:
        """Combine an encoder, a cell such as :class:`~metarl.nn.GRU`, a head and a value layer."""
        super().__init__()
        self.trunk = Trunk(encoder, cell)
        self.head, self.value = head, value


class Trunk(nn.Module):
    """An encoder followed by a recurrent cell."""

    def __init__(self, encoder: nn.Module, cell: Cell) -> None:
        super().__init__()
        self.encoder, self.cell = encoder, cell

    def forward(self, observations: Tensor, carry: Carry) -> tuple[Tensor, Carry]:
        """Return outputs of shape (time, *batch, units), and the carry after the last time step."""
        inputs = self.encoder(observations.to(next(self.parameters()).dtype))
        found: tuple[Tensor, Carry] = self.cell(inputs, carry)
        return found


class RecurrentPolicy(Policy):
    """A policy with a recurrent cell.

    Example::

        >>> from metarl.nn import GRU, mlp
        >>> from metarl.rl.distributions import CategoricalHead
        >>> from metarl.rl.recurrent import RecurrentModule, RecurrentPolicy
        >>> module = RecurrentModule(mlp((4, 32)), GRU(32, 16), CategoricalHead(16, 5))
        >>> policy, params = RecurrentPolicy.of(module)
        >>> carry = policy.initial(params, (3,))
        >>> carry, distribution = policy.scan(params, carry, torch.rand(10, 3, 4))
        >>> distribution.logits.shape
        torch.Size([10, 3, 5])
    """

    module: RecurrentModule

    def __init__(self, module: RecurrentModule) -> None:
        """Wrap `module`; later changes to the module have no effect."""
        super().__init__(module)
        self._trunk, self._head = part(module, "trunk"), part(module, "head")
        self._value = None if module.value is None else part(module, "value")

    def initial(self, params: Params, batch: Sequence[int]) -> Carry:
        """Return the state of the cell at the start of an episode, with leading axes `batch`."""
        like = next(iter(params.values()))
        zero: Carry = self.module.trunk.cell.initial(batch, like)
        return zero

    def step(self, params: Params, carry: Carry, observation: Tensor) -> tuple[Carry, Distribution]:
        """Compute the action distribution at one time step; see :meth:`Policy.step`."""
        outputs, carry = self._trunk(params, observation[None], carry)
        return carry, self._head(params, outputs[0])

    def scan(
        self, params: Params, carry: Carry, observations: Shaped[Tensor, "time ..."]
    ) -> tuple[Carry, Distribution]:
        """Compute the action distributions at several time steps; see :meth:`Policy.scan`.

        The encoder and the head process all time steps together.
        """
        outputs, carry = self._trunk(params, observations, carry)
        return carry, self._head(params, outputs)

    def scan_with_values(
        self, params: Params, carry: Carry, observations: Shaped[Tensor, "time ..."]
    ) -> tuple[Carry, Distribution, Float[Tensor, "time *batch"] | None]:
        """Compute action distributions as :meth:`scan`, and predict the returns-to-go.

        The predictions of shape (time, *batch) are None if the module has no value layer.
        """
        outputs, carry = self._trunk(params, observations, carry)
        values = None if self._value is None else self._value(params, outputs).squeeze(-1)
        return carry, self._head(params, outputs), values

    def over_tasks(self, params: Params, batch: Sequence[int]) -> tuple[Carry, Step]:
        """Bind one set of parameters per task; see :meth:`Policy.over_tasks`.

        If the tasks share all parameters, as before the first inner step, all
        tasks are processed as one batch.
        """
        if any(p.stride(0) for p in params.values()):
            return super().over_tasks(params, batch)
        shared = {name: p[0] for name, p in params.items()}
        count = len(next(iter(params.values())))
        carry = self.initial(shared, (count, *batch))
        return carry, lambda carry, observations: self.step(shared, carry, observations)


class TrialPolicy(RecurrentPolicy):
    """A recurrent policy whose memory lasts for a trial, which is all episodes of a task (RL²).

    The network receives the observation followed by the previous action, the
    previous reward, and whether the previous step ended an episode (Duan et
    al. 2016, section 2.2). These values are zero at the start of a trial.

    Attributes:
        num_actions: Number of discrete actions, which are encoded as one-hot vectors; None for
            continuous actions.
        size: Number of values that encode an action.
    """

    trials = True

    def __init__(self, module: RecurrentModule, *, num_actions: int | None, size: int) -> None:
        super().__init__(module)
        self.num_actions, self.size = num_actions, size

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module, "num_actions": self.num_actions, "size": self.size}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(**state)  # type: ignore[misc]

    def actor(self, params: Params, batch: Sequence[int]) -> TrialActor:
        """Return an actor for a trial; see :meth:`Policy.actor`."""
        return TrialActor(*self.over_tasks(params, batch), self.inputs)

    def inputs(
        self, observations: Float[Tensor, "*batch features"], previous: Previous | None
    ) -> Float[Tensor, "*batch inputs"]:
        """Return the inputs of the network: observations and the previous time step.

        Args:
            observations: Flat observations.
            previous: The previous time step; None at the start of a trial.
        """
        batch, kind = observations.shape[:-1], observations.dtype
        if previous is None:
            return torch.cat([observations, observations.new_zeros(*batch, self.size + 2)], -1)
        actions = previous.actions
        if self.num_actions is not None:
            actions = F.one_hot(actions, self.num_actions)
        ends = torch.stack([previous.rewards, previous.ended], -1)
        return torch.cat([observations, actions.to(kind), ends.to(kind)], -1)


def recurrent_policy(
    module: RecurrentModule, *, trials: bool, num_actions: int | None, size: int
) -> tuple[RecurrentPolicy, Params]:
    """Return a recurrent policy, and the parameters of its module by name.

    Args:
        module: The module.
        trials: Whether the memory lasts for all episodes of a task; see :class:`TrialPolicy`.
        num_actions: Number of discrete actions; None for continuous actions.
        size: Number of values that encode an action.
    """
    params = functional(module)[1]
    if trials:
        return TrialPolicy(module, num_actions=num_actions, size=size), params
    return RecurrentPolicy(module), params
