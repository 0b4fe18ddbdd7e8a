"""Train with Stable-Baselines3 on one task, or on all of them as an oracle that sees the task.

``metarl train sb3 --algo ppo --env metarl/HalfCheetahDir-v1 --task '{"direction": -1}' --out DIR``
"""

import math
import time
from dataclasses import dataclass, replace
from typing import Any, Literal, NamedTuple, cast

import tyro

from metarl.core import tree
from metarl.core.seeding import numpy_generator, seed_sequence, torch_generator
from metarl.core.speed import processes
from metarl.rl.episodes import Rollout, mean_return
from metarl.rl.sampler import Sampler, TaskDescription, make_sampler
from metarl.rl.tasks import read_task
from metarl.runs.config import RunConfig, require, to_json
from metarl.runs.folder import Run
from metarl.runs.media import Media
from metarl.runs.stopping import Stopped, StopSignal
from metarl.runs.trackers import require_tracker, tracker
from metarl.sb3 import checkpoint as sb3_checkpoint
from metarl.sb3.environments import sb3_env
from metarl.sb3.models import advance, make_model
from metarl.sb3.policies import NO_PARAMS, policy_of
from metarl.util import optional
from metarl.util.console import Progress
from metarl.util.device import resolve_device
from metarl.util.ranges import at_least, between, greater_than


@dataclass(frozen=True)
class SB3(RunConfig):
    """Train a policy with Stable-Baselines3: on the task given, or on all tasks.

    With --observe-task and no --task it is the oracle: each episode draws a task, and the policy
    sees it. With neither it is pretrained on all tasks. Settings that are no flags are SB3's, but
    for PPO's rollouts of whole episodes, a gradient step of SAC and TD3 for every environment step,
    and the noise that TD3 explores with.

    `metarl resume` goes on exactly, on a CPU: every iteration begins with new episodes, and its
    random numbers come from the seed and its number, so that no generator has to be saved.
    """

    iterations: int = 20
    """Evaluations, each after --eval-every environment steps."""
    eval_every: int = 10_000
    """Environment steps between evaluations; PPO finishes its rollout first."""
    total_steps: int | None = None
    """Environment steps of the whole run, instead of --iterations; rounded up to an evaluation."""
    algo: Literal["ppo", "a2c", "sac", "td3"] = "ppo"
    """Algorithm; sac and td3 need continuous actions."""
    env: str = "metarl/Navigation2D-v0"
    """Gymnasium id of an environment with tasks."""
    task: str | None = None
    """Task as JSON, such as '{"direction": -1}'; by default every episode draws one."""
    observe_task: bool = False
    """Append the task to the observation."""
    num_envs: int = 16
    """Environments that step together."""
    episodes: int = 20
    """Episodes of an evaluation, without exploration; without --task, each of a task of its own."""
    hidden: tuple[int, ...] | None = None
    """Widths of the hidden layers; by default SB3's: 64 64 for ppo and a2c, larger for others."""
    learning_rate: float | None = None
    """Step size; by default SB3's."""
    discount: float = 0.99
    """Discount factor of rewards."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Where the networks live; small ones are fastest on the CPU."""
    checkpoint_every: int = 1
    """Evaluations between checkpoints."""
    log_every: tyro.conf.Suppress[int] = 1

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        require(self, at_least(1), "eval_every", "total_steps", "num_envs", "episodes", "hidden")
        require(self, greater_than(0), "learning_rate")
        require(self, between(0, 1), "discount")
        if self.total_steps is not None:  # from here on --iterations says it
            object.__setattr__(self, "iterations", math.ceil(self.total_steps / self.eval_every))
            object.__setattr__(self, "total_steps", None)
        super().__post_init__()


class Parts(NamedTuple):
    """What a configuration means: a model, what evaluates it, and the task if there is but one."""

    model: Any
    sampler: Sampler
    task: TaskDescription | None

    def play(self, tasks: list[TaskDescription], *, seed: int, explore: bool = False) -> Rollout:
        """Play the episodes of an evaluation."""
        if explore:  # by draws from the global generators
            self.model.set_random_seed(seed)
        policy = policy_of(self.model, deterministic=not explore)
        generator = torch_generator(seed, 0, "evaluation")
        return self.sampler.rollout(policy, tree.expand(NO_PARAMS, len(tasks)), tasks, generator)


def build(config: SB3, *, num_tasks: int | None = None, episodes: int = 1) -> Parts:
    """Build an untrained model, and what evaluates it.

    Args:
        config: The settings.
        num_tasks: Tasks of an evaluation, instead of one for each of the run's episodes.
        episodes: Episodes of each.
    """
    optional.require("stable_baselines3", extra="sb3", purpose="runs of `metarl train sb3`")
    options: dict[str, Any] = {"observe_task": True} if config.observe_task else {}
    rows = config.episodes if num_tasks is None else num_tasks
    sampler = make_sampler(config.env, num_tasks=rows, episodes_per_task=episodes, **options)
    task = None if config.task is None else read_task(config.task, sampler)
    model = make_model(
        config.algo,
        sb3_env(config.env, num_envs=config.num_envs, task=task, **options),
        horizon=sampler.horizon,
        seed=seed_of(config, 0),
        discount=config.discount,
        hidden=config.hidden,
        learning_rate=config.learning_rate,
        device=resolve_device(config.device),
    )
    return Parts(model, sampler, task)


def seed_of(config: SB3, iteration: int) -> int:
    """Return the seed of SB3's generators in one iteration."""
    return int(seed_sequence(config.seed, iteration, "sb3").generate_state(1)[0] >> 1)


def main(config: SB3) -> None:
    """Start a run."""
    require_tracker(config.track)
    require_alone()
    config = replace(config, device=cast(Any, resolve_device(config.device).type))
    parts = build(config)
    untrained = evaluate(config, parts)  # before there is a folder: it finds what is wrong
    with Run.create(config.out, "sb3", to_json(config)) as run:
        begin(run, parts, untrained)
        train(config, parts, run, start=0)


def require_alone() -> None:
    """Refuse to share a run with other processes."""
    processes.require_alone("runs of Stable-Baselines3")


def begin(run: Run, parts: Parts, untrained: dict[str, float]) -> None:
    """Write down the untrained model and what it earns."""
    if not run.metrics():  # a process may have died after this line
        run.log(0, {"env/steps": 0.0, **untrained})
    sb3_checkpoint.save(run, parts.model, 0)


def train(config: SB3, parts: Parts, run: Run, *, start: int) -> None:
    """Train from iteration `start` + 1 on; all randomness comes from (seed, iteration)."""
    model, log = parts.model, tracker(config.track, run, start=start)
    media = Media(run, config, log)
    with log, Progress(config.iterations, start=start) as progress, StopSignal() as stop:
        for iteration in range(start + 1, config.iterations + 1):
            began, before = time.perf_counter(), model.num_timesteps
            advance(model, iteration * config.eval_every, seed=seed_of(config, iteration))
            trained = {
                "env/steps": float(model.num_timesteps - before),
                "time/training": time.perf_counter() - began,
            }
            values = trained | evaluate(config, parts)
            run.log(iteration, values)
            stops = stop.asked if iteration < config.iterations else None
            due = iteration % config.checkpoint_every == 0 or iteration == config.iterations
            if due or stops:
                sb3_checkpoint.save(run, model, iteration)
                run.forget_checkpoints(config.keep_checkpoints)
            log.log(iteration, values)
            progress.update(iteration, values)
            if stops:
                raise Stopped(stops, iteration, run.folder)
            media.update(iteration)


def copy_checkpoint(run: Run, config: SB3, new: Run, new_config: SB3, iteration: int) -> None:
    """Copy the tensors of a checkpoint into another run, without pickles."""
    del config, new_config
    sb3_checkpoint.copy(run, new, iteration)


def evaluate(config: SB3, parts: Parts) -> dict[str, float]:
    """Return the mean return; the tasks and the starts are the same in every evaluation."""
    began = time.perf_counter()
    drawn = parts.sampler.sample_tasks(numpy_generator(config.seed, 0, "evaluation"))
    tasks = drawn if parts.task is None else [parts.task] * len(drawn)
    earned = mean_return(parts.play(tasks, seed=config.seed)).mean().item()
    # Called as the return of a meta-learned policy that has taken no step: nothing adapts here.
    return {"return/step_0": earned, "time/evaluation": time.perf_counter() - began}
