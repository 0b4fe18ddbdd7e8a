"""Meta-train a policy with E-MAML-TRPO (Stadie et al. 2018): adaptation that explores.

``metarl train e-maml --env metarl/SparsePoint-v0 --inner-steps 3 --out runs/sparse``
"""

import sys
from dataclasses import dataclass

from metarl.core.adapt import InnerLoop
from metarl.core.types import MetaLearner
from metarl.experiments.launch import launch
from metarl.experiments.maml_trpo import MAMLTRPO, trust_region
from metarl.experiments.meta_rl import Parts, make_parts
from metarl.experiments.policies import train as train
from metarl.rl.e_maml import e_maml
from metarl.rl.policies import Policy


@dataclass(frozen=True)
class EMAML(MAMLTRPO):
    """Meta-train with MAML-TRPO and credit the first episodes for the return after adaptation.

    The actions before adaptation are made likelier on tasks that went better than others after it.
    """


def build(config: EMAML, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run; evaluation asks for its own numbers of tasks and episodes."""

    def learner(policy: Policy, loop: InnerLoop) -> MetaLearner:
        return e_maml(policy, loop, **trust_region(config))

    return make_parts(config, learner, num_tasks=num_tasks, episodes=episodes)


def main(config: EMAML) -> None:
    """Start a run."""
    launch("e-maml", config, build(config), sys.modules[__name__])
