"""How fast this machine samples and updates, beside what it could do at most."""

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from typing import Any

import mujoco
import numpy as np

from metarl.core import tree
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.core.types import Task
from metarl.envs.batched_locomotion import BatchedLocomotion
from metarl.experiments.meta_rl import Parts
from metarl.util.measuring import Figures, median


RAW = "raw mj_step (steps/s)"


def sampling(parts: Parts, repeats: int) -> Figures:
    """Measure closed-loop rollouts, the environment alone, and the physics of the same actions."""
    sampler = parts.sampler
    params = tree.expand(parts.loop.init(parts.params).model, sampler.num_tasks)
    # Each task has parameters of its own, as after adaptation.
    params = {name: p.contiguous().to(sampler.device) for name, p in params.items()}
    tasks = sampler.sample_tasks(numpy_generator(0, 0, "benchmark"))

    def closed_loop() -> Any:
        generator = torch_generator(0, 0, "benchmark", device=sampler.device)
        return sampler.rollout(parts.policy, params, tasks, generator)

    rollout = closed_loop()
    actions = rollout.actions.transpose(0, 1).flatten(1, 2).numpy(force=True)  # (time, rows, nu)
    steps = int(rollout.mask.sum())

    def environment_alone() -> None:
        sampler.env.reset(seed=list(range(sampler.env.num_envs)))
        for action in actions:
            sampler.env.step(action)

    work: dict[str, Callable[[], Any]] = {
        "closed-loop sampling (steps/s)": closed_loop,
        "environment alone (steps/s)": environment_alone,
    }
    if isinstance(sampler.env, BatchedLocomotion):
        env = sampler.env
        work[RAW] = lambda: raw_physics(env, actions)
    # In turns, and the ratio turn by turn: the machine is not the same from minute to minute.
    environment_alone()
    turns = [
        {name: steps / median(once, 1, warm_up=False) for name, once in work.items()}
        for _ in range(repeats)
    ]
    figures = {name: float(np.median([turn[name] for turn in turns])) for name in work}
    if RAW in work:
        ratios = [turn["closed-loop sampling (steps/s)"] / turn[RAW] for turn in turns]
        figures["closed loop / raw (%)"] = 100 * float(np.median(ratios))
    return figures


def raw_physics(env: BatchedLocomotion, actions: Any) -> None:
    """Apply recorded actions (time, rows, nu) with mj_step and nothing else, on as many threads."""
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


def update_seconds(parts: Parts, repeats: int) -> tuple[float, float]:
    """Measure the trust-region update on one meta-batch, and what its first call takes longer."""
    batch, learner = collect(parts), parts.learner

    def step() -> None:
        state = learner.init(parts.params, device=parts.sampler.device)
        learner.step(state, batch)[1]["trpo/kl"].item()  # waits for an accelerator

    began = time.perf_counter()
    step()
    first = time.perf_counter() - began
    seconds = median(step, repeats)
    return seconds, first - seconds


def collect(parts: Parts) -> Task:
    """Collect a meta-batch at the initial parameters."""
    sampler = parts.sampler
    state = parts.learner.init(parts.params, device=sampler.device)
    tasks = sampler.sample_tasks(numpy_generator(0, 0, "tasks"))
    generator = torch_generator(0, 0, "rollouts", device=sampler.device)
    return sampler.collect(parts.policy, parts.loop, state.params, tasks, generator, parts.process)[
        0
    ]
