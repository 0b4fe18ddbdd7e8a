"""The loop that every meta-RL experiment trains with: collect, update, write down."""

from metarl.core.seeding import numpy_generator, torch_generator
from metarl.core.types import MetaState
from metarl.experiments.meta_rl import Parts, RLConfig
from metarl.rl.metrics import rollout_metrics
from metarl.runs.folder import Run
from metarl.runs.journal import Journal


def train(config: RLConfig, parts: Parts, run: Run, state: MetaState, *, start: int) -> None:
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
