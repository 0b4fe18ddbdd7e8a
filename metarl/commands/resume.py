"""Continue a run from its last checkpoint: ``metarl resume runs/quick``."""

from dataclasses import dataclass, fields
from pathlib import Path
from typing import Annotated, Any

import tyro

from metarl.commands.opened import opened
from metarl.experiment import Device, Experiment, State, begin, train
from metarl.runs import Run, RunConfig, to_json, unset
from metarl.util import warn


@dataclass(frozen=True)
class Resume:
    """Continue a run exactly where its last checkpoint left it.

    From there on every metric but time/* is what an undisturbed run would have written (with
    Stable-Baselines3, on a CPU).
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    iterations: Annotated[int | None, unset("that of the run")] = None
    """Last iteration of the training."""
    total_steps: Annotated[int | None, unset("that of the run")] = None
    """Last environment step of the training, for runs of `metarl train sb3`."""
    device: Annotated[Device | None, unset("that of the run")] = None
    """Device to continue on."""


def main(args: Resume) -> None:
    """Load the last checkpoint, cut the metrics back to it and train on."""
    run, trained = opened(args.run)
    with run.lock():
        experiment = trained.changed(**_changes(args, trained.config))
        initial = experiment.init()
        start, state = newest_state(experiment, run)
        config = experiment.config
        if start >= config.iterations:
            print(
                f"{args.run} is complete: {start} iterations. Train on with --iterations, or see "
                f"it with: metarl evaluate {args.run}"
            )
            return
        warn_of_schedules(trained.config, config)
        if state is None:  # it died before its first checkpoint
            state = initial
            begin(experiment, run, state, experiment.prepare())
        if config != trained.config:
            run.change_config(to_json(config))
        run.cut_metrics(start, every=config.log_every)
        print(f"resuming {args.run} after iteration {start}")
        train(experiment, run, state, start=start)


def _changes(args: Resume, config: RunConfig) -> dict[str, Any]:
    """Return the settings that the command line changes."""
    given = {name: getattr(args, name) for name in ("iterations", "total_steps", "device")}
    changes = {name: value for name, value in given.items() if value is not None}
    if unknown := set(changes) - {field.name for field in fields(config)}:
        raise ValueError(f"{args.run} has no setting {', '.join(unknown)}; use `iterations`")
    return changes


def newest_state(experiment: Experiment[Any], run: Run) -> tuple[int, State | None]:
    """Return the newest checkpoint that can be read, and its iteration; warn of damaged ones."""
    for iteration in reversed(run.checkpoints()):
        try:
            return iteration, experiment.restore(run, iteration)
        except ValueError as error:
            warn(f"{error}; trying an earlier one")
    if run.checkpoints():
        raise ValueError(f"no checkpoint of {run.folder} can be read; nothing was changed")
    return 0, None


def warn_of_schedules(before: RunConfig, after: RunConfig) -> None:
    """Warn if more iterations change what the next ones do."""
    if before.iterations == after.iterations:
        return
    usual = before.scheduled.items()
    if moved := [name for name, value in usual if getattr(before, name) not in (None, value)]:
        warn(
            f"{', '.join(moved)} depend on the number of iterations: with {after.iterations} "
            f"instead of {before.iterations} they continue at a different point"
        )
