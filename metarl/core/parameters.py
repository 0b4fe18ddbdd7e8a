"""Modules as functions of their parameters, and operations on parameters by name."""

import copy
import threading
from collections.abc import Callable
from typing import Any, cast

from torch import nn
from torch.func import functional_call

from metarl.core.types import Params


class Apply:
    """A module as a pure function: ``apply(params, *inputs)``.

    Safe to call from several threads: each works on a skeleton of its own, since
    ``torch.func.functional_call`` swaps parameters in and out of the module it is given.
    """

    def __init__(self, module: nn.Module) -> None:
        """Keep a copy of `module`, so that later changes to the original change nothing here."""
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._skeletons = threading.local()

    def __call__(self, params: Params, *inputs: Any) -> Any:
        """Evaluate the module with `params` in place of its own parameters."""
        skeleton = self._skeleton()
        return functional_call(
            skeleton, (params, dict(skeleton.named_buffers())), inputs, strict=True
        )

    def _skeleton(self) -> nn.Module:
        if not hasattr(self._skeletons, "module"):
            # The tensors are shared: those of a call stand in for them, and a copy would be traced.
            tensors = (*self.module.parameters(), *self.module.buffers())
            self._skeletons.module = copy.deepcopy(self.module, {id(x): x for x in tensors})
        return cast(nn.Module, self._skeletons.module)

    def __getstate__(self) -> dict[str, Any]:
        return {"module": self.module}

    def __setstate__(self, state: dict[str, Any]) -> None:
        self.__init__(state["module"])  # type: ignore[misc]


def functional(module: nn.Module) -> tuple[Apply, Params]:
    """Split a module into a pure function and its parameters.

    Args:
        module: Any module. Its buffers travel with the function.

    Returns:
        ``(apply, params)`` with ``apply(params, *inputs)``; `params` are copies, in the module's
        order and under its own names.

    Raises:
        ValueError: If the module keeps running statistics, which would leak from task to task, or
            draws random numbers, which the derivatives of a path would not see twice.
    """
    for name, child in module.named_modules():
        what = f"{name or 'the module'} ({type(child).__name__})"
        if isinstance(child, nn.modules.batchnorm._NormBase) and child.track_running_stats:
            hint = "use track_running_stats=False"
            raise ValueError(f"{what} keeps running statistics, which leak between tasks; {hint}")
        if isinstance(child, nn.modules.dropout._DropoutNd) and child.training and child.p:
            raise ValueError(f"{what} draws random numbers; call .eval() on it, or leave it out")
    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    return Apply(module), params


def part(module: nn.Module, prefix: str) -> Callable[..., Any]:
    """Return a submodule as a function of the parameters of the whole module.

    Args:
        module: The whole module.
        prefix: Dotted name of the submodule: ``body``.

    Returns:
        ``(params, *inputs) -> output``; the other parameters are not used.
    """
    apply, names = functional(module.get_submodule(prefix))
    return lambda params, *inputs: apply({n: params[f"{prefix}.{n}"] for n in names}, *inputs)


def split(params: Params, chosen: Callable[[str], bool]) -> tuple[Params, Params]:
    """Split parameters by name into ``(chosen, rest)``, keeping their order."""
    yes = {name: p for name, p in params.items() if chosen(name)}
    no = {name: p for name, p in params.items() if name not in yes}
    return yes, no


def merge(base: Params, update: Params) -> Params:
    """Return `base` with the entries of `update` in place of its own, in the order of `base`."""
    return {**base, **update}


def rows(params: Params, per_step: frozenset[str], step: int) -> Params:
    """Pick the row of each per-step parameter that belongs to `step`.

    Args:
        params: Parameters; a leaf named in `per_step` has shape (steps, *shape).
        per_step: Names of the leaves that hold one row per inner step.
        step: Inner step, from 0. Steps beyond the last row use the last row.
    """
    if not per_step:
        return params
    return {
        name: p[min(step, p.shape[0] - 1)] if name in per_step else p for name, p in params.items()
    }


def fused_norm(apply: Any) -> str | None:
    """Name the first normalization layer whose fused kernel has inexact higher derivatives.

    ``grad(vmap(...))`` through ``nn.LayerNorm``, ``nn.GroupNorm`` and ``nn.BatchNorm*`` gives wrong
    second-order gradients without a word; the layers of :mod:`metarl.nn.norms` do not.
    """
    fused = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    for name, child in getattr(apply, "module", nn.Identity()).named_modules():
        if isinstance(child, fused):
            return f"{name} ({type(child).__name__})"
    return None
