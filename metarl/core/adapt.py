"""The inner loop that all methods use."""

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
    """Return the parameters and the batches unchanged: the default `start` of an inner loop."""
    return params, batches


@dataclass(frozen=True)
class InnerLoop:
    """The inner loop: adapts parameters to one task. ``vmap`` applies it to several tasks.

    Attributes:
        loss: Loss of one task on one support batch, ``(params, batch) -> scalar``.
        optimizer: The inner optimizer, such as :func:`sgd`.
        fast: Predicate on names: whether a parameter adapts. The others keep their meta-learned
            value.
        per_step: Names of parameters with one row per inner step, of shape (steps, *shape), which
            are meta-learned and do not adapt. Row k is used by the support pass of step k and by
            the query pass after this step, as in the code of MAML++; the query pass before the
            first step uses row 0.
        first_order: Whether inner gradients are treated as constants (FOMAML). Learned step sizes
            and the result of `start` still receive gradients.
        start: Task-conditioned initialization, ``(params, batches) -> (params, remaining
            batches)``. It can add parameters that are not meta-learned, such as a generated head.
        supplied: Names of the parameters that `start` adds, such as the context of CAVIA. Constants
            of the inner optimizer are learned for them, but no initialization.
        num_steps: Number of inner steps, which use the support batches in turn. None takes one step
            on each support batch.
        proximal: Weight λ of the proximal term (λ/2)‖φ − θ‖² between the adapted parameters φ and
            the initialization θ (iMAML, Rajeswaran et al. 2019, eq. 3).

    Example::

        loop = InnerLoop(loss, sgd(0.1), num_steps=5)
        meta = loop.init(params)
        adapted = loop.adapt(meta, (support_batch,))
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
        """Return the inner gradient of the parameters that adapt."""
        fast, _ = split(params, self.adapts)
        grads, _ = grad_and_value(lambda fast: self.loss(merge(params, fast), batch))(fast)
        return tree.detach(grads) if self.first_order else grads

    def update(
        self, meta: MetaParams, params: Params, grads: Params, state: Any, index: int
    ) -> tuple[Params, Any]:
        """Apply the inner gradient of one step.

        Args:
            meta: The meta-parameters: learned constants of the optimizer, and θ of the proximal
                term.
            params: The parameters of the task before the step, with the rows of this step.
            grads: The gradient returned by :meth:`gradient`.
            state: The state of the inner optimizer.
            index: The number of the step, starting at 0.

        Returns:
            The parameters and the state of the optimizer after the step.
        """
        if self.proximal:
            grads = {
                n: g + self.proximal * (params[n] - meta.model[n]) if n in meta.model else g
                for n, g in grads.items()
            }
        updates, state = self.optimizer.update(meta.inner, grads, state, index)
        return merge(params, {name: params[name] + u for name, u in updates.items()}), state

    def steps(self, meta: MetaParams, batches: Batches) -> Iterator[Params]:
        """Yield the parameters after 0, 1, ..., K steps on one task; see :meth:`path`."""
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
        """Return the parameters after 0, 1, ..., K steps on one task.

        Args:
            meta: The meta-parameters.
            batches: The support batches of the task.

        Raises:
            ValueError: If `num_steps` is set and the number of batches is 0 or greater than
                `num_steps`.
        """
        return list(self.steps(meta, batches))

    def adapt(self, meta: MetaParams, batches: Batches) -> Params:
        """Return the parameters after all inner steps on one task; earlier parameters are freed."""
        return deque(self.steps(meta, batches), maxlen=1)[0]

    def init(self, params: Params) -> MetaParams:
        """Return meta-parameters with the initial constants of the inner optimizer.

        Args:
            params: The initialization, with a value of the right shape for each name in `supplied`.
        """
        fast, _ = split(params, self.adapts)
        model = {name: p for name, p in params.items() if name not in self.supplied}
        return MetaParams(model, self.optimizer.constants(fast))

    def state(self, params: Params) -> Any:
        """Return the state of the inner optimizer before the first step."""
        return self.optimizer.state(split(params, self.adapts)[0])

    def adapts(self, name: str) -> bool:
        """Return whether the inner steps change the parameter `name`."""
        return name not in self.per_step and self.fast(name)

    def _one_per_step(self, batches: Batches) -> Batches:
        if self.num_steps is None:
            return batches
        least, most = min(1, self.num_steps), max(1, self.num_steps)
        if not least <= len(batches) <= most:
            given = len(batches)
            raise ValueError(f"expected one to {most} support batches (num_steps), got {given}")
        return tuple(islice(cycle(batches), self.num_steps))
