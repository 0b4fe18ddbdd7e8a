"""``metarl envs``: list the environments of metarl."""

from dataclasses import dataclass

from metarl.envs import ENVIRONMENTS
from metarl.util import print_table


@dataclass(frozen=True)
class Envs:
    """List the environments that metarl registers, with their tasks and horizons."""


def main(args: Envs) -> None:
    """Print the Gymnasium ID, the first docstring line and the horizon of each environment."""
    del args
    rows = [
        [row.id, (row.scalar().__doc__ or "").partition("\n")[0], row.horizon]
        for row in ENVIRONMENTS
    ]
    rows.append(["metarl/ML1-reach-v3, ML10, ...", "Meta-World; see docs/meta-world.md", 500])
    print_table("environments of metarl", ["id", "task", "horizon"], rows, left=2)
