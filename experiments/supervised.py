"""The training loop of every supervised experiment."""

import torch

from metarl.core import tree
from metarl.core.seeding import torch_generator
from metarl.core.speed import processes
from metarl.core.types import MetaParams, MetaState, Metrics, Task
from metarl.experiments.supervised_settings import SupervisedConfig
from metarl.experiments.supervised_setup import Parts
from metarl.runs.folder import Run
from metarl.runs.journal import Journal
from metarl.supervised.evaluate import adaptation_curves
from metarl.supervised.model import Tasks


def train(
    config: SupervisedConfig, parts: Parts, run: Run, state: MetaState, *, start: int
) -> None:
    """Train from iteration `start` + 1 on; all randomness comes from (seed, iteration)."""
    with Journal(run, config, start=start) as journal:
        for iteration in journal.iterations():
            generator = torch_generator(config.seed, iteration, "tasks", device=parts.device)
            tasks = share_of(parts.draw(config.num_tasks or 1, generator))
            journal.collected()
            state, metrics = parts.learner(iteration).step(state, tasks)
            if journal.checkpoint_is_due(iteration):
                metrics |= validate(config, parts, state.params)
            journal.write(iteration, state, metrics)


def share_of(tasks: Tasks) -> Tasks:
    """Return the tasks of this process; every one draws them all, so that they are the same."""
    if isinstance(tasks, Task):
        return processes.share(len(tree.leaves(tasks)[0])).of_batch(tasks)
    return processes.share(len(tasks)).of_list(tasks)


def validate(config: SupervisedConfig, parts: Parts, params: MetaParams) -> Metrics:
    """Measure on validation tasks, the same at every checkpoint, after the last inner step."""
    curves = adaptation_curves(
        parts.model,
        parts.test_loop,
        [params],
        parts.evaluated["validation"],
        num_tasks=config.validation_tasks or 1,
        generator=torch_generator(config.seed, 0, "validation", device=parts.device),
        chunk_size=parts.chunk_size,
    )
    return {f"validation/{n}": torch.tensor(curves.mean(n)[-1]) for n in curves.values}
