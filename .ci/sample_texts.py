"""Print a random sample of the texts in the source, to review how they read.

``python3 .ci/sample_texts.py --seed 1`` prints fifty docstrings, error messages and help texts of
``metarl/``, ``envs/`` and ``experiments/``; the same seed prints the same texts.
"""

import argparse
import ast
import random
from collections.abc import Iterator
from pathlib import Path
from typing import NamedTuple


ROOT = Path(__file__).resolve().parents[1]
FOLDERS = ("metarl", "envs", "experiments")
RAISES = {"raise_if", "warn", "fail", "error", "UsageError"}  # calls whose strings users read
WIDEST = 200  # characters of a constant's definition
LEAST = 25  # characters of an error message; shorter strings are fragments of one


class Text(NamedTuple):
    """One text and where it is."""

    path: Path
    line: int
    kind: str
    text: str


def plain(node: ast.expr) -> str | None:
    """Return a string literal, with the expressions of an f-string in braces."""
    match node:
        case ast.Constant(value=str(text)):
            return text
        case ast.JoinedStr(values=values):
            return "".join(plain(value) or "" for value in values)
        case ast.FormattedValue(value=value):
            return f"{{{ast.unparse(value)}}}"
        case ast.BinOp(left=left, op=ast.Add(), right=right):
            return (plain(left) or "{...}") + (plain(right) or "{...}")
    return None


def messages(node: ast.AST) -> Iterator[tuple[int, str]]:
    """Yield the longest string literals below a node."""
    if isinstance(node, ast.expr) and (text := plain(node)) is not None:
        yield node.lineno, text
        return
    for child in ast.iter_child_nodes(node):
        yield from messages(child)


def texts(path: Path) -> Iterator[Text]:
    """Yield the docstrings, help texts and errors of a file."""
    tree = ast.parse(path.read_text())
    where = path.relative_to(ROOT)
    classes = [node for node in ast.walk(tree) if isinstance(node, ast.ClassDef)]
    owners = {child: f"{node.name}." for node in classes for child in node.body}
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef):
            if text := ast.get_docstring(node):
                name = owners.get(node, "") + signature(node)  # type: ignore[call-overload]
                yield Text(where, node.body[0].lineno, f"docstring of {name}", text)
            yield from _help_texts(where, node)
        called = ast.unparse(node.func).split(".")[-1] if isinstance(node, ast.Call) else ""
        table = isinstance(node, ast.FunctionDef) and node.name == "conflicts"
        if isinstance(node, ast.Raise) or called in RAISES or table:
            body = node.body[1:] if isinstance(node, ast.FunctionDef) else [node]
            for line, text in (found for part in body for found in messages(part)):
                if len(text) >= LEAST:
                    yield Text(where, line, "error", text)


def _help_texts(where: Path, node: ast.Module | ast.ClassDef | ast.FunctionDef) -> Iterator[Text]:
    """Yield the strings below fields and constants."""
    for field, after in zip(node.body, node.body[1:], strict=False):
        literal = isinstance(after, ast.Expr) and plain(after.value)
        if isinstance(field, ast.AnnAssign | ast.Assign) and literal:
            yield Text(where, after.lineno, f"help of {ast.unparse(field)[:WIDEST]}", literal)


def signature(node: ast.Module | ast.ClassDef | ast.FunctionDef) -> str:
    """Return the name of a node, with the arguments and the result of a function."""
    match node:
        case ast.Module():
            return "the module"
        case ast.ClassDef():
            return f"class {node.name}"
        case _:
            result = f" -> {ast.unparse(node.returns)}" if node.returns else ""
            return f"{node.name}({ast.unparse(node.args)}){result}"


def main() -> None:
    """Print the sample."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--number", type=int, default=50)
    parser.add_argument("--all", action="store_true", help="print every text")
    args = parser.parse_args()
    files = sorted(path for folder in FOLDERS for path in (ROOT / folder).rglob("*.py"))
    found = sorted(set(text for path in files for text in texts(path)))
    drawn = found if args.all else random.Random(args.seed).sample(found, args.number)
    for number, (path, line, kind, text) in enumerate(drawn, start=1):
        print(f"## {number}. {path}:{line}, {kind}\n\n{text.rstrip()}\n")


if __name__ == "__main__":
    main()
