"""Render adapted policies: paths on the plane, or a robot before and after, as picture or video.

``metarl render runs/quick --out paths.png``
"""

from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any, Literal, NamedTuple

import tyro

from metarl.core.adapt import InnerLoop
from metarl.core.seeding import torch_generator
from metarl.drawing.film import adapted_path, choose_pace, film, make_recorder
from metarl.drawing.panels import Shot, draw_films, headline, label
from metarl.drawing.paths import panels, paths_figure, paths_video
from metarl.drawing.video import SUFFIXES, require_video
from metarl.experiments.launch import experiment_of, require_fitting, require_policy
from metarl.experiments.meta_rl import paper_loop
from metarl.rl.episodes import Episodes, mean_return
from metarl.rl.evaluate import paper_tasks
from metarl.rl.policies import Policy
from metarl.rl.sampler import TaskDescription
from metarl.rl.tasks import read_task
from metarl.runs.config import require
from metarl.runs.folder import Run
from metarl.runs.loading import Loaded, load
from metarl.util.device import resolve_device
from metarl.util.optional import pyplot
from metarl.util.output import require_writable
from metarl.util.ranges import at_least


PLANE = "metarl/Navigation2D-v0"
PICTURES = (".png", ".pdf", ".svg")


@dataclass(frozen=True)
class Render:
    """Show the policies of one or more runs before and after adaptation, side by side.

    Runs on the plane are drawn as the paths of several episodes; those of any other environment
    are played: one episode from the same start, with the same noise, for each number of steps.
    """

    runs: Annotated[tuple[Path, ...], tyro.conf.Positional]
    """Run folders of one environment; each is a row."""
    out: Path
    """File to write: .png, .pdf or .svg is a picture, .mp4 or .gif a video."""
    task: str | None = None
    """Task as JSON, such as '{"direction": -1}'; by default test tasks."""
    inner_steps: int | None = None
    """Adaptation steps shown; by default 3 on the plane, elsewhere as many as in training."""
    inner_lr: tuple[float, ...] = ()
    """Step sizes, one per run; by default those of the runs."""
    num_tasks: int = 3
    """Test tasks in a picture of paths; everything else shows one."""
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
            wanted, got = len(self.runs), len(self.inner_lr)
            raise ValueError(f"--inner-lr needs one step size per run: {wanted}, got {got}")
        require(self, at_least(0), "inner_steps", "inner_lr")
        require(self, at_least(1), "num_tasks", "episodes_per_task")
        if self.out.suffix not in (kinds := (*PICTURES, *SUFFIXES)):
            raise ValueError(f"--out must end in one of {', '.join(kinds)}, got {self.out}")


class Adapted(NamedTuple):
    """A run that adapted to tasks: its policy, its loop, episodes after 0, 1, ..., K steps."""

    policy: Policy
    loop: InnerLoop
    tasks: list[TaskDescription]
    batches: list[Episodes]


def main(args: Render) -> None:
    """Adapt, play and draw."""
    for folder in args.runs:
        require_policy(folder)
    runs = [_load(folder, args.device) for folder in args.runs]
    envs = sorted({run.config.env for run in runs})
    if len(envs) > 1:
        raise ValueError(f"render shows one environment at a time, not {' and '.join(envs)}")
    require_writable(args.out)
    (require_video if args.out.suffix in SUFFIXES else pyplot)()
    (draw_paths if envs == [PLANE] else draw_episodes)(args, runs)
    print(f"written to {args.out}")


def draw_paths(args: Render, runs: list[Loaded[Any]]) -> None:
    """Draw paths of several episodes: on one task in a video, on several in a picture."""
    moving, rows = args.out.suffix in SUFFIXES, []
    for index, run in enumerate(runs):
        done = adapt(args, run, index, num_tasks=1 if moving else args.num_tasks, steps=3)
        rows.append(panels(args.runs[index].name, done.tasks, done.batches))
    if moving:
        paths_video([row[0] for row in rows], args.out)
    else:
        paths_figure(rows, args.out)


def draw_episodes(args: Render, runs: list[Loaded[Any]]) -> None:
    """Play one episode on one task before and after adaptation."""
    rows = []
    for index, run in enumerate(runs):
        options = {"observe_task": True} if run.config.observe_task else {}
        recorder = make_recorder(run.config.env, device=resolve_device(args.device), **options)
        pace = choose_pace(recorder, args.out.suffix)
        done = adapt(args, run, index, steps=max(run.config.inner_steps, 0 if options else 1))
        path = adapted_path(done.loop, run.params, done.batches)
        films = film(recorder, done.policy, path, done.tasks[0], seed=args.seed, every=pace.every)
        recorder.env.call("close")  # before the next one opens a window
        name = f"{args.runs[index].name}, " if len(runs) > 1 else ""
        rows.append([
            Shot(name + label(steps), float(mean_return(batch)[0]), shown)
            for steps, (batch, shown) in enumerate(zip(done.batches, films, strict=True))
        ])  # fmt: skip
    draw_films(rows, args.out, title=headline(runs[0].config.env, done.tasks[0]), pace=pace)


def adapt(args: Render, run: Loaded[Any], index: int, *, steps: int, num_tasks: int = 1) -> Adapted:
    """Adapt a run to the task asked for, or to test tasks, as the evaluation does."""
    num_tasks = 1 if args.task else num_tasks
    experiment, _ = experiment_of(run.run)
    parts = experiment.build(run.config, num_tasks=num_tasks, episodes=args.episodes_per_task)
    require_fitting(parts, run.params)
    given = [read_task(args.task, parts.sampler)] if args.task else []
    tasks = given or paper_tasks(parts.sampler, args.seed)
    rate = args.inner_lr[index] if args.inner_lr else run.config.inner_lr
    steps = steps if args.inner_steps is None else args.inner_steps
    loop = paper_loop(run.config, parts.loop, num_steps=steps, rate=rate)
    generator = torch_generator(args.seed, 0, "render", device=parts.sampler.device)
    done, _ = parts.sampler.collect(parts.policy, loop, run.params, tasks, generator, parts.process)
    return Adapted(parts.policy, loop, tasks, [*done.support, done.query])


def _load(folder: Path, device: str) -> Loaded[Any]:
    _, kind = experiment_of(Run.open(folder))
    return load(kind, folder, device=device)
