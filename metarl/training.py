"""The training loop that all experiments share."""

from pathlib import Path
from typing import Any

from metarl.experiment import Experiment, State
from metarl.runs import Journal, Run, require_tracker, to_json


def start(experiment: Experiment[Any], out: Path) -> None:
    """Create a run folder, save the initialization, and train.

    Args:
        experiment: The experiment to train.
        out: Path of the run folder, which must be empty or must not exist.

    Raises:
        FileExistsError: If the folder contains a run or other files.
    """
    require_tracker(experiment.config.track)
    first, state = experiment.prepare(), experiment.init()
    about = experiment.entries()
    with Run.create(out, experiment.name, to_json(experiment.config), **about) as run:
        begin(experiment, run, state, first)
        train(experiment, run, state, start=0)


def begin(experiment: Experiment[Any], run: Run, state: State, first: dict[str, float]) -> None:
    """Log the metrics and save the checkpoint for iteration 0.

    Args:
        experiment: The experiment to train.
        run: The run to write to.
        state: The training state before the first iteration.
        first: Metrics for iteration 0, from :meth:`Experiment.prepare`; not logged if empty.
    """
    if first and not run.metrics():  # an interrupted run may already contain them
        run.log(0, first)
    experiment.save(run, 0, state)


def train(experiment: Experiment[Any], run: Run, state: State, *, start: int) -> None:
    """Train from iteration ``start + 1`` to the configured number of iterations.

    Args:
        experiment: The experiment to train.
        run: The run that receives metrics and checkpoints.
        state: The training state after iteration `start`.
        start: The last completed iteration; 0 for a new run.
    """
    with Journal(run, experiment.config, start=start, save=experiment.save) as journal:
        for iteration in journal.iterations():
            with journal.collecting(state):
                tasks, collected = experiment.draw(state, iteration)
            state, updated = experiment.learner(iteration).step(state, tasks)
            if journal.checkpoint_is_due(iteration):
                updated = updated | experiment.validate(state)
            journal.write(iteration, state, collected | updated)
