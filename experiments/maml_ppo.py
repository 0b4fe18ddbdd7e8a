"""Meta-train a policy with MAML-PPO: clipped ratios in the inner and in the outer loss.

``metarl train maml-ppo --env metarl/Navigation2D-v0 --out runs/ppo``
"""

import sys
from dataclasses import dataclass

from metarl.core.adapt import InnerLoop
from metarl.core.types import MetaLearner
from metarl.experiments.launch import launch
from metarl.experiments.meta_rl import Loss, Parts, make_parts
from metarl.experiments.policies import train as train
from metarl.experiments.vpg_maml import VPGMAML, descent
from metarl.rl.policies import Policy
from metarl.rl.policy_gradient import policy_gradient, surrogate_loss
from metarl.runs.config import greater_than, require


@dataclass(frozen=True)
class MAMLPPO(VPGMAML):
    """Meta-train a policy that adapts by policy gradients, with PPO's clipped loss and Adam."""

    estimator: Loss = "clipped"
    """Inner loss: clipped as the outer one, or what `metarl train maml-trpo --help` says."""
    epochs: int = 5
    """Gradient steps on every meta-batch of episodes."""
    clip: float = 0.5
    """How far from 1 a probability ratio of the outer loss may move."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        require(self, greater_than(0), "clip")


def build(config: MAMLPPO, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run; evaluation asks for its own numbers of tasks and episodes."""

    def learner(policy: Policy, loop: InnerLoop) -> MetaLearner:
        return policy_gradient(loop, surrogate_loss(policy, clip=config.clip), **descent(config))

    return make_parts(config, learner, num_tasks=num_tasks, episodes=episodes)


def main(config: MAMLPPO) -> None:
    """Start a run."""
    launch("maml-ppo", config, build(config), sys.modules[__name__])
