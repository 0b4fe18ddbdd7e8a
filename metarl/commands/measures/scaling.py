"""Measurement of the iteration time of distributed training with 1, 2, ... processes.

Each process has one thread.
"""

import os
from functools import partial
from typing import Any
from unittest import mock

import torch
import torch.distributed as dist
from torch.distributed.elastic.multiprocessing.errors import ChildFailedError
from torch.distributed.launcher.api import LaunchConfig, elastic_launch

from metarl.commands.benchmark import Benchmark, Case
from metarl.commands.measures import rl
from metarl.core.speed import processes
from metarl.experiments import settings
from metarl.experiments.meta_rl import MetaRL
from metarl.util import Figures, median


CHEETAH: dict[str, Any] = rl.CHEETAH | {
    "env": "metarl/HalfCheetahDir-v1", "episodes_per_task": 20, "output_gain": 1.0, "device": "cpu",
}  # fmt: skip


def scaling(args: Benchmark) -> list[Case]:
    """Return the benchmark case for MAML-TRPO on HalfCheetahDir-v1: 40 tasks, 800 episodes."""
    title = (
        f"{CHEETAH['env']}: {CHEETAH['num_tasks']} tasks x {CHEETAH['episodes_per_task']} "
        "episodes, processes with one thread, each on a separate core"
    )
    return [Case(title, partial(by_number, args.processes, args.repeats))]


def by_number(most: int, repeats: int) -> Figures:
    """Measure the time of an iteration with 1, 2, ..., `most` processes.

    Args:
        most: Maximum number of processes.
        repeats: Number of timed repetitions.

    Returns:
        Median times of sampling, the update and the whole iteration in
        seconds. For two or more processes, the result also contains the
        iteration time as a fraction of the time with one process, and the
        number of kilobytes that each process sends per iteration.
    """
    figures: Figures = {}
    for number in range(1, most + 1):
        found = _start(number, repeats)
        name = "1 process" if number == 1 else f"{number} processes"
        whole = found["sampling"] + found["update"]
        figures[f"sampling, {name} (s)"] = found["sampling"]
        figures[f"update, {name} (s)"] = found["update"]
        figures[f"iteration, {name} (s)"] = whole
        if number > 1:
            alone = figures["iteration, 1 process (s)"]
            figures[f"part of the time of one, {name} ()"] = whole / alone
            figures[f"sent by each, {name} (kB)"] = found["bytes"] / 1000
    return figures


def _start(number: int, repeats: int) -> Figures:
    """Run :func:`measure` in `number` distributed processes and return the result of rank 0."""
    launch = LaunchConfig(
        1, 1, number, run_id="metarl", rdzv_backend="c10d", rdzv_endpoint="localhost:0"
    )
    try:
        found: Figures = elastic_launch(launch, measure)(repeats)[0]
    except ChildFailedError as error:
        raise RuntimeError(
            f"the measurement with {number} processes failed; see the error printed above"
        ) from error
    return found


def measure(repeats: int) -> Figures:
    """Measure the times of sampling and the update on one rank of a process group.

    Args:
        repeats: Number of timed repetitions.

    Returns:
        Median times in seconds, and the number of bytes that this process sends per iteration.
    """
    _own_core()
    with processes.joined():
        experiment = MetaRL(settings("maml-trpo", **CHEETAH))
        sampling = median(lambda: rl.collect(experiment), repeats)
        update, _ = rl.update_seconds(experiment, repeats)
        return {"sampling": sampling, "update": update, "bytes": _bytes_sent(experiment)}


def _bytes_sent(experiment: MetaRL) -> float:
    """Return the number of bytes that this process passes to all-reduce in one iteration."""
    with mock.patch.object(dist, "all_reduce", wraps=dist.all_reduce) as spy:
        experiment.learner(1).step(experiment.init(), rl.collect(experiment))
    return float(sum(call.args[0].nbytes for call in spy.call_args_list))


def _own_core() -> None:
    """Pin this process to one core, and limit the physics and torch to one thread."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    torch.set_num_threads(1)
