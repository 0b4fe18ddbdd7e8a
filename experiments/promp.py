"""Meta-train a policy with ProMP (Rothfuss et al. 2019).

``metarl train promp --preset cheetah-dir --out runs/promp``
"""

import sys
from dataclasses import dataclass

from metarl import cli
from metarl.config import at_least, greater_than, require
from metarl.core.adapt import InnerLoop
from metarl.core.types import MetaLearner
from metarl.experiments.launch import launch
from metarl.experiments.maml_ppo import MAMLPPO
from metarl.experiments.policies import train as train
from metarl.experiments.vpg_maml import descent
from metarl.rl.policies import Policy
from metarl.rl.promp import promp
from metarl.rl.setup import Loss, Parts, make_parts


@dataclass(frozen=True)
class ProMP(MAMLPPO):
    """Meta-train a policy with a clipped outer loss and a KL penalty on the pre-update policy."""

    estimator: Loss = "ratio"
    """Inner loss: the likelihood ratio, whose curvature has low variance, or what
    `metarl train maml-trpo --help` says."""
    clip: float = 0.3
    """How far from 1 a probability ratio of the outer loss may move."""
    kl_coefficient: float = 5e-4
    """Weight of the KL penalty to begin with."""
    kl_target: float | None = 0.01
    """KL that halving and doubling the weight aims at; None leaves the weight as it is."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        require(self, at_least(0), "kl_coefficient")
        require(self, greater_than(0), "kl_target")


def build(config: ProMP, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run; evaluation asks for its own numbers of tasks and episodes."""

    def learner(policy: Policy, loop: InnerLoop) -> MetaLearner:
        return promp(
            policy,
            loop,
            clip=config.clip,
            kl_coefficient=config.kl_coefficient,
            kl_target=config.kl_target,
            **descent(config),
        )

    return make_parts(config, learner, num_tasks=num_tasks, episodes=episodes)


def main(config: ProMP) -> None:
    """Start a run."""
    launch("promp", config, build(config), sys.modules[__name__])


if __name__ == "__main__":
    cli.script("train", "promp")
