"""Render adapted policies: paths as a picture, or moving as a video.

``metarl render runs/quick --out paths.png``
"""

import json
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Literal

import tyro

from metarl.core.seeding import torch_generator
from metarl.experiments.maml_trpo import MAMLTRPO, build
from metarl.loading import load
from metarl.render import Panel, paths_figure, paths_video, positions
from metarl.rl.episodes import mean_return
from metarl.rl.evaluate import paper_tasks
from metarl.rl.setup import paper_loop


@dataclass(frozen=True)
class Render:
    """Show the policies of one or more runs before and after adaptation, side by side."""

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders; each is a row."""
    out: Path
    """File to write: .png, .pdf or .svg draws paths, .mp4 films them."""
    task: str | None = None
    """Task as JSON, such as '{"goal": [0.3, -0.4]}'; by default held-out tasks."""
    inner_steps: int = 3
    """Adaptation steps shown."""
    inner_lr: tuple[float, ...] = ()
    """Step sizes, one per run; by default those of the runs."""
    num_tasks: int = 3
    """Held-out tasks in a picture; a video shows one."""
    episodes_per_task: int = 40
    """Episodes that each adaptation step learns from."""
    seed: int = 1
    """Seed of tasks and episodes."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the policy lives."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        if not self.runs:
            raise ValueError("render needs a run folder: metarl render RUN --out FILE")
        if self.inner_lr and len(self.inner_lr) != len(self.runs):
            raise ValueError(
                f"--inner-lr needs one step size per run: {len(self.runs)}, "
                f"got {len(self.inner_lr)}"
            )
        for name, low in (("inner_steps", 0), ("num_tasks", 1), ("episodes_per_task", 1)):
            if getattr(self, name) < low:
                flag = "--" + name.replace("_", "-")
                raise ValueError(f"{flag} must be at least {low}, got {getattr(self, name)}")
        kinds = (*PICTURES, *VIDEOS)
        if self.out.suffix not in kinds:
            raise ValueError(f"--out must end in one of {', '.join(kinds)}, got {self.out}")


PICTURES = (".png", ".pdf", ".svg")
VIDEOS = (".mp4",)


def main(args: Render) -> None:
    """Adapt, roll out and draw."""
    film = args.out.suffix in VIDEOS
    rows = [panels(args, folder, index, film=film) for index, folder in enumerate(args.runs)]
    args.out.parent.mkdir(parents=True, exist_ok=True)
    if film:
        paths_video([row[0] for row in rows], args.out)
    else:
        paths_figure(rows, args.out)
    print(f"written to {args.out}")


def panels(args: Render, folder: Path, index: int, *, film: bool) -> list[Panel]:
    """Adapt one run to every task shown."""
    loaded = load(MAMLTRPO, folder, device=args.device)
    if loaded.config.env != "metarl/Navigation2D-v0":
        raise ValueError(f"render draws paths on the plane; {folder} ran {loaded.config.env}")
    num_tasks = 1 if args.task or film else args.num_tasks
    parts = build(loaded.config, num_tasks=num_tasks, episodes=args.episodes_per_task)
    try:
        given = [json.loads(args.task)] if args.task else []
    except json.JSONDecodeError as error:
        raise ValueError(
            f"--task must be JSON such as '{{\"goal\": [0.3, -0.4]}}', got {args.task!r}: {error}"
        ) from None
    tasks = given or paper_tasks(parts.sampler, args.seed)
    rate = args.inner_lr[index] if args.inner_lr else loaded.config.inner_lr
    device = parts.sampler.device
    task, _ = parts.sampler.collect(
        parts.policy,
        paper_loop(loaded.config, parts.loop, num_steps=args.inner_steps, rate=rate),
        loaded.params,
        tasks,
        torch_generator(args.seed, 0, "render", device=device),
        parts.process,
    )
    batches = (*task.support, task.query)
    return [
        Panel(
            f"{folder.name}, goal ({description['goal'][0]:.2f}, {description['goal'][1]:.2f})",
            description["goal"],
            [positions(batch, number) for batch in batches],
            [float(mean_return(batch)[number]) for batch in batches],
        )
        for number, description in enumerate(tasks)
    ]


if __name__ == "__main__":
    main(tyro.cli(Render))
