"""The inner loop shared by all methods."""

from collections import deque
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from itertools import cycle, islice
from typing import Any, TypeAlias

from torch.func import grad_and_value

from metarl.core import tree
from metarl.core.inner import InnerOptimizer
from metarl.core.parameters import merge, rows, split
from metarl.core.types import Batch, LossFn, MetaParams, Params


Batches: TypeAlias = tuple[Batch, ...]


def unchanged(params: Params, batches: Batches) -> tuple[Params, Batches]:
    """Return `params` and `batches` unchanged; the default `start` of an :class:`InnerLoop`."""
    return params, batches


@dataclass(frozen=True)
class InnerLoop:
    """The inner loop, which adapts parameters to one task.

    Use ``torch.func.vmap`` to adapt to several tasks in one call.

    Attributes:
        loss: Loss of one task on one support batch, ``(params, batch) -> scalar``.
        optimizer: The inner optimizer, such as :func:`sgd`.
        fast: Function ``name -> bool`` that returns True for parameters that
            adapt. All other parameters keep their meta-learned values. By
            default, all parameters adapt.
        per_step: Names of parameters of shape (steps, *shape), with one row
            per inner step. These parameters are meta-learned and do not adapt.
            Inner step k = 0, 1, ... and the query pass after this step use row
            k, as in the MAML++ code; the query pass before the first step uses
            row 0.
        first_order: Whether meta-gradients treat inner gradients as
            constants, as in FOMAML. Learned step sizes and the result of
            `start` still receive gradients.
        start: Task-conditioned initialization, ``(params, batches) ->
            (params, remaining batches)``, which can add parameters that are
            not meta-learned, such as a generated head. By default, parameters
            and batches are unchanged.
        supplied: Names of the parameters that `start` adds, such as CAVIA's
            context. The inner optimizer can learn step sizes for these
            parameters, but their initial values are not meta-learned.
        num_steps: Number of inner steps, which cycle through the support
            batches. None takes one step on each support batch.
        proximal: Weight λ of the proximal term (λ/2)‖φ − θ‖² between the
            adapted parameters φ and the initialization θ (iMAML, Rajeswaran
            et al. 2019, eq. 3).

    Example::

        loop = InnerLoop(loss, sgd(0.1), num_steps=5)  # loss: (params, batch) -> scalar
        meta = loop.init(params)
        adapted = loop.adapt(meta, (support_batch,))  # the batch of one task, without a task axis

    The docstring of :mod:`metarl.core` contains a complete example.
    """

    loss: LossFn
    optimizer: InnerOptimizer
    fast: Callable[[str], bool] = lambda name: True
    per_step: frozenset[str] = frozenset()
    first_order: bool = False
    start: Callable[[Params, Batches], tuple[Params, Batches]] = unchanged
    supplied: frozenset[str] = frozenset()
    num_steps: int | None = None
    proximal: float = 0.0

    def gradient(self, params: Params, batch: Batch) -> Params:
        """Return the gradient of the support loss with respect to the parameters that adapt.

        Args:
            params: The parameters of one task.
            batch: A support batch of this task, without a task axis.

        Returns:
            The gradient by parameter name; without an autograd graph if
            `first_order` is set.
        """
        fast, _ = split(params, self.adapts)
        grads, _ = grad_and_value(lambda fast: self.loss(merge(params, fast), batch))(fast)
        return tree.detach(grads) if self.first_order else grads

    def update(
        self, meta: MetaParams, params: Params, grads: Params, state: Any, index: int
    ) -> tuple[Params, Any]:
        """Apply one inner step with a given gradient.

        Args:
            meta: The meta-parameters, with the inner optimizer's learned
                hyperparameters and the initialization θ for the proximal term.
            params: The task's parameters before the step; each per-step
                parameter is replaced by the row for this step.
            grads: The gradient returned by :meth:`gradient`.
            state: The inner optimizer's state before the step.
            index: Index of the step, starting at 0.

        Returns:
            The parameters and the inner optimizer's state after the step.
        """
        if self.proximal:
            grads = {
                n: g + self.proximal * (params[n] - meta.model[n]) if n in meta.model else g
                for n, g in grads.items()
            }
        updates, state = self.optimizer.update(meta.inner, grads, state, index)
        return merge(params, {name: params[name] + u for name, u in updates.items()}), state

    def steps(self, meta: MetaParams, batches: Batches) -> Iterator[Params]:
        """Yield the parameters of one task before adaptation and after each inner step.

        Args:
            meta: The meta-parameters.
            batches: The task's support batches, without a task axis.

        Raises:
            ValueError: If the number of batches does not match `num_steps`; see :meth:`path`.
        """
        params, left = self.start(meta.model, batches)
        batches = self._one_per_step(left)
        state = self.state(params)
        adapted = rows(params, self.per_step, 0)
        yield adapted
        for index, batch in enumerate(batches):
            own = rows(params, self.per_step, index)
            adapted = {n: own[n] if n in self.per_step else p for n, p in adapted.items()}
            grads = self.gradient(adapted, batch)
            adapted, state = self.update(meta, adapted, grads, state, index)
            yield adapted

    def path(self, meta: MetaParams, batches: Batches) -> list[Params]:
        """Return a list of one task's parameters before adaptation and after each inner step.

        Args:
            meta: The meta-parameters.
            batches: The task's support batches, without a task axis.

        Raises:
            ValueError: If `num_steps` is set, and `batches` is empty or
                contains more than `num_steps` batches. As an exception,
                ``num_steps=0`` accepts an empty tuple or a single batch.
        """
        return list(self.steps(meta, batches))

    def adapt(self, meta: MetaParams, batches: Batches) -> Params:
        """Return the parameters after all inner steps on one task.

        Unlike :meth:`path`, this method does not keep the parameters from earlier steps.

        Args:
            meta: The meta-parameters.
            batches: The task's support batches, without a task axis.

        Raises:
            ValueError: If the number of batches does not match `num_steps`; see :meth:`path`.
        """
        return deque(self.steps(meta, batches), maxlen=1)[0]

    def init(self, params: Params) -> MetaParams:
        """Return the initial meta-parameters, with the inner optimizer's initial hyperparameters.

        Args:
            params: The initialization by parameter name. For names in
                `supplied`, only the shape is used, to create learned
                hyperparameters such as step sizes.
        """
        fast, _ = split(params, self.adapts)
        model = {name: p for name, p in params.items() if name not in self.supplied}
        return MetaParams(model, self.optimizer.constants(fast))

    def state(self, params: Params) -> Any:
        """Return the state of the inner optimizer before the first step.

        Args:
            params: The parameters of one task before adaptation.
        """
        return self.optimizer.state(split(params, self.adapts)[0])

    def adapts(self, name: str) -> bool:
        """Return whether the inner steps change the parameter `name`."""
        return name not in self.per_step and self.fast(name)

    def _one_per_step(self, batches: Batches) -> Batches:
        if self.num_steps is None:
            return batches
        least, most = min(1, self.num_steps), max(1, self.num_steps)
        if not least <= len(batches) <= most:
            raise ValueError(
                f"`batches` must contain {least} to {most} support batches with num_steps="
                f"{self.num_steps}, got {len(batches)}. Change `batches` or num_steps"
            )
        return tuple(islice(cycle(batches), self.num_steps))
