"""The trust-region objective of a meta-policy: value, gradient and Fisher-vector product."""

import threading
from collections.abc import Callable
from dataclasses import dataclass, field
from typing import Any, NamedTuple

import torch
from jaxtyping import Float
from torch import Tensor

from metarl.core import InnerLoop, LossFn, MetaParams, Task, fused_norm, linearize, tree
from metarl.core.speed import Staged, Tensors, chunks, stage
from metarl.rl.losses import mean_kl, surrogate
from metarl.rl.policies import Policy


_tracing = threading.Lock()  # torch.fx is not thread-safe


class Linearization(NamedTuple):
    """The linearized objective for a chunk of tasks at the current meta-parameters θ_old.

    All values are *sums* over the tasks in the chunk.

    Attributes:
        surrogate: The surrogate loss.
        gradient: The gradient of the surrogate with respect to the meta-parameters.
        fisher: Function v ↦ JᵀFJ v, the exact Hessian of KL(old ‖ new) at θ_old.
    """

    surrogate: Float[Tensor, ""]
    gradient: MetaParams
    fisher: Callable[[MetaParams], MetaParams]


@dataclass(frozen=True)
class PostAdaptationObjective:
    """The post-adaptation objective of one task (Finn et al. 2017, eq. 4 and section 4.2).

    Attributes:
        policy: The policy.
        loop: The inner loop, which adapts to the support episodes in every evaluation.
        term: Additional loss ``(params, task) -> scalar`` of the parameters
            before adaptation, such as E-MAML's exploration term. None adds no
            loss.

    Raises:
        ValueError: If the policy contains a fused normalization layer, for
            which differentiating through ``vmap`` gives wrong second
            derivatives.
    """

    policy: Policy
    loop: InnerLoop
    term: LossFn | None = None
    _programs: dict[Any, Staged] = field(default_factory=dict, repr=False, compare=False)

    def __post_init__(self) -> None:
        if layer := fused_norm(self.policy):
            raise ValueError(
                f"layer {layer} of the policy has no exact second derivatives; use "
                "metarl.nn.norms.LayerNorm"
            )

    def __call__(self, meta: MetaParams, task: Task) -> tuple[Tensor, Tensor]:
        """Return the surrogate loss and the mean KL divergence for one task.

        Args:
            meta: The meta-parameters.
            task: The episodes of one task, without a task axis.

        Returns:
            The surrogate loss including `term`, and the mean KL(old ‖ new) of
            the adapted policy in nats.
        """
        params = self.loop.adapt(meta, task.support)
        distribution = self.policy.unroll(params, task.query)
        loss = surrogate(distribution, task.query) + self._own(meta, task)
        return loss, mean_kl(distribution, task.query)

    def linearize(self, meta: MetaParams, tasks: Task) -> Linearization:
        """Linearize the objective for a chunk of tasks, to compute many Fisher-vector products.

        Args:
            meta: The meta-parameters θ_old, which collected `tasks`.
            tasks: The chunk of tasks.
        """
        if not self.policy.traced(meta.model):
            return self._linearized(meta, tasks)
        size = len(tree.leaves(meta))

        def function(early: Tensors, late: Tensors) -> tuple[Tensors, Tensors]:
            at = tree.replace_leaves(meta, early[:size])
            chunk = tree.replace_leaves(tasks, early[size:])
            loss, gradient, image = self.products(at, chunk, tree.replace_leaves(meta, late))
            return [loss, *tree.leaves(gradient)], tree.leaves(image)

        early = [*tree.leaves(meta), *tree.leaves(tasks)]
        staged = self._staged("products", function, early, tree.leaves(meta))
        (loss, *gradient), residuals = staged.early(*early)

        def fisher(vector: MetaParams) -> MetaParams:
            return tree.replace_leaves(meta, staged.late(*residuals, *tree.leaves(vector)))

        return Linearization(loss, tree.replace_leaves(meta, gradient), fisher)

    def values(self, meta: MetaParams, tasks: Task) -> Callable[[MetaParams], list[Tensor]]:
        """Return a function from meta-parameters to the values of the objective, without gradients.

        Args:
            meta: Example meta-parameters, which determine the shapes.
            tasks: The chunk of tasks.

        Returns:
            A function that returns the surrogate loss and the mean KL(old ‖
            new), each summed over the tasks.
        """

        def function(early: Tensors, late: Tensors) -> tuple[Tensors, Tensors]:
            at, chunk = tree.replace_leaves(meta, late), tree.replace_leaves(tasks, early)
            values = chunks.over_tasks(lambda task: self(at, task), chunk)
            return [], [value.detach().sum() for value in values]

        early = tree.leaves(tasks)
        if not self.policy.traced(meta.model):

            def eager(at: MetaParams) -> list[Tensor]:
                with torch.no_grad():
                    return list(function(early, tree.leaves(at))[1])

            return eager
        staged = self._staged("values", function, early, tree.leaves(meta))
        _, residuals = staged.early(*early)
        return lambda meta: staged.late(*residuals, *tree.leaves(meta))

    def products(
        self, meta: MetaParams, tasks: Task, vector: MetaParams
    ) -> tuple[Tensor, MetaParams, MetaParams]:
        """Return the surrogate, its gradient and JᵀFJ · `vector`, summed over a chunk of tasks."""
        found = self._linearized(meta, tasks)
        return found.surrogate, found.gradient, found.fisher(vector)

    def _linearized(self, meta: MetaParams, tasks: Task) -> Linearization:
        """Linearize the objective for a chunk of tasks with autograd.

        The gradient of the KL divergence is zero at the meta-parameters θ_old
        that collected the episodes. The Hessian of the KL divergence is
        therefore JᵀFJ, and no inner loop requires third derivatives. F is the
        Fisher matrix of the action distributions. J is their Jacobian in θ,
        the product of the Jacobians of the network and of the inner loop θ ↦
        θ'.

        Args:
            meta: The meta-parameters θ_old.
            tasks: The chunk of tasks.
        """
        theta = tree.map_leaves(lambda p: p.detach().requires_grad_(), meta)
        adapted = chunks.over_tasks(lambda task: self.loop.adapt(theta, task.support), tasks)
        inner = linearize(tree.leaves(adapted), tree.leaves(theta))

        params = tree.map_leaves(lambda p: p.detach().requires_grad_(), adapted)
        distribution = chunks.over_tasks(
            lambda pair: self.policy.unroll(*pair), (params, tasks.query)
        )
        network = linearize(tree.leaves(distribution), tree.leaves(params))

        loss = chunks.over_tasks(lambda pair: surrogate(*pair), (distribution, tasks.query)).sum()
        # Running statistics of observations receive no gradients.
        unused: Any = {"allow_unused": True, "materialize_grads": True}
        at_adapted = torch.autograd.grad(loss, tree.leaves(params), retain_graph=True, **unused)
        gradient = inner.vjp(at_adapted)
        if self.term is not None:
            own = chunks.over_tasks(lambda task: self._own(theta, task), tasks).sum()
            slopes = torch.autograd.grad(own, tree.leaves(theta), **unused)
            gradient = [a + b for a, b in zip(gradient, slopes, strict=True)]
            loss = loss + own

        def fisher(vector: MetaParams) -> MetaParams:
            tangent = network.jvp(inner.jvp(tree.leaves(vector)))
            fixed = tree.detach(distribution)
            image = fixed.fisher(tree.replace_leaves(distribution, tangent))
            mask = tasks.query.mask.to(loss.dtype)  # each task's weights sum to 1
            weights = (mask / mask.sum((1, 2), keepdim=True)).unsqueeze(-1)
            weighted = [torch.where(weights > 0, weights * x, 0.0) for x in tree.leaves(image)]
            return tree.replace_leaves(meta, inner.vjp(network.vjp(weighted)))

        return Linearization(loss.detach(), tree.replace_leaves(meta, gradient), fisher)

    def _own(self, meta: MetaParams, task: Task) -> Tensor | float:
        return 0.0 if self.term is None else self.term(self.loop.start(meta.model, ())[0], task)

    def _staged(
        self, name: str, function: Callable[..., Any], early: Tensors, late: Tensors
    ) -> Staged:
        """Return ``stage(function, early, late)``, cached by `name` and the shapes of inputs."""
        key = (name, *((x.shape, x.stride(), x.dtype, x.device) for x in (*early, *late)))
        with _tracing:
            if key not in self._programs:
                self._programs[key] = stage(function, early, late)
        return self._programs[key]
