"""The nouns that every meta-learner of the package is written in."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor


Params: TypeAlias = dict[str, Tensor]
"""Parameters by name, exactly as ``nn.Module.named_parameters()`` names them (dotted)."""

Metrics: TypeAlias = dict[str, Float[Tensor, ""]]
"""Scalars by slash-separated name: ``query/loss``, ``return/step_0``."""

Batch: TypeAlias = Any
"""A pytree of tensors: ``(inputs, targets)`` for supervised tasks, ``Episodes`` in RL."""

LossFn: TypeAlias = Callable[[Params, Batch], Float[Tensor, ""]]
"""The loss of one task on one batch; batching over tasks is left to ``vmap``."""


class MetaParams(NamedTuple):
    """Everything that is meta-learned.

    Attributes:
        model: The initialization. A leaf named in ``InnerLoop.per_step`` has shape (steps, *shape).
        inner: Learned constants of the inner optimizer; ``{}`` for plain gradient descent.
    """

    model: Params
    inner: Params


class Task(NamedTuple):
    """One task; a meta-batch is the same type with a leading task axis on every tensor.

    Attributes:
        support: One batch per inner step (or a single one, see ``InnerLoop.num_steps``).
        query: The batch on which the adapted parameters are judged.
    """

    support: tuple[Batch, ...]
    query: Batch


class MetaState(NamedTuple):
    """What a meta-learner carries from one step to the next.

    Attributes:
        params: The meta-parameters.
        optimizer: The outer optimizer with its moments; ``None`` where there is none (TRPO).
        own: What else the method carries on, such as ProMP's KL coefficients.
    """

    params: MetaParams
    optimizer: Any = None
    own: Params = {}  # noqa: RUF012 (never written to)


class MetaLearner(NamedTuple):
    """A meta-learning algorithm as three functions.

    Attributes:
        init: ``(params, generator=None, *, device="cpu") -> MetaState``. ``params`` is a parameter
            dictionary, or a function that draws one from ``generator`` on the CPU; either is then
            moved to ``device``, so that a seed means the same numbers on every device.
        step: ``(state, tasks) -> (state, metrics)``. Consumes the state that it is given. Tasks are
            a meta-batch, or where the learner allows it a list of them, of unequal sizes.
        adapt: ``(meta, support) -> params``: the inner loop for one new task.
    """

    init: Callable[..., MetaState]
    step: Callable[[MetaState, Any], tuple[MetaState, Metrics]]
    adapt: Callable[[MetaParams, tuple[Batch, ...]], Params]
