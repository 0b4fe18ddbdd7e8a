"""Rendering of policies before and after adaptation, as images or videos."""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Annotated, Any, NamedTuple, TypeVar

from metarl.core import InnerLoop, MetaParams, Params, torch_generator
from metarl.drawing import (
    SUFFIXES,
    Pace,
    Recording,
    Shot,
    adapted_path,
    choose_pace,
    draw_recordings,
    headline,
    label,
    make_recorder,
    panels,
    paths_figure,
    paths_video,
    record_episodes,
)
from metarl.experiment import Experiment, Rendering
from metarl.experiments.environment_errors import creation_errors
from metarl.models import MetaPolicy
from metarl.rl import (
    Episodes,
    Policy,
    Sampler,
    TaskDescription,
    mean_return,
    paper_tasks,
    read_task,
)
from metarl.runs import unset
from metarl.util import Conflicts, at_least


Item = TypeVar("Item")
Rows = Sequence[tuple[Experiment[Any], MetaParams]]
"""The experiment and the meta-parameters of each run to render."""


@dataclass(frozen=True)
class RLRendering(Rendering):
    """Render the policies of one or more runs before and after adaptation, side by side.

    For Navigation2D-v0, the paths of several episodes are drawn. For other
    environments, one episode is recorded before adaptation and one after each
    adaptation step, with the same initial state and the same action noise.
    """

    inner_steps: Annotated[
        int | None, at_least(0), unset("3 for Navigation2D-v0, otherwise as in training")
    ] = None
    """Number of policy-gradient steps that adapt a policy to each task; for rl2, number of episodes
    before the last episode of a trial."""
    inner_lr: Annotated[tuple[float, ...], at_least(0)] = ()
    """Step sizes of the first adaptation step, one per run. If not set, each
    run uses the step size of its training."""
    num_tasks: Annotated[int, at_least(1)] = 3
    """Number of test tasks in an image of Navigation2D-v0; any other output shows one task."""
    episodes_per_task: Annotated[int, at_least(1)] = 40
    """Number of episodes per task before and after each adaptation step."""

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        wanted, got = len(self.runs), len(self.inner_lr)
        error = f"inner_lr must have one step size per run: expected {wanted}, got {got}"
        return [(got and wanted != got, error)]


class Adapted(NamedTuple):
    """A policy with the tasks and the episodes to render.

    Attributes:
        policy: The meta-trained policy.
        loop: Inner loop with K steps.
        tasks: The test tasks.
        batches: Episodes on all tasks after 0, 1, ..., K inner steps.
    """

    policy: MetaPolicy
    loop: InnerLoop
    tasks: list[TaskDescription]
    batches: list[Episodes]


def draw_paths(rows: Rows, options: RLRendering) -> None:
    """Draw the paths of several episodes in a plane, and write an image or a video.

    A video shows one task; an image shows ``options.num_tasks`` tasks.

    Args:
        rows: The experiment and the meta-parameters of each run.
        options: The flags of ``metarl render``.
    """
    moving, drawn = options.out.suffix in SUFFIXES, []
    for index in range(len(rows)):
        done = adapted(rows, options, index, steps=3, num_tasks=1 if moving else options.num_tasks)
        labels, batches = (shown(done, each) for each in (captions(done), done.batches))
        drawn.append(panels(options.runs[index].name, done.tasks, batches, labels=labels))
    if moving:
        paths_video([row[0] for row in drawn], options.out)
    else:
        paths_figure(drawn, options.out)


def draw_episodes(rows: Rows, options: RLRendering) -> None:
    """Record one episode before adaptation and after each inner step, and draw the recordings.

    Args:
        rows: The experiment and the meta-parameters of each run.
        options: The flags of ``metarl render``.
    """
    shots = []
    for index, (one, params) in enumerate(rows):
        recorder = recorder_of(one)  # fails early if the environment cannot be rendered
        usual = max(one.config.inner_steps, 0 if one.config.observe_task else 1)
        done = adapted(rows, options, index, steps=usual)
        path = [params.model] * len(done.batches)  # RL² adapts without changing its parameters
        if not done.policy.policy.trials:
            path = adapted_path(done.loop, params, done.batches)
        task = done.tasks[0]
        recordings, pace = play(recorder, done.policy.policy, path, task, options)
        name = f"{options.runs[index].name}, " if len(rows) > 1 else ""
        row = [
            Shot(name + caption, float(mean_return(batch)[0]), x)
            for caption, batch, x in zip(captions(done), done.batches, recordings, strict=True)
        ]
        shots.append(shown(done, row))
    draw_recordings(shots, options.out, title=headline(rows[0][0].config.env, task), pace=pace)


def captions(done: Adapted) -> list[str]:
    """Return a caption for each batch of episodes: episodes of RL² are counted from 1."""
    trials = done.policy.policy.trials
    return [f"episode {k + 1}" if trials else label(k) for k in range(len(done.batches))]


def shown(done: Adapted, each: list[Item]) -> list[Item]:
    """Return the items of the batches to draw: the first and the last episode of RL², or all."""
    return [each[0], *each[1:][-1:]] if done.policy.policy.trials else each


def recorder_of(one: Experiment[Any]) -> Sampler:
    """Return a sampler that records single episodes in the environment of the experiment `one`."""
    known = {"observe_task": True} if one.config.observe_task else {}
    with creation_errors(one.config.env):
        return make_recorder(one.config.env, device=one.device, **known)


def play(
    recorder: Sampler, policy: Policy, path: list[Params], task: TaskDescription, options: Rendering
) -> tuple[list[Recording], Pace]:
    """Record one episode on a task per set of policy parameters.

    Args:
        recorder: Sampler from :func:`recorder_of`. The environment is closed after recording.
        policy: The policy function.
        path: Policy parameters, one item per recording.
        task: Task description.
        options: Options for rendering; the output file and the seed are used.

    Returns:
        The recordings, and the frame rate.
    """
    pace = choose_pace(recorder, options.out.suffix)
    recordings = record_episodes(recorder, policy, path, task, seed=options.seed, every=pace.every)
    recorder.env.call("close")  # the next recorder opens a new window
    return recordings, pace


def adapted(
    rows: Rows, options: RLRendering, index: int, *, steps: int, num_tasks: int = 1
) -> Adapted:
    """Adapt the policy of a run to the task in `options`, or to test tasks if no task is set.

    Args:
        rows: Experiments and meta-parameters of all runs.
        options: The flags of ``metarl render``.
        index: Index of the run in `rows`.
        steps: Number of inner steps, used if `options` does not set the number.
        num_tasks: Number of test tasks, used if `options` does not set the task.

    Returns:
        The policy with the tasks, and the episodes after 0, 1, ..., K inner steps.
    """
    one, params = rows[index]
    num_tasks = 1 if options.task else num_tasks
    policy = one.model(params, num_tasks=num_tasks, episodes=options.episodes_per_task)
    sampler = policy.sampler
    tasks = tasks_shown(sampler, options, options.task)
    rate = options.inner_lr[index] if options.inner_lr else None
    loop = policy.loop(steps if options.inner_steps is None else options.inner_steps, rate)
    generator = torch_generator(options.seed, 0, "render", device=sampler.device)
    return Adapted(policy, loop, tasks, policy.play(loop, tasks, generator))


def tasks_shown(sampler: Sampler, options: Rendering, task: str | None) -> list[TaskDescription]:
    """Return the tasks to render.

    Args:
        sampler: Sampler of the environment, which validates the task or samples the test tasks.
        options: The flags of ``metarl render``; only the seed is used.
        task: A task as JSON text. None selects as many test tasks as the sampler has.

    Raises:
        ValueError: If the task is invalid.
    """
    return [read_task(task, sampler)] if task else paper_tasks(sampler, options.seed)
