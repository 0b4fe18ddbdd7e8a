"""Write the table of docs/environments.md from the registered environments.

::

    python docs/environment_table.py write
    python docs/environment_table.py check

The text between ``<!-- environments -->`` and ``<!-- /environments -->`` is generated. Horizons
come from the registry, and step durations and sizes from the environments. Tasks and rewards are
the first sentences of these sections of the docstrings. ``check`` fails if the table is not up to
date.
"""

import inspect
import re
import sys
from pathlib import Path
from typing import Any

import gymnasium
from gymnasium import spaces

from metarl.commands import envs
from metarl.envs import ENVIRONMENTS, Row


PAGE = Path(__file__).with_name("environments.md")
TABLE = re.compile(r"(<!-- environments -->\n).*?(<!-- /environments -->)", re.DOTALL)
HEAD = (
    "| id | horizon | step | observations | actions | tasks | reward |\n"
    "|---|---:|---:|---:|---:|---|---|\n"
)


def opening(docstring: str, title: str) -> str:
    """Return the first sentence of a section of a docstring, which must exist."""
    if not (sentence := envs.opening(docstring, title)):
        raise ValueError(f"a docstring has no section {title!r}: {docstring[:60]!r}")
    return sentence


def line(row: Row) -> str:
    """Return the table row of one environment."""
    env: Any = gymnasium.make(row.id)
    step = f"{env.unwrapped.dt:g} s" if hasattr(env.unwrapped, "dt") else "-"
    text = inspect.getdoc(row.scalar()) or ""
    cells = [f"`{row.id}`", str(row.horizon), step]
    cells += [size(env.observation_space), size(env.action_space)]
    cells += [opening(text, title).replace("|", r"\|") for title in ("Tasks", "Rewards")]
    env.close()
    return f"| {' | '.join(cells)} |\n"


def size(space: gymnasium.Space[Any]) -> str:
    """Return the shape of a Box, or the number of values of a Discrete space, as text."""
    if isinstance(space, spaces.Discrete):
        return f"1 of {space.n}"
    return " × ".join(map(str, space.shape or ()))


def text_of_page() -> str:
    """Return the up-to-date text of the page."""
    table = HEAD + "".join(map(line, ENVIRONMENTS))
    return TABLE.sub(lambda found: found[1] + table + found[2], PAGE.read_text())


def main(argv: list[str]) -> None:
    """Write or check the table."""
    text = text_of_page()
    if argv == ["check"] and text != PAGE.read_text():
        sys.exit("docs/environments.md is out of date: python docs/environment_table.py write")
    if argv == ["write"]:
        PAGE.write_text(text)


if __name__ == "__main__":
    main(sys.argv[1:])
