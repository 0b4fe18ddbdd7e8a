"""Types shared by all meta-learners."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor


Params: TypeAlias = dict[str, Tensor]
"""Parameter tensors by dotted name, as in ``nn.Module.named_parameters()``."""

Metrics: TypeAlias = dict[str, Float[Tensor, ""]]
"""Scalar tensors by slash-separated name, such as ``query/loss`` and ``return/step_0``."""

Batch: TypeAlias = Any
"""A pytree of tensors, such as ``(inputs, targets)`` in supervised learning
or ``Episodes`` in RL."""

LossFn: TypeAlias = Callable[[Params, Batch], Float[Tensor, ""]]
"""Loss of one task on one batch, ``(params, batch) -> scalar``. The function
must support ``vmap``, which evaluates several tasks in one call."""


class MetaParams(NamedTuple):
    """The meta-learned parameters.

    Attributes:
        model: The initialization by parameter name. Parameters named in
            ``InnerLoop.per_step`` have shape (steps, *shape).
        inner: The inner optimizer's learned hyperparameters by name, such as
            step sizes; ``{}`` for optimizers that learn no hyperparameters.
    """

    model: Params
    inner: Params


class Task(NamedTuple):
    """One task, or a meta-batch if every tensor has a leading task axis.

    Attributes:
        support: The support batches for the inner steps, which cycle through
            the batches if ``InnerLoop.num_steps`` is set.
        query: The batch on which the adapted parameters are evaluated.
    """

    support: tuple[Batch, ...]
    query: Batch


class MetaState(NamedTuple):
    """The state of a meta-learner between steps.

    Attributes:
        params: The meta-parameters.
        optimizer: The outer ``torch.optim`` optimizer, which contains its
            state; None for methods without such an optimizer, such as TRPO.
        own: Other tensors that the method keeps between steps, such as ProMP's KL coefficients.
    """

    params: MetaParams
    optimizer: Any = None
    own: Params = {}  # noqa: RUF012 (never written to)


class MetaLearner(NamedTuple):
    """A meta-learning algorithm as three functions.

    Attributes:
        init: ``(params, generator=None, *, device="cpu") -> MetaState``.
            `params` is a dictionary of parameters, or a function that samples
            this dictionary on the CPU with `generator`. The parameters are
            then moved to `device`, so that a seed gives the same
            initialization on every device.
        step: ``(state, tasks) -> (state, metrics)``, which applies one
            meta-update. The step can modify `state`; use only the returned
            state afterwards. `tasks` is a meta-batch; some learners also
            accept a list of meta-batches with tasks of different sizes.
        adapt: ``(meta, support) -> params``, which runs the inner loop on one
            task and returns the adapted parameters.
    """

    init: Callable[..., MetaState]
    step: Callable[[MetaState, Any], tuple[MetaState, Metrics]]
    adapt: Callable[[MetaParams, tuple[Batch, ...]], Params]
