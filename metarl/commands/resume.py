"""Continue a run from its last checkpoint: ``metarl resume runs/quick``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.experiments.launch import experiment_of
from metarl.runs import checkpoint
from metarl.runs.config import RunConfig, flag, to_json
from metarl.runs.folder import Run
from metarl.runs.loading import load_checkpoint, read_config
from metarl.util.console import warn
from metarl.util.device import resolve_device


@dataclass(frozen=True)
class Resume:
    """Continue a run exactly where its last checkpoint left it.

    From there on every metric but time/* is what an undisturbed run would have written.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    iterations: int | None = None
    """Train until this iteration instead of the one the run was started with."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Go on with another device."""


def main(args: Resume) -> None:
    """Load the last checkpoint, cut the metrics back to it and train on."""
    run = Run.open(args.run)
    with run.lock():
        experiment, kind = experiment_of(run)
        before = read_config(kind, run)
        config = replace(
            before,
            iterations=before.iterations if args.iterations is None else args.iterations,
            device=args.device or before.device,
        )
        start, saved = last_whole_checkpoint(run, config)
        if start >= config.iterations:
            print(
                f"{args.run} is complete: {start} iterations. Train on with --iterations, or see "
                f"it with: metarl evaluate {args.run}"
            )
            return
        warn_of_schedules(before, config)
        parts = experiment.build(config)
        state = parts.init()
        if saved is None:  # it died before its first checkpoint
            checkpoint.save(run.checkpoint_path(0), state, iteration=0, config=to_json(config))
        else:
            state = checkpoint.restore(state, saved)
        if config != before:
            run.change_config(to_json(config))
        run.cut_metrics(start, every=config.log_every)
        print(f"resuming {args.run} after iteration {start}")
        experiment.train(config, parts, run, state, start=start)


def warn_of_schedules(before: RunConfig, after: RunConfig) -> None:
    """Say so where more iterations change what the next ones do."""
    if before.iterations == after.iterations:
        return
    constant = {"outer_schedule": "constant", "first_order_until": 0, "multi_step_until": 0}
    moved = [n for n, v in constant.items() if getattr(before, n, None) not in (None, v)]
    if moved:
        warn(
            f"{', '.join(map(flag, moved))} go by the number of iterations: with "
            f"{after.iterations} instead of {before.iterations} they go on at another part"
        )


def last_whole_checkpoint(run: Run, config: RunConfig) -> tuple[int, checkpoint.Checkpoint | None]:
    """Return the newest checkpoint that can be read, and its iteration; warn of damaged ones."""
    device = resolve_device(config.device)
    for iteration in reversed(run.checkpoints()):
        try:
            return iteration, load_checkpoint(run, config, iteration, device=device)
        except ValueError as error:
            warn(f"{error}; trying an earlier one")
    if run.checkpoints():
        raise ValueError(f"no checkpoint of {run.folder} can be read; nothing was changed")
    return 0, None
