"""``metarl benchmark scaling``: one iteration shared by 1, 2, ... processes of one thread each.

It starts this file under ``torchrun`` once for each number of processes, all on the same cores.
"""

import json
import os
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

import torch
import torch.distributed as dist

from metarl.commands.measures.rl import collect, update_seconds
from metarl.core.speed import processes
from metarl.experiments.meta_rl import Parts, build, config_class
from metarl.util.measuring import Figures, median


CHEETAH: dict[str, Any] = {
    "env": "metarl/HalfCheetahDir-v1", "num_tasks": 40, "episodes_per_task": 20,
    "hidden": (100, 100), "inner_lr": 0.1, "output_gain": 1.0, "device": "cpu",
}  # fmt: skip


def measure_scaling(repeats: int, *, processes: int) -> tuple[str, Figures]:
    """Measure sampling and update of MAML-TRPO on half-cheetahs at the papers' scale."""
    figures: Figures = {}
    for number in range(1, processes + 1):
        found = _start(number, repeats)
        name = f"{number} process{'es' * (number > 1)}"
        figures[f"sampling, {name} (s)"] = found["sampling"]
        figures[f"update, {name} (s)"] = found["update"]
        figures[f"iteration, {name} (s)"] = found["sampling"] + found["update"]
        if number > 1:
            whole = figures["iteration, 1 process (s)"]
            figures[f"part of the time of one, {name} ()"] = (
                figures[f"iteration, {name} (s)"] / whole
            )
            figures[f"sent by each, {name} (kB)"] = found["bytes"] / 1000
    title = (
        f"{CHEETAH['env']}: {CHEETAH['num_tasks']} tasks x {CHEETAH['episodes_per_task']} "
        "episodes, processes of one thread, each on a core of its own"
    )
    return title, figures


def _start(processes: int, repeats: int) -> dict[str, float]:
    with tempfile.TemporaryDirectory() as folder:
        out = Path(folder) / "figures.json"
        argv = [sys.executable, "-m", "torch.distributed.run", "--nproc-per-node", str(processes)]
        argv += ["--standalone", "-m", "metarl.commands.measures.scaling"]
        done = subprocess.run(
            [*argv, str(repeats), str(out)],
            env=os.environ | {"OMP_NUM_THREADS": "1"}, capture_output=True, text=True,
        )  # fmt: skip
        if done.returncode:
            raise RuntimeError(f"{processes} processes failed: {done.stderr.strip()[-300:]}")
        found: dict[str, float] = json.loads(out.read_text())
        return found


def _measure(repeats: int) -> dict[str, float]:
    """Measure in one of the processes."""
    parts = build(config_class("maml-trpo")(**CHEETAH))
    sampling = median(lambda: collect(parts), repeats)
    update, _ = update_seconds(parts, repeats)
    return {"sampling": sampling, "update": update, "bytes": _bytes_of_an_iteration(parts)}


def _bytes_of_an_iteration(parts: Parts) -> float:
    """Count what one process hands to the sums over all, in one iteration."""
    sent, reduce = 0, dist.all_reduce

    def counted(values: torch.Tensor, *args: Any) -> None:
        nonlocal sent
        sent += values.numel() * values.element_size()
        reduce(values, *args)

    dist.all_reduce = counted  # type: ignore[assignment]
    try:
        batch = collect(parts)
        parts.learner.step(parts.learner.init(parts.params), batch)
    finally:
        dist.all_reduce = reduce
    return float(sent)


def _own_core() -> None:
    """Stay on one core, which says how many threads physics and operators take."""
    if hasattr(os, "sched_setaffinity"):
        cores = sorted(os.sched_getaffinity(0))
        os.sched_setaffinity(0, {cores[int(os.environ["LOCAL_RANK"]) % len(cores)]})
    os.environ["LOCAL_WORLD_SIZE"] = "1"
    torch.set_num_threads(1)


if __name__ == "__main__":
    _own_core()
    with processes.joined():
        figures = _measure(int(sys.argv[1]))
        if processes.writes():
            Path(sys.argv[2]).write_text(json.dumps(figures))
