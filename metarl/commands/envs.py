"""List the environments that this package registers: ``metarl envs``."""

from dataclasses import dataclass

from metarl.envs import ENVIRONMENTS
from metarl.util import print_table


@dataclass(frozen=True)
class Envs:
    """List the environments with tasks that this package registers."""


def main(args: Envs) -> None:
    """Print one line for each environment, from the first of its docstring."""
    del args
    rows = [
        [row.id, (row.scalar().__doc__ or "").partition("\n")[0], row.horizon]
        for row in ENVIRONMENTS
    ]
    print_table("environments of metarl", ["id", "task", "horizon"], rows, left=2)
