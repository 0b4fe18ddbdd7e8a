"""``metarl resume RUN``: continue a run from its last checkpoint."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from metarl.commands.opened import opened, require_trusted
from metarl.experiment import Device, Experiment, State
from metarl.runs import Run, RunConfig, to_json, trust, unset
from metarl.training import begin, train
from metarl.util import say, warn


@dataclass(frozen=True)
class Resume:
    """Continue a run from its last checkpoint.

    A resumed run logs the same metrics as an uninterrupted run, except for
    the metrics time/*. For Stable-Baselines3 runs, identical metrics are
    guaranteed only on a CPU.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder to continue."""
    iterations: Annotated[int | None, unset("the value of the run")] = None
    """Total number of iterations, including completed iterations; set a larger
    number than in the original command to train longer."""
    total_steps: Annotated[int | None, unset("the value of the run")] = None
    """Total number of environment steps, including completed steps; only for
    runs of `metarl train sb3`."""
    device: Annotated[Device | None, unset("the value of the run")] = None
    """Device to continue the training on; auto uses a GPU if available."""
    worker_timeout: Annotated[float | None, unset("the value of the run")] = None
    """Time in seconds to wait for an answer of a process of a meta-RL run with
    --vectorization async; set this if a simulator hangs."""
    trust_env: bool = False
    """Import the module in the environment ID or the encoder module:function of
    a pulled run and run its code, now and in later commands; set this flag only
    if you trust the module."""
    data_root: Annotated[Path | None, unset("the value of the run")] = None
    """Folder that contains the training data; set this if the folder has
    moved, or if the run was trained on a different machine."""
    encoder: Annotated[str | None, unset("the value of the run")] = None
    """Folder or Hugging Face name of the pretrained encoder of a text or image
    run; set this if the folder has moved."""


def main(args: Resume) -> None:
    """Load the last checkpoint, remove metrics of later iterations, and continue training."""
    run, trained = named = opened(args.run)
    require_trusted(named, trust_env=args.trust_env)
    with run.lock():
        if args.trust_env:
            trust(run)  # figures and videos are drawn by other processes
        experiment = trained.changed(**_changes(args, trained.config))
        initial = experiment.init()
        start, state = newest_state(experiment, run)
        experiment.add_entries(run)
        config = experiment.config
        if start >= config.iterations:
            say(
                f"{args.run} is complete: {start} iterations. Increase --iterations to train "
                f"longer, or evaluate with: metarl evaluate {args.run}"
            )
            return
        warn_of_schedules(trained.config, config)
        if state is None:  # the run stopped before its first checkpoint
            state = initial
            begin(experiment, run, state, experiment.prepare())
        run.cut_metrics(start, every=config.log_every)
        if config != trained.config:
            run.change_config(to_json(config))
        say(f"resuming {args.run} after iteration {start}")
        train(experiment, run, state, start=start)


def _changes(args: Resume, config: RunConfig) -> dict[str, Any]:
    """Return the settings in `args` that replace settings of the run in `config`, by name."""
    options = vars(args).items()
    changes = {n: x for n, x in options if x is not None and n not in ("run", "trust_env")}
    if unknown := sorted(set(changes) - {field.name for field in fields(config)}):
        raise ValueError(
            f"cannot change {', '.join(unknown)}: the experiment of {args.run} has no such "
            "setting. Remove the option"
        )
    return changes


def newest_state(experiment: Experiment[Any], run: Run) -> tuple[int, State | None]:
    """Load the newest valid checkpoint, with a warning for each damaged checkpoint.

    Args:
        experiment: Experiment that is built from the run's configuration.
        run: The run to load the checkpoint from.

    Returns:
        The iteration and the training state of the checkpoint, or ``(0,
        None)`` if the run stopped before its first checkpoint.

    Raises:
        ValueError: If all checkpoints are damaged, or metrics exist without a checkpoint.
    """
    for iteration in reversed(run.checkpoints()):
        try:
            return iteration, experiment.restore(run, iteration)
        except ValueError as error:
            warn(f"{error}; trying an earlier checkpoint")
    if run.checkpoints():
        raise ValueError(
            f"no checkpoint of {run.folder} is valid. Restore a checkpoint from a backup; "
            "the run was not changed"
        )
    if (lines := run.metrics()) and (last := lines[-1]["iteration"]):
        raise ValueError(
            f"{run.folder} has metrics up to iteration {last} but no checkpoint. Restore the "
            "folder checkpoints/, or start a new run; this run was not changed"
        )
    return 0, None


def warn_of_schedules(before: RunConfig, after: RunConfig) -> None:
    """Warn if the number of iterations in `after` differs from `before` and changes schedules."""
    if before.iterations == after.iterations:
        return
    usual = before.scheduled.items()
    if moved := [name for name, value in usual if getattr(before, name) not in (None, value)]:
        warn(
            f"changing the number of iterations from {before.iterations} to {after.iterations} "
            f"also changes the schedules of {', '.join(moved)}; start a new run to keep them"
        )
