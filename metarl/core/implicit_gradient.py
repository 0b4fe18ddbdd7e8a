"""Implicit MAML: the meta-gradient at the end of the inner loop, without its path."""

from typing import cast

import torch
from jaxtyping import Float
from torch import Tensor
from torch.func import grad, grad_and_value, vjp

from metarl.core import tree
from metarl.core.adapt import InnerLoop
from metarl.core.estimators import Outer, TaskGradient, ends
from metarl.core.linalg import conjugate_gradient
from metarl.core.parameters import merge, rows, split
from metarl.core.types import MetaParams, Metrics, Params, Task


def implicit(
    loop: InnerLoop, outer: Outer, *, cg_steps: int = 5, damping: float = 0.0
) -> TaskGradient:
    """Differentiate where the inner loop ends, not how it got there (Rajeswaran et al. 2019).

    The adapted φ is taken for the minimum of L(φ) + (λ/2)‖φ − θ‖², with λ = ``loop.proximal``.
    There ∇L(φ) + λ(φ − θ) = 0, so dφ/dθ = (I + ∇²L(φ)/λ)⁻¹ (lemma 1), and conjugate gradient
    applies it to the outer gradient with products of the Hessian. Memory does not grow with the
    number of inner steps. Parameters that do not adapt receive their gradient through the same
    condition.

    Args:
        loop: An inner loop with a proximal term.
        outer: The outer loss; only its dependence on the adapted parameters is differentiated.
        cg_steps: Conjugate-gradient steps, one Hessian product each.
        damping: Added to the identity: the authors' code solves (1 + damping) x + Hx/λ = g.

    Raises:
        ValueError: If the loop has no proximal term. When called, if the inner optimizer learns
            constants, on which the minimum does not depend.
    """
    if loop.proximal <= 0:
        raise ValueError(f"implicit needs a loop with proximal > 0, got {loop.proximal}")

    def task_gradient(meta: MetaParams, task: Task) -> tuple[MetaParams, Metrics]:
        if meta.inner:
            raise ValueError("implicit has no gradient for learned inner rates; use sgd or adam")
        path = ends(loop, meta, task)
        if path[-1].keys() != meta.model.keys():
            raise ValueError("implicit needs a start that supplies no parameters of its own")
        pulled, (loss, metrics) = grad_and_value(
            lambda adapted: outer([path[0], adapted], task), has_aux=True
        )(path[-1])
        solution, residual = _solve(loop, path[-1], task, pulled, cg_steps, 1 + damping)
        slow = _slow_gradient(loop, meta.model, path[-1], task, pulled, solution)
        gradient = slow | solution
        metrics |= {"outer/loss": loss, "implicit/cg_residual": tree.norm(residual)}
        return MetaParams({name: gradient[name] for name in meta.model}, {}), metrics

    return task_gradient


def _solve(
    loop: InnerLoop, adapted: Params, task: Task, pulled: Params, steps: int, identity: float
) -> tuple[Params, Params]:
    """Solve (identity · I + ∇²L/λ) x = g over the parameters that adapt."""
    fast, _ = split(adapted, loop.adapts)
    # One graph for all products; the Hessian is symmetric, so its transpose will do.
    hessian = vjp(lambda fast: _support_gradient(loop, merge(adapted, fast), task), fast)[1]

    def product(x: Params) -> Params:
        return tree.add(tree.scale(x, identity), hessian(x)[0], scale=1 / loop.proximal)

    target = {name: pulled[name] for name in fast}
    solution, residual = conjugate_gradient(product, target, steps=steps)
    # Where the loss is so concave that not even the first step was possible: FOMAML's gradient.
    solved = tree.dot(solution, solution) > 0
    return tree.map_leaves(lambda x, g: torch.where(solved, x, g), solution, target), residual


def _slow_gradient(
    loop: InnerLoop, model: Params, adapted: Params, task: Task, pulled: Params, solution: Params
) -> Params:
    """Return the gradient of what does not adapt: direct, and through where the minimum lies."""
    _, slow = split(model, loop.adapts)
    if not slow:
        return {}
    steps = len(task.support) if loop.num_steps is None else loop.num_steps

    def reaches(slow: Params) -> Float[Tensor, ""]:
        last = rows(slow, loop.per_step, steps - 1)
        direct = tree.dot({name: pulled[name] for name in last}, last)
        grads = _support_gradient(loop, merge(adapted, last), task)
        return direct - tree.dot(grads, solution) / loop.proximal

    return cast(Params, grad(reaches)(slow))


def _support_gradient(loop: InnerLoop, params: Params, task: Task) -> Params:
    """Return the gradient of the support loss, the proximal term left out."""
    fast, _ = split(params, loop.adapts)
    found = grad(lambda fast: loop.loss(merge(params, fast), task.support[-1]))(fast)
    return cast(Params, found)
