"""The supervised half of ``metarl benchmark``."""

from collections.abc import Callable
from typing import Any

import torch

from metarl.commands.measures.meta_step import meta_step
from metarl.data.images import Classes, Splits
from metarl.experiments import fewshot, regression
from metarl.util.measuring import Figures


def measure_regression(repeats: int, *, device: Any, compiled: bool) -> tuple[str, Figures]:
    """Measure MAML on sinusoids at the paper's size."""
    config = regression.complete(regression.RegressionConfig(device=device))
    parts = regression.build(config)
    title = f"sinusoids: {config.num_tasks} tasks x 10 shots, 40x40 relu, second order"
    return title, meta_step(config, parts, repeats, compiled=compiled, calls=50)


def measure_fewshot(repeats: int, *, device: Any, compiled: bool) -> tuple[str, Figures]:
    """Measure MAML on 28x28 images, 5-way 1-shot, as on Omniglot; the images are noise."""
    config = fewshot.complete(fewshot.FewShotConfig(device=device))
    noise = torch.randint(0, 256, (400, 1, 28, 28), generator=torch.Generator().manual_seed(0))
    classes = Classes(noise.to(torch.uint8), (20,) * 20, tuple(map(str, range(20))))
    parts = fewshot.build(config, splits=Splits(classes, classes, classes))
    title = (
        f"images: {config.num_tasks} tasks x 5 ways x 1 shot, conv-4 of 64 filters, second order"
    )
    return title, meta_step(
        config, parts, repeats, compiled=compiled, chunk_size=fewshot.chunk_size(config)
    )


SUPERVISED: dict[str, Callable[..., tuple[str, Figures]]] = {
    "regression": measure_regression,
    "fewshot": measure_fewshot,
}
