"""Traced and compiled programs of functions on trees of tensors."""

import re
import threading
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal, TypeAlias

import torch
from torch import Tensor
from torch.utils import _pytree as pytree

from metarl.core import Tree, tree
from metarl.core.speed.staging import simplify, trace


Mode: TypeAlias = Literal["eager", "traced", "compiled"]


def program(function: Callable[..., Any], mode: Mode) -> Callable[..., Any]:
    """Return a version of a function for one of three execution modes.

    Args:
        function: Function on trees of tensors.
        mode: ``eager`` returns the function itself, and ``traced`` returns a
            :class:`Program`. ``compiled`` returns a :class:`Program` that is
            also compiled with ``torch.compile``.
    """
    return function if mode == "eager" else Program(function, compiled=mode == "compiled")


class Program:
    """A function traced to tensor operators, with one program per set of argument shapes.

    Tracing records the operators inside ``vmap`` and all derivatives, so that
    calls have no overhead from these transformations. With small networks, a
    call takes about 60 % of the time of eager execution. If `compiled` is
    True, ``torch.compile`` also fuses the operators; it receives the traced
    operators instead of the model's Python code.
    """

    def __init__(self, function: Callable[..., Any], *, compiled: bool) -> None:
        """Store the function, which is traced in the first call.

        Args:
            function: Function on trees of tensors.
            compiled: Whether to compile the traced function with ``torch.compile``.
        """
        self._function, self._compiled = function, compiled
        self._programs: dict[Any, tuple[Callable[..., Any], pytree.TreeSpec]] = {}
        self._lock = threading.Lock()

    def __call__(self, *arguments: Tree) -> Any:
        """Return the result for `arguments`; the first call with new shapes traces the function."""
        leaves, form = pytree.tree_flatten(arguments)
        key = (form, *((x.shape, x.stride(), x.dtype, x.device) for x in leaves))
        with self._lock:
            if key not in self._programs:
                self._programs[key] = self._make(form, leaves)
        program, found = self._programs[key]
        return pytree.tree_unflatten(program(*leaves), found)

    def _make(self, form: pytree.TreeSpec, leaves: list[Tensor]) -> Any:
        forms: list[pytree.TreeSpec] = []

        def flat(*inputs: Tensor) -> list[Tensor]:
            results = self._function(*pytree.tree_unflatten(list(inputs), form))
            forms.append(pytree.tree_structure(results))
            return tree.leaves(results)

        traced = trace(flat, leaves)
        if not self._compiled:
            simplify(traced.graph)
            traced.recompile()
            return traced.forward, forms[0]
        return _compiled(traced, leaves), forms[0]


def _compiled(function: Callable[..., Any], inputs: list[Tensor]) -> Callable[..., Any]:
    """Return a function compiled with ``torch.compile``, after a first call with `inputs`."""
    try:
        program: Callable[..., Any] = torch.compile(function, dynamic=False, fullgraph=True)
        program(*inputs)
    except Exception as error:
        if not type(error).__module__.startswith(("torch._inductor", "torch._dynamo")):
            raise
        if _remove_broken_library(str(error)):
            return _compiled(function, inputs)
        reason = " ".join(str(error).split())[:200]
        raise RuntimeError(
            f"torch.compile failed ({reason}); install a C++ compiler or use mode=traced"
        ) from error
    return program


def _remove_broken_library(message: str) -> bool:
    """Delete a broken library from torch's cache, and return whether the library existed.

    A killed compilation can leave an empty library, which torch does not compile again.

    Args:
        message: Error message that contains the path of the library.
    """
    named = re.search(r"ImportError: (\S+\.so): ", message)
    if named is None or not Path(named[1]).is_file():
        return False
    Path(named[1]).unlink()
    torch._dynamo.reset()
    return True
