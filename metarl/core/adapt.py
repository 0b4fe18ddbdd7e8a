"""The inner loop: the only one in the package."""

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
    """Start where the meta-parameters are, with all batches left."""
    return params, batches


@dataclass(frozen=True)
class InnerLoop:
    """How parameters adapt to one task; batching over tasks is left to ``vmap``.

    Attributes:
        loss: The loss that the inner steps descend.
        optimizer: The inner optimizer.
        fast: Which parameters adapt, by name; the others keep their meta-learned value.
        per_step: Names whose leaf has one row per step, read by the support pass of that step and
            by the query pass after it (as in MAML++'s code), before the first step row 0; such a
            leaf is meta-learned and does not adapt.
        first_order: Treat inner gradients as constants (FOMAML). Learned rates and whatever `start`
            computes still receive gradients.
        start: ``(params, batches) -> (parameters to adapt, batches left)``: a task-conditioned
            start. It may supply names that are not meta-parameters, such as a generated head.
        supplied: Names that `start` supplies for itself, such as CAVIA's context: constants of the
            inner optimizer are learned for them, but no initialization.
        num_steps: Take this many steps, on the support batches in turn; ``None`` takes one step on
            each batch given.
        proximal: λ of the proximal term (λ/2)‖φ − θ‖², which holds the adapted parameters φ to
            the initialization θ (iMAML, Rajeswaran et al. 2019, eq. 3).
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
        """Return the inner gradient of the fast parameters on one batch."""
        fast, _ = split(params, self.adapts)
        grads, _ = grad_and_value(lambda fast: self.loss(merge(params, fast), batch))(fast)
        return tree.detach(grads) if self.first_order else grads

    def update(
        self, meta: MetaParams, params: Params, grads: Params, state: Any, index: int
    ) -> tuple[Params, Any]:
        """Apply the inner gradient of one step.

        Args:
            meta: Meta-parameters: the optimizer's learned constants, and θ of a proximal term.
            params: The parameters of this task before the step, per-step rows already picked.
            grads: What :meth:`gradient` returned for them.
            state: The inner optimizer's state.
            index: The number of the step, from 0.

        Returns:
            The parameters after the step, and the state.
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

        Raises:
            ValueError: If `num_steps` is set and there is no batch, or more than one of each step.
        """
        return list(self.steps(meta, batches))

    def adapt(self, meta: MetaParams, batches: Batches) -> Params:
        """Return the parameters after all inner steps on one task, keeping none in between."""
        return deque(self.steps(meta, batches), maxlen=1)[0]

    def init(self, params: Params) -> MetaParams:
        """Join an initialization and the inner optimizer's constants at their starting values.

        Args:
            params: The initialization, and a value of the right shape for each supplied name.
        """
        fast, _ = split(params, self.adapts)
        model = {name: p for name, p in params.items() if name not in self.supplied}
        return MetaParams(model, self.optimizer.constants(fast))

    def state(self, params: Params) -> Any:
        """Return the inner optimizer's state before the first step."""
        return self.optimizer.state(split(params, self.adapts)[0])

    def adapts(self, name: str) -> bool:
        """Say whether the inner steps change the parameter called `name`."""
        return name not in self.per_step and self.fast(name)

    def _one_per_step(self, batches: Batches) -> Batches:
        if self.num_steps is None:
            return batches
        least, most = min(1, self.num_steps), max(1, self.num_steps)
        if not least <= len(batches) <= most:
            given = len(batches)
            raise ValueError(f"expected one to {most} support batches (num_steps), got {given}")
        return tuple(islice(cycle(batches), self.num_steps))
