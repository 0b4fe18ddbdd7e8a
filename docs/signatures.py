"""Signatures of the API pages as they are written in the source.

Sphinx evaluates annotations and defaults, which expands type aliases and prints defaults such as
``<function <lambda>>``. The source has ``LossFn``, ``Float[Tensor, 'ways size']`` and the default
itself.
"""

import ast
import dataclasses
import inspect
import re
import textwrap
from collections.abc import Iterator
from typing import Any


def as_written(
    app: Any, what: str, name: str, value: Any, options: Any, signature: str | None, result: Any
) -> tuple[str, str | None] | None:
    """Return the signature and the result type of a function or class (Sphinx calls this)."""
    if not (inspect.isroutine(value) or inspect.isclass(value)):
        return None
    if getattr(value, "_is_protocol", False):
        return "", None
    if dataclasses.is_dataclass(value) or hasattr(value, "_fields"):
        return f"({', '.join(_fields(value))})", None
    called = value.__init__ if inspect.isclass(value) else value
    if not hasattr(inspect.unwrap(called), "__code__"):  # inherited from a class written in C
        return None
    function = _parsed(called)
    if not isinstance(function, ast.FunctionDef):
        return None
    returns = ast.unparse(function.returns) if function.returns and what != "class" else None
    return f"({_arguments(function.args)})", returns


def _parsed(value: Any) -> ast.stmt:
    """Return the definition of a function or class, without ``Annotated``."""
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(value)))
    definition: ast.stmt = _Plain().visit(ast.parse(source)).body[0]
    return definition


def _arguments(arguments: ast.arguments) -> str:
    """Return the arguments of a function without `self`."""
    first = [*arguments.posonlyargs, *arguments.args][:1]
    if first and first[0].arg in ("self", "cls"):
        del (arguments.posonlyargs or arguments.args)[0]
    return ast.unparse(arguments)


def _fields(value: type) -> Iterator[str]:
    """Yield the public fields of a dataclass or named tuple, those of its bases first."""
    for base in reversed(value.__mro__):
        if not base.__module__.startswith("metarl"):
            continue
        for line in getattr(_parsed(base), "body", []):
            text = ast.unparse(line)
            if isinstance(line, ast.AnnAssign) and not re.match("_|.*(ClassVar|init=False)", text):
                yield text


class _Plain(ast.NodeTransformer):
    """Replace ``Annotated[T, ...]`` by ``T`` and ``field(default_factory=f)`` by ``f()``."""

    def visit_Subscript(self, node: ast.Subscript) -> ast.AST:
        """Return the type inside of ``Annotated``."""
        self.generic_visit(node)
        annotated = ast.unparse(node.value) == "Annotated" and isinstance(node.slice, ast.Tuple)
        return node.slice.elts[0] if annotated else node

    def visit_Call(self, node: ast.Call) -> ast.AST:
        """Return a call of the default factory of a field."""
        factories = [word.value for word in node.keywords if word.arg == "default_factory"]
        return ast.Call(factories[0], [], []) if factories else node
