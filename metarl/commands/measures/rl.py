"""Measurements of the time of a trust-region update, and of the sampling speed.

The sampling speed is compared with the speed of MuJoCo's physics without a policy.
"""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from typing import Any

import mujoco
import numpy as np

from metarl.commands.benchmark import Benchmark, Case
from metarl.core import Task, numpy_generator, torch_generator, tree
from metarl.envs.batched_locomotion import BatchedLocomotion
from metarl.experiments import settings
from metarl.experiments.meta_rl import MetaRL
from metarl.util import Figures, median


# The sizes that papers and other implementations report: half-cheetahs, and 2D navigation.
CHEETAH: dict[str, Any] = {"num_tasks": 40, "hidden": (100, 100), "inner_lr": 0.1}
SIZES: dict[str, dict[str, Any]] = {
    "metarl/Navigation2D-v0": {"num_tasks": 20, "hidden": (64, 64), "activation": "tanh"},
}
RAW = "raw mj_step (steps/s)"


def sampling(args: Benchmark) -> list[Case]:
    """Return one sampling measurement for each environment in ``args.env``."""
    return [_case(sampling_speed, args, env) for env in args.env]


def update(args: Benchmark) -> list[Case]:
    """Return one update measurement for each environment and Fisher fraction in `args`."""
    parts = args.fisher_fraction
    return [_case(update_speed, args, env, fisher_fraction=f) for env in args.env for f in parts]


def _case(measure: Callable[[MetaRL, int], Figures], args: Benchmark, env: str, **own: Any) -> Case:
    given = {"num_tasks": args.num_tasks, "hidden": args.hidden}
    sizes = SIZES.get(env, CHEETAH) | {name: value for name, value in given.items() if value}
    config = settings(
        "maml-trpo", env=env, episodes_per_task=args.episodes_per_task, device=args.device,
        output_gain=1.0, **sizes, **own,
    )  # fmt: skip
    experiment = MetaRL(config)
    shape = f"{config.num_tasks} tasks x {config.episodes_per_task} episodes"
    network = f"{'x'.join(map(str, config.hidden))} {config.activation}"
    title = f"{env}: {shape} x {experiment.parts.sampler.horizon} steps, {network}"
    if (fraction := own.get("fisher_fraction", 1)) != 1:
        title += f", Fisher on {fraction:.0%} of the episodes"
    return Case(title, partial(measure, experiment, args.repeats))


def sampling_speed(experiment: MetaRL, repeats: int) -> Figures:
    """Measure the environment steps per second with the policy, without the policy and in MuJoCo.

    Args:
        experiment: Experiment that defines the environment and the policy.
        repeats: Number of timed repetitions.

    Returns:
        Median speeds in steps per second, by name. For robots, the result also contains the speed
        of MuJoCo, and the speed with the policy as a percentage of the speed of MuJoCo.
    """
    parts, sampler = experiment.parts, experiment.parts.sampler
    env = sampler.env
    params = tree.expand(parts.loop.init(parts.params).model, sampler.num_tasks)
    # Each task has separate parameters, as after adaptation.
    params = {name: p.contiguous().to(sampler.device) for name, p in params.items()}
    tasks = sampler.sample_tasks(numpy_generator(0, 0, "benchmark"))

    def closed_loop() -> Any:
        generator = torch_generator(0, 0, "benchmark", device=sampler.device)
        return sampler.rollout(parts.policy, params, tasks, generator)

    rollout = closed_loop()
    actions = rollout.actions.transpose(0, 1).flatten(1, 2).numpy(force=True)  # (time, rows, nu)

    def environment_only() -> None:
        env.reset(seed=list(range(env.num_envs)))
        for action in actions:
            env.step(action)

    work: dict[str, Callable[[], Any]] = {"closed-loop sampling (steps/s)": closed_loop}
    work["environment only (steps/s)"] = environment_only
    if isinstance(env, BatchedLocomotion):
        work[RAW] = partial(raw_physics, env, actions)
    environment_only()
    # Alternate the measurements and compute ratios per turn, because the machine's speed varies.
    turns = [[median(once, 1, warm_up=False) for once in work.values()] for _ in range(repeats)]
    speeds = int(rollout.mask.sum()) / np.array(turns)
    figures: Figures = dict(zip(work, np.median(speeds, 0).tolist(), strict=True))
    if RAW in work:
        figures["closed loop / raw (%)"] = 100 * float(np.median(speeds[:, 0] / speeds[:, -1]))
    return figures


def raw_physics(env: BatchedLocomotion, actions: Any) -> None:
    """Simulate recorded actions with MuJoCo's ``mj_step`` only.

    Args:
        env: Vectorized environment that defines the robot and the number of threads.
        actions: Actions of shape (time, num_envs, nu).
    """
    model, robot = env.model, env.formulas
    controls = robot.controls(robot.clip(actions))

    def play(rows: Any) -> None:
        data = mujoco.MjData(model)
        for row in rows:
            moved, velocity = robot.noise(np.random.default_rng(int(row)))
            mujoco.mj_resetData(model, data)
            data.qpos[:], data.qvel[:] = robot.init_qpos + moved, robot.init_qvel + velocity
            control = data.ctrl
            for values in np.ascontiguousarray(controls[:, row]):
                control[:] = values
                mujoco.mj_step(model, data, robot.frame_skip)

    with ThreadPoolExecutor(env.num_threads) as pool:
        list(pool.map(play, np.array_split(np.arange(env.num_envs), env.num_threads)))


def update_speed(experiment: MetaRL, repeats: int) -> Figures:
    """Measure the times for collecting a meta-batch and for a trust-region update.

    Args:
        experiment: Experiment that defines the environment, the policy and the update.
        repeats: Number of timed repetitions.

    Returns:
        Median times in seconds by name. The last entry is the time for tracing the first update.
    """
    collecting = median(lambda: collect(experiment), repeats)
    update, tracing = update_seconds(experiment, repeats)
    return {
        "collecting a meta-batch (s)": collecting,
        "trust-region update (s)": update,
        "one iteration (s)": collecting + update,
        "tracing, once per run (s)": tracing,
    }


def update_seconds(experiment: MetaRL, repeats: int) -> tuple[float, float]:
    """Measure the time of a trust-region update on one meta-batch.

    Args:
        experiment: Experiment that defines the environment, the policy and the update.
        repeats: Number of timed repetitions.

    Returns:
        The median time of an update, and the additional time of the first
        update, which is traced, both in seconds.
    """
    batch, learner = collect(experiment), experiment.learner(1)

    def step() -> None:
        _, metrics = learner.step(experiment.init(), batch)
        metrics["trpo/kl"].item()  # waits for an accelerator

    began = time.perf_counter()
    step()
    first = time.perf_counter() - began
    seconds = median(step, repeats)
    return seconds, max(0.0, first - seconds)  # noise can exceed the tracing of small networks


def collect(experiment: MetaRL) -> Task:
    """Return a meta-batch that is collected with the initial parameters of an experiment."""
    task: Task = experiment.draw(experiment.init(), 0)[0]
    return task
