"""Continue a run of Stable-Baselines3: ``metarl resume runs/ppo``."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.experiments.sb3 import SB3, Parts, begin, build, evaluate, require_alone, train
from metarl.runs.config import to_json
from metarl.runs.folder import Run
from metarl.runs.loading import read_config
from metarl.sb3 import checkpoint as sb3_checkpoint
from metarl.util.console import warn


@dataclass(frozen=True)
class ResumeSB3:
    """Continue a run where its last checkpoint left it.

    On a CPU, every metric but time/* is from there on what an undisturbed run would have written.
    """

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    iterations: int | None = None
    """Train until this iteration instead of the one the run was started with."""
    total_steps: int | None = None
    """The same in environment steps."""
    device: Literal["auto", "cpu", "cuda"] | None = None
    """Go on with another device."""


def main(args: ResumeSB3) -> None:
    """Load the last checkpoint, cut the metrics back to it and train on."""
    require_alone()
    run = Run.open(args.run)
    with run.lock():
        before = read_config(SB3, run)
        config = replace(
            before,
            iterations=before.iterations if args.iterations is None else args.iterations,
            total_steps=args.total_steps,
            device=args.device or before.device,
        )
        parts = build(config)
        start = restore_last(run, parts)
        if start is not None and start >= config.iterations:
            print(
                f"{args.run} is complete: {start} iterations. Train on with --iterations, or see "
                f"it with: metarl evaluate {args.run}"
            )
            return
        if config != before:
            run.change_config(to_json(config))
        run.cut_metrics(start or 0)
        if start is None:  # it died before its first checkpoint
            begin(run, parts, evaluate(config, parts))
        print(f"resuming {args.run} after iteration {start or 0}")
        train(config, parts, run, start=start or 0)


def restore_last(run: Run, parts: Parts) -> int | None:
    """Restore the newest checkpoint that can be read; return its iteration, None without any."""
    for iteration in reversed(run.checkpoints()):
        try:
            sb3_checkpoint.restore(run, parts.model, iteration)
        except ValueError as error:
            warn(f"{error}; trying an earlier one")
        else:
            return iteration
    if run.checkpoints():
        raise ValueError(f"no checkpoint of {run.folder} can be read; nothing was changed")
    return None
