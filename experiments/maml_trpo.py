"""Meta-train a policy with MAML-TRPO (Finn et al. 2017), its pretrained baseline or its oracle.

``metarl train maml-trpo --preset navigation-quick --out runs/quick``
"""

import sys
from dataclasses import dataclass
from typing import Any

from metarl.core.adapt import InnerLoop
from metarl.core.types import MetaLearner
from metarl.experiments.launch import launch
from metarl.experiments.meta_rl import Parts, RLConfig, make_parts
from metarl.experiments.policies import train as train
from metarl.rl.maml_trpo import maml_trpo
from metarl.rl.policies import Policy
from metarl.runs.config import at_least, between, greater_than, inside, require


@dataclass(frozen=True)
class MAMLTRPO(RLConfig):
    """Meta-train a policy that adapts by policy gradients, with a trust-region meta-update.

    --inner-steps 0 is plain TRPO over all tasks (the pretrained baseline); with --observe-task it
    is the oracle. --preset NAME starts from named settings; `metarl train` lists them.
    """

    max_kl: float = 0.01
    """Radius of the trust region."""
    cg_steps: int = 10
    """Conjugate-gradient iterations of a meta-update."""
    cg_damping: float = 1e-5
    """Damping added to the Fisher matrix."""
    backtracks: int = 15
    """Points of the line search."""
    backtrack_ratio: float = 0.8
    """Ratio of successive step lengths in the line search."""
    fisher_fraction: float = 1.0
    """Part of each task's episodes that the Fisher is computed on: cheaper and noisier below 1."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        require(self, greater_than(0), "max_kl")
        require(self, at_least(1), "cg_steps", "backtracks")
        require(self, at_least(0), "cg_damping")
        require(self, inside(0, 1), "backtrack_ratio")
        require(self, greater_than(0), "fisher_fraction")
        require(self, between(0, 1), "fisher_fraction")


def build(config: MAMLTRPO, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run; evaluation asks for its own numbers of tasks and episodes."""

    def learner(policy: Policy, loop: InnerLoop) -> MetaLearner:
        return maml_trpo(policy, loop, **trust_region(config))

    return make_parts(config, learner, num_tasks=num_tasks, episodes=episodes)


def trust_region(config: MAMLTRPO) -> dict[str, Any]:
    """Return the settings of the trust region and its chunks."""
    names = (
        "max_kl", "cg_steps", "cg_damping", "backtracks", "backtrack_ratio", "fisher_fraction",
        "chunk_size",
    )  # fmt: skip
    return {name: getattr(config, name) for name in names}


def main(config: MAMLTRPO) -> None:
    """Start a run."""
    launch("maml-trpo", config, build(config), sys.modules[__name__])
