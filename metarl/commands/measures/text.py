"""The meta-step of LEOPARD, measured by ``metarl benchmark text``."""

import sys
from pathlib import Path
from typing import Any

import torch
from torch.utils.flop_counter import FlopCounterMode

from metarl.core.seeding import torch_generator
from metarl.core.types import MetaLearner, MetaState, Task
from metarl.experiments import text
from metarl.text.files import Row, TextTask
from metarl.util.measuring import Figures, median


WAYS = 3
MEMORY = "peak memory of the process (MB)"
PRODUCTS = "matrix products of a meta-step (GFLOP)"


def measure_text(repeats: int, *, device: Any) -> tuple[str, Figures]:
    """Measure a meta-step of LEOPARD; the sentences are noise as long as --max-length."""
    config = text.complete(text.TextConfig(device=device, tasks="noise"))
    parts = text.build(config, sources=[_noise()])
    learner, state = parts.learner(1), parts.init()
    generator = torch_generator(0, 0, "benchmark", device=parts.device)
    tasks: Any = parts.draw(config.num_tasks or 1, generator)
    figures = {
        "meta-step (s)": median(lambda: learner.step(state, tasks), repeats),
        PRODUCTS: _products(learner, state, tasks) / 1e9,
        MEMORY: _peak_memory(parts.device) / 1e6,
    }
    title = (
        f"text: LEOPARD, {config.num_tasks} tasks x {WAYS} ways x {config.num_shots} shots, "
        f"{config.max_length} tokens, {Path(config.encoder).name}, top {config.top_layers} layers"
    )
    return title, figures


def _noise() -> TextTask:
    generator = torch.Generator().manual_seed(0)
    letters = torch.randint(ord("a"), ord("z") + 1, (WAYS, 20, 400), generator=generator)
    letters[..., ::6] = ord(" ")
    rows = [
        Row("".join(map(chr, sentence)), "", str(label))
        for label, sentences in enumerate(letters.tolist())
        for sentence in sentences
    ]
    return TextTask("noise", tuple(map(str, range(WAYS))), {}, tuple(rows), ())


def _products(learner: MetaLearner, state: MetaState, tasks: list[Task]) -> float:
    """Count the floating-point operations of the matrix products, one task after the other."""
    counter = FlopCounterMode(display=False)
    with counter:  # sees its own thread alone, where a task without others is worked on
        for task in tasks:
            learner.step(state, [task])
    return float(counter.get_total_flops())


def _peak_memory(device: torch.device) -> float:
    """Return the most memory that was held so far, in bytes: of the device, or of the process."""
    if device.type == "cuda":
        return float(torch.cuda.max_memory_allocated(device))
    import resource  # Windows has none

    unit = 1 if sys.platform == "darwin" else 1024
    return float(unit * resource.getrusage(resource.RUSAGE_SELF).ru_maxrss)
