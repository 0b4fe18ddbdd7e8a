"""Modules as functions of their parameters, and operations on named parameters."""

import copy
import threading
from collections.abc import Callable
from typing import Any, cast

from torch import nn
from torch.func import functional_call

from metarl.core.types import Params


class Apply:
    """A module as a pure function ``apply(params, *inputs)``.

    The function is thread-safe: every thread uses its own copy of the module,
    because ``torch.func.functional_call`` temporarily replaces the parameters
    of the module.
    """

    def __init__(self, module: nn.Module) -> None:
        """Copy `module`; later changes to the original have no effect."""
        self.module = copy.deepcopy(module).requires_grad_(False)
        self._skeletons = threading.local()

    def __call__(self, params: Params, *inputs: Any) -> Any:
        """Return the module's output for `inputs`, evaluated with the parameters `params`."""
        skeleton = self._skeleton()
        return functional_call(
            skeleton, (params, dict(skeleton.named_buffers())), inputs, strict=True
        )

    def _skeleton(self) -> nn.Module:
        if not hasattr(self._skeletons, "module"):
            # Tensors are shared, because a copy would be traced; each call replaces them.
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
        module: The module. Its buffers become part of the function.

    Returns:
        ``(apply, params)``: the function ``apply(params, *inputs)``, and
            copies of the parameters by name, in the order of
            ``module.named_parameters()``.

    Raises:
        ValueError: If a layer keeps running statistics, which would leak
            between tasks, uses random numbers, which would differ between
            evaluations, or does not support ``torch.func.vmap``.

    Example::

        import torch
        from torch import nn

        from metarl.core import functional

        apply, params = functional(nn.Linear(2, 1))
        apply(params, torch.zeros(5, 2)).shape  # torch.Size([5, 1])
    """
    for name, child in module.named_modules():
        what = f"{name or 'the module'} ({type(child).__name__})"
        norm = isinstance(child, nn.modules.batchnorm._NormBase) and child.training
        if norm and child.track_running_stats:
            raise ValueError(
                f"{what} keeps running statistics, which leak between tasks. Create the layer with "
                "track_running_stats=False or, for fixed statistics, call .eval()"
            )
        if isinstance(child, nn.modules.dropout._DropoutNd) and child.training and child.p:
            raise ValueError(
                f"{what} uses random numbers, which differ in each call. Call .eval() on the layer "
                "or remove the layer"
            )
        if isinstance(child, nn.RNNBase):
            raise ValueError(
                f"{what} does not support several tasks at once. Use metarl.nn.GRU, metarl.nn.LSTM "
                f"or torch.nn.{child.mode.partition('_')[0]}Cell"
            )
    params = {name: p.detach().clone() for name, p in module.named_parameters()}
    return Apply(module), params


def part(module: nn.Module, prefix: str) -> Callable[..., Any]:
    """Return a submodule as a function of the whole module's parameters.

    Args:
        module: The whole module.
        prefix: Dotted name of the submodule, such as ``body``.

    Returns:
        A function ``(params, *inputs) -> output`` that evaluates the
            submodule and ignores the parameters outside the submodule.
    """
    apply, names = functional(module.get_submodule(prefix))
    return lambda params, *inputs: apply({n: params[f"{prefix}.{n}"] for n in names}, *inputs)


def split(params: Params, chosen: Callable[[str], bool]) -> tuple[Params, Params]:
    """Split parameters by a predicate on parameter names.

    Args:
        params: Parameters by name.
        chosen: Function ``name -> bool``.

    Returns:
        ``(selected, rest)``: the parameters for which `chosen` returns True,
            and all others, both in the original order.
    """
    yes = {name: p for name, p in params.items() if chosen(name)}
    no = {name: p for name, p in params.items() if name not in yes}
    return yes, no


def merge(base: Params, update: Params) -> Params:
    """Return ``{**base, **update}``: the parameters in `base`, replaced or extended by `update`."""
    return {**base, **update}


def rows(params: Params, per_step: frozenset[str], step: int) -> Params:
    """Return the parameters for one inner step, by selecting a row of each per-step parameter.

    Args:
        params: Parameters by name; per-step parameters have shape (steps, *shape).
        per_step: Names of the per-step parameters, which have one row per inner step.
        step: The inner step, starting at 0; steps after the last row use the last row.

    Returns:
        The parameters, in which each per-step parameter is replaced by a row of shape (*shape).
    """
    if not per_step:
        return params
    return {
        name: p[min(step, p.shape[0] - 1)] if name in per_step else p for name, p in params.items()
    }


def fused_norm(apply: Any) -> str | None:
    """Find the first normalization layer with a fused kernel in a module.

    ``grad(vmap(...))`` through ``nn.LayerNorm``, ``nn.GroupNorm`` and
    ``nn.BatchNorm*`` silently gives wrong second derivatives. The layers in
    :mod:`metarl.nn.norms` are exact.

    Args:
        apply: An :class:`Apply`, or any other object whose attribute `module` is searched.

    Returns:
        The layer's name and class, such as ``"body.1 (LayerNorm)"``; None if
            there is no such layer or `apply` has no attribute `module`.
    """
    fused = (nn.LayerNorm, nn.GroupNorm, nn.modules.batchnorm._NormBase)
    for name, child in getattr(apply, "module", nn.Identity()).named_modules():
        if isinstance(child, fused):
            return f"{name} ({type(child).__name__})"
    return None
