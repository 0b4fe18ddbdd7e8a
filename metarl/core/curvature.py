"""Meta-Curvature: a learned preconditioner in Kronecker form (Park & Oliva 2019)."""

from typing import Any

import torch
from torch import Tensor

from metarl.core.inner import InnerOptimizer, no_state, require_rate
from metarl.core.types import Params


def meta_curvature(lr: float, *, max_size: int | None = None) -> InnerOptimizer:
    """Gradient descent with a learned curvature, θ' = θ − α MC(∇L) (Park & Oliva 2019, eq. 6).

    The gradient of a weight is multiplied along each of its modes by a learned square matrix: with
    G of shape (out, in, *kernel), MC(G) = G ×₁ M_out ×₂ M_in ×₃ M_kernel, which is the product of
    M_out ⊗ M_in ⊗ M_kernel with vec(G) and never forms it. Vectors (biases) have one learned factor
    per element. All start as identities, so the first meta-iteration is MAML's. The same matrices
    serve every step.

    Args:
        lr: α, which is not learned.
        max_size: Modes wider than this keep the identity: a head on 800 features would have 640,000
            numbers in its factor alone.

    Raises:
        ValueError: If `lr` is negative.
    """
    require_rate(lr)

    def constants(params: Params) -> Params:
        found: Params = {}
        for name, p in params.items():
            if p.ndim < 2:
                found[f"scale.{name}"] = torch.ones_like(p)
                continue
            for mode, size in _modes(p).items():
                if max_size is None or size <= max_size:
                    found[f"{mode}.{name}"] = torch.eye(size, dtype=p.dtype, device=p.device)
        return found

    def update(constants: Params, grads: Params, state: Any, step: int) -> tuple[Params, Any]:
        return {name: -lr * _precondition(constants, name, g) for name, g in grads.items()}, state

    return InnerOptimizer(constants, no_state, update)


def _modes(weight: Tensor) -> dict[str, int]:
    """Return the modes of a weight and their sizes; all axes of a kernel are one mode."""
    kernel = {"kernel": weight[0, 0].numel()} if weight.ndim > 2 else {}
    return {"out": weight.shape[0], "in": weight.shape[1], **kernel}


def _precondition(constants: Params, name: str, grad: Tensor) -> Tensor:
    if grad.ndim < 2:
        return constants[f"scale.{name}"] * grad
    kernel, inputs = constants.get(f"kernel.{name}"), constants.get(f"in.{name}")
    if grad.ndim == 2:  # a plain product is several times faster than one of (in, 1) matrices
        moved: Tensor = grad if inputs is None else grad @ inputs.T
    else:
        moved = grad.reshape(*grad.shape[:2], -1)
        moved = moved if kernel is None else moved @ kernel.T
        moved = moved if inputs is None else inputs @ moved
    if (matrix := constants.get(f"out.{name}")) is not None:
        moved = (matrix @ moved.flatten(1)).reshape(moved.shape)
    return moved.reshape(grad.shape)
