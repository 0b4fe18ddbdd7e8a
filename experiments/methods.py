"""List the supervised methods: ``metarl methods``."""

from dataclasses import dataclass

from metarl import cli
from metarl.console import print_table
from metarl.supervised.methods import METHODS


@dataclass(frozen=True)
class Methods:
    """List the methods of `metarl train regression` and `fewshot`, and the flags they stand for."""


def main(args: Methods) -> None:
    """Print one line for each method."""
    del args
    rows = []
    for name, method in METHODS.items():
        flags = " ".join(_flag(flag, value) for flag, value in method.values.items())
        rows.append([name, method.paper, method.summary, flags or "(MAML's)"])
    print_table("--method NAME", ["method", "paper", "what it does", "flags"], rows, left=4)


def _flag(name: str, value: object) -> str:
    text = "--" + name.replace("_", "-")
    return text if value is True else f"{text} {value}"


if __name__ == "__main__":
    cli.script("methods")
