"""Show what Stable-Baselines3 trained: one episode, as picture or video.

``metarl render runs/ppo --out ppo.mp4``
"""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.drawing.film import choose_pace, film, make_recorder
from metarl.drawing.panels import Shot, draw_films, headline
from metarl.drawing.video import SUFFIXES, require_video
from metarl.experiments.sb3 import SB3, build
from metarl.rl.evaluate import paper_tasks
from metarl.runs.config import require
from metarl.runs.folder import Run
from metarl.runs.loading import read_config
from metarl.sb3 import checkpoint as sb3_checkpoint
from metarl.sb3.policies import NO_PARAMS, policy_of
from metarl.util.optional import pyplot
from metarl.util.output import require_writable
from metarl.util.ranges import at_least


PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class RenderSB3:
    """Play one episode of a policy that Stable-Baselines3 trained."""

    run: Annotated[Path, tyro.conf.Positional]
    """Run folder."""
    out: Path
    """File to write: .png, .pdf or .svg is a picture, .mp4 or .gif a video."""
    task: str | None = None
    """Task as JSON, such as '{"direction": -1}'; by default the run's, or a test task."""
    seed: int = 1
    """Seed of the task and of the start."""
    checkpoint: int | None = None
    """Iteration of the checkpoint, by default the last; 0 is the untrained policy."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where the policy lives."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        require(self, at_least(0), "seed", "checkpoint")
        if self.out.suffix not in (kinds := (*PICTURES, *SUFFIXES)):
            raise ValueError(f"--out must end in one of {', '.join(kinds)}, got {self.out}")


def main(args: RenderSB3) -> None:
    """Load, play and draw."""
    run = Run.open(args.run)
    config = replace(read_config(SB3, run), device=args.device)
    if args.task is not None:
        config = replace(config, task=args.task)
    iteration = run.choose_checkpoint(args.checkpoint)
    require_writable(args.out)
    (require_video if args.out.suffix in SUFFIXES else pyplot)()
    parts = build(config, num_tasks=1)
    sb3_checkpoint.restore(run, parts.model, iteration, replay=False)
    task = paper_tasks(parts.sampler, args.seed)[0] if parts.task is None else parts.task
    recorder = make_recorder(config.env, **({"observe_task": True} if config.observe_task else {}))
    pace = choose_pace(recorder, args.out.suffix)
    (played,) = film(
        recorder, policy_of(parts.model), [NO_PARAMS], task, seed=args.seed, every=pace.every
    )
    shot = Shot(f"{config.algo}, iteration {iteration}", float(played.returns[-1]), played)
    draw_films([[shot]], args.out, title=headline(config.env, task), pace=pace)
    recorder.env.call("close")
    print(f"written to {args.out}")
