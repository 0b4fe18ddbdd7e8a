"""Print the public names of metarl and their signatures, one per line.

The public names are those of the package metarl and those that docs/api documents. The file
``tests/public_api.txt`` contains the names of the last release: tests/docs/test_public_api.py
requires an entry in CHANGELOG.md for each change. After a release, run
``python .ci/public_api.py > tests/public_api.txt``.
"""

import ast
import importlib
import inspect
import re
import sys
import textwrap
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import metarl


PAGES = Path(__file__).parents[1] / "docs/api"
DIRECTIVE = re.compile(r"^\.\. (currentmodule|auto\w+):: (\S+)((?:\n {3}\S.*)*)", re.M)


def entries() -> Iterator[str]:
    """Yield ``name: signature`` for every public name: those of metarl, then those in docs/api."""
    for name in sorted({*metarl.__all__} - {"envs"}):
        yield f"metarl.{name}: {signature(getattr(metarl, name))}"
    for page in sorted(PAGES.glob("*.md")):
        module = ""
        for kind, name, options in DIRECTIVE.findall(page.read_text()):
            if kind == "currentmodule":
                module = f"{name}."
                continue
            path = name if name.startswith("metarl.") else module + name
            yield from _documented(kind, path, _members(options))


def _members(options: str) -> list[str] | None:
    """Return the names in the option ``:members:``; None stands for all public names."""
    if ":no-members:" in options or ":members:" not in options:
        return []
    listed = re.search(r":members: (.+)", options)
    return listed[1].split(", ") if listed else None


def _documented(kind: str, path: str, members: list[str] | None) -> Iterator[str]:
    if kind == "autodata":
        yield path
        return
    found = importlib.import_module(path) if kind == "automodule" else _found(path)
    if kind != "automodule":
        yield f"{path}: {signature(found)}"
    if members is None:
        own = [n for n, x in vars(found).items() if getattr(x, "__module__", "") == path]
        own = own if kind == "automodule" else list(vars(found))
        members = [name for name in own if not name.startswith("_")]
    for name in members:
        member = inspect.getattr_static(found, name, None)
        yield f"{path}.{name}: {signature(member)}" if callable(member) else f"{path}.{name}"


def _found(path: str) -> Any:
    module, _, name = path.rpartition(".")
    return getattr(importlib.import_module(module), name)


def signature(found: Any) -> str:
    """Return the arguments of a function or the fields of a class, as in the source code."""
    function = getattr(found, "__func__", found)
    source = textwrap.dedent(inspect.getsource(inspect.unwrap(function)))
    (node,) = ast.parse(source).body
    if isinstance(node, ast.FunctionDef):
        return _arguments(node)
    if not isinstance(node, ast.ClassDef):
        return ""
    for inner in node.body:
        if isinstance(inner, ast.FunctionDef) and inner.name == "__init__":
            return _arguments(inner)
    fields = [ast.unparse(x) for x in node.body if isinstance(x, ast.AnnAssign)]
    return f"({', '.join(field for field in fields if not field.startswith('_'))})"


def _arguments(node: ast.FunctionDef) -> str:
    returns = f" -> {ast.unparse(node.returns)}" if node.returns else ""
    return f"({ast.unparse(node.args)}){returns}"


if __name__ == "__main__":
    sys.stdout.write("\n".join(entries()) + "\n")
