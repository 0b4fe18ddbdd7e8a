"""Types that all meta-learners share."""

from collections.abc import Callable
from typing import Any, NamedTuple, TypeAlias

from jaxtyping import Float
from torch import Tensor


Params: TypeAlias = dict[str, Tensor]
"""Parameters by the dotted names of ``nn.Module.named_parameters()``."""

Metrics: TypeAlias = dict[str, Float[Tensor, ""]]
"""Scalar tensors by slash-separated name: ``query/loss``, ``return/step_0``."""

Batch: TypeAlias = Any
"""A pytree of tensors: ``(inputs, targets)`` for supervised tasks, ``Episodes`` in RL."""

LossFn: TypeAlias = Callable[[Params, Batch], Float[Tensor, ""]]
"""Loss of one task on one batch, ``(params, batch) -> scalar``; ``vmap`` applies it to several
tasks."""


class MetaParams(NamedTuple):
    """The meta-learned parameters.

    Attributes:
        model: The initialization, by parameter name. Parameters named in ``InnerLoop.per_step``
            have shape (steps, *shape).
        inner: The learned constants of the inner optimizer; ``{}`` for gradient descent.
    """

    model: Params
    inner: Params


class Task(NamedTuple):
    """One task, or a meta-batch if every tensor has a leading task axis.

    Attributes:
        support: The support batches: one per inner step, or fewer (see ``InnerLoop.num_steps``).
        query: The batch on which the adapted parameters are evaluated.
    """

    support: tuple[Batch, ...]
    query: Batch


class MetaState(NamedTuple):
    """The state of a meta-learner between steps.

    Attributes:
        params: The meta-parameters.
        optimizer: The outer optimizer with its moments; None for methods without one (TRPO).
        own: Other state of the method, such as the KL coefficients of ProMP.
    """

    params: MetaParams
    optimizer: Any = None
    own: Params = {}  # noqa: RUF012 (never written to)


class MetaLearner(NamedTuple):
    """A meta-learning algorithm as three functions.

    Attributes:
        init: ``(params, generator=None, *, device="cpu") -> MetaState``. `params` is a dictionary,
            or a function that samples one with `generator` on the CPU. The parameters are then
            moved to `device`, so that a seed gives the same numbers on every device.
        step: ``(state, tasks) -> (state, metrics)``: one meta-update. The given state must not be
            used again. `tasks` is a meta-batch; some learners also accept a list of meta-batches
            with tasks of different sizes.
        adapt: ``(meta, support) -> params``: the inner loop on one task.
    """

    init: Callable[..., MetaState]
    step: Callable[[MetaState, Any], tuple[MetaState, Metrics]]
    adapt: Callable[[MetaParams, tuple[Batch, ...]], Params]
