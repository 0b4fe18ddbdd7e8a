"""Meta-train a policy with CAVIA (Zintgraf et al. 2019): a few context parameters adapt.

``metarl train cavia --env metarl/Navigation2D-v0 --context-size 5 --out runs/cavia``
"""

import sys
from dataclasses import dataclass

from metarl.core.adapt import InnerLoop
from metarl.core.types import MetaLearner
from metarl.experiments.launch import launch
from metarl.experiments.maml_trpo import MAMLTRPO, trust_region
from metarl.experiments.meta_rl import Parts, make_parts
from metarl.experiments.policies import train as train
from metarl.rl.maml_trpo import maml_trpo
from metarl.rl.policies import Policy
from metarl.runs.config import at_least, require


@dataclass(frozen=True)
class CAVIA(MAMLTRPO):
    """Meta-train a policy whose context parameters adapt, and nothing else, with a trust region.

    They are read beside every observation and start at zero in every task.
    """

    inner_lr: float = 1.0
    """Step size of the inner steps."""
    context_size: int = 5
    """Number of context parameters."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        require(self, at_least(1), "context_size")


def build(config: CAVIA, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run; evaluation asks for its own numbers of tasks and episodes."""

    def learner(policy: Policy, loop: InnerLoop) -> MetaLearner:
        return maml_trpo(policy, loop, **trust_region(config))

    context = config.context_size
    return make_parts(config, learner, num_tasks=num_tasks, episodes=episodes, context=context)


def main(config: CAVIA) -> None:
    """Start a run."""
    launch("cavia", config, build(config), sys.modules[__name__])
