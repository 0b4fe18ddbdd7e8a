"""Meta-train a policy with VPG-MAML (Finn et al. 2017): Adam on the policy gradient.

``metarl train vpg-maml --env metarl/Navigation2D-v0 --out runs/vpg``
"""

import sys
from dataclasses import dataclass
from typing import Any

from metarl.core.adapt import InnerLoop
from metarl.core.types import MetaLearner
from metarl.experiments.launch import launch
from metarl.experiments.meta_rl import Parts, RLConfig, make_parts
from metarl.experiments.policies import train as train
from metarl.rl.policies import Policy
from metarl.rl.policy_gradient import policy_gradient, surrogate_loss
from metarl.runs.config import at_least, require


@dataclass(frozen=True)
class VPGMAML(RLConfig):
    """Meta-train a policy that adapts by policy gradients, with gradient steps of Adam."""

    outer_lr: float = 1e-3
    """Step size of the meta-update."""
    epochs: int = 1
    """Gradient steps on every meta-batch of episodes."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        require(self, at_least(0), "outer_lr")
        require(self, at_least(1), "epochs")


def build(config: VPGMAML, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run; evaluation asks for its own numbers of tasks and episodes."""

    def learner(policy: Policy, loop: InnerLoop) -> MetaLearner:
        return policy_gradient(loop, surrogate_loss(policy), **descent(config))

    return make_parts(config, learner, num_tasks=num_tasks, episodes=episodes)


def descent(config: VPGMAML) -> dict[str, Any]:
    """Return the settings of the meta-update."""
    return {
        "lr": config.outer_lr,
        "epochs": config.epochs,
        "chunk_size": config.chunk_size,
    }


def main(config: VPGMAML) -> None:
    """Start a run."""
    launch("vpg-maml", config, build(config), sys.modules[__name__])
