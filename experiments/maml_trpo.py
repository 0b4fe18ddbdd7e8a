"""Meta-train a policy with MAML-TRPO (Finn et al. 2017), its pretrained baseline or its oracle.

``metarl train maml-trpo --preset navigation-quick --out runs/quick``
"""

import sys
from dataclasses import dataclass

from metarl import cli
from metarl.config import at_least, between, greater_than, inside, require
from metarl.core.adapt import InnerLoop
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.core.types import MetaLearner, MetaState
from metarl.experiments.launch import launch
from metarl.journal import Journal
from metarl.rl.maml_trpo import maml_trpo
from metarl.rl.metrics import rollout_metrics
from metarl.rl.policies import Policy
from metarl.rl.setup import Parts, RLConfig, make_parts
from metarl.tracking import Run


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
        return maml_trpo(
            policy,
            loop,
            max_kl=config.max_kl,
            cg_steps=config.cg_steps,
            cg_damping=config.cg_damping,
            backtracks=config.backtracks,
            backtrack_ratio=config.backtrack_ratio,
            fisher_fraction=config.fisher_fraction,
            chunk_size=config.chunk_size,
        )

    return make_parts(config, learner, num_tasks=num_tasks, episodes=episodes)


def main(config: MAMLTRPO) -> None:
    """Start a run."""
    launch("maml-trpo", config, build(config), sys.modules[__name__])


def train(config: MAMLTRPO, parts: Parts, run: Run, state: MetaState, *, start: int) -> None:
    """Train from iteration `start` + 1 on; all randomness comes from (seed, iteration)."""
    sampler = parts.sampler
    with Journal(run, config, start=start) as journal:
        for iteration in journal.iterations():
            tasks = sampler.sample_tasks(numpy_generator(config.seed, iteration, "tasks"))
            generator = torch_generator(config.seed, iteration, "rollouts", device=sampler.device)
            batch, collected = sampler.collect(
                parts.policy, parts.loop, state.params, tasks, generator, parts.process
            )
            journal.collected()
            state, updated = parts.learner.step(state, batch)
            journal.write(iteration, state, collected | updated | rollout_metrics(batch))


if __name__ == "__main__":
    cli.script("train", "maml-trpo")
