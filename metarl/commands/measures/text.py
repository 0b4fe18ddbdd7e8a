"""Measurement of the time and the peak memory of a LEOPARD meta-step."""

from functools import partial
from pathlib import Path
from typing import Any

from torch.utils.flop_counter import FlopCounterMode

from metarl.commands.benchmark import Benchmark, Case
from metarl.experiments import settings
from metarl.experiments.text import TextClassification
from metarl.text import Row, TextTask
from metarl.util import Figures, median, peak_memory


LABELS = ("0", "1", "2")
# The sentences are longer than max_length. All sentences differ, because equal rows are merged.
NOISE = tuple(
    Row(f"noise {label} {index} " * 100, "", label) for label in LABELS for index in range(20)
)


def text(args: Benchmark) -> list[Case]:
    """Return the benchmark case for LEOPARD with the default settings of ``metarl train text``."""
    experiment = TextClassification(settings("text", device=args.device, tasks="noise"))
    config = experiment.config
    experiment.parts = experiment.built([TextTask("noise", LABELS, {}, NOISE, ())])
    shape = f"{config.num_tasks} tasks x {len(LABELS)} ways x {config.num_shots} shots"
    title = (
        f"text: LEOPARD, {shape}, {config.max_length} tokens, {Path(config.encoder).name}, "
        f"top {config.top_layers} layers"
    )
    return [Case(title, partial(meta_step, experiment, args.repeats))]


def meta_step(experiment: TextClassification, repeats: int) -> Figures:
    """Measure the time, the matrix-product FLOPs and the peak memory of a LEOPARD meta-step.

    Args:
        experiment: Experiment that samples the tasks and defines the meta-step.
        repeats: Number of timed repetitions.

    Returns:
        The median time in seconds, GFLOP per meta-step and the peak memory in MB, by name.
    """
    learner, state = experiment.learner(1), experiment.init()
    tasks: Any = experiment.draw(state, 0)[0]
    seconds = median(lambda: learner.step(state, tasks), repeats)
    counter = FlopCounterMode(display=False)
    with counter:  # counts only this thread, which computes a single task
        for task in tasks:
            learner.step(state, [task])
    return {
        "meta-step (s)": seconds,
        "matrix products of a meta-step (GFLOP)": counter.get_total_flops() / 1e9,
        "peak memory of the process (MB)": peak_memory(experiment.device) / 1e6,
    }
