"""Meta-train a policy with Reptile (Nichol et al. 2018): follow where policy gradients lead.

``metarl train reptile --env metarl/Navigation2D-v0 --out runs/reptile``
"""

import sys
from dataclasses import dataclass

import torch

from metarl.core.adapt import InnerLoop
from metarl.core.estimators import reptile
from metarl.core.types import MetaLearner
from metarl.experiments.launch import launch
from metarl.experiments.meta_rl import Parts, make_parts
from metarl.experiments.policies import train as train
from metarl.experiments.vpg_maml import VPGMAML, descent
from metarl.rl.policies import Policy
from metarl.rl.policy_gradient import policy_gradient, surrogate_loss


@dataclass(frozen=True)
class Reptile(VPGMAML):
    """Meta-train by moving towards the adapted policies: no second derivatives, no trust region.

    What several inner steps have in common on all tasks is learned; with one it is joint training.
    The episodes after the last step are for the metrics alone.
    """

    inner_steps: int = 3
    """Inner policy-gradient steps, each on fresh episodes."""
    outer_lr: float = 0.5
    """Part of the way to the mean of the adapted policies that a meta-update goes."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        if self.inner_steps < 1:
            raise ValueError(f"Reptile needs --inner-steps of at least 1, got {self.inner_steps}")
        if self.inner not in ("sgd", "adam"):
            raise ValueError(f"Reptile learns no rates; use --inner sgd or adam, not {self.inner}")
        if self.first_order:
            raise ValueError("Reptile has no second derivatives to drop; leave out --first-order")


def build(config: Reptile, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run; evaluation asks for its own numbers of tasks and episodes."""

    def learner(policy: Policy, loop: InnerLoop) -> MetaLearner:
        return policy_gradient(
            loop,
            surrogate_loss(policy),
            estimator=reptile,
            optimizer=torch.optim.SGD,
            **descent(config),
        )

    return make_parts(config, learner, num_tasks=num_tasks, episodes=episodes)


def main(config: Reptile) -> None:
    """Start a run."""
    launch("reptile", config, build(config), sys.modules[__name__])
