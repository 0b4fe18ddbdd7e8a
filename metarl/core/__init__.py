"""The functional core that every method shares: torch only, pure, and without devices."""

from typing import TYPE_CHECKING

from metarl.util.lazy import attach


if TYPE_CHECKING:
    from metarl.core.adapt import *
    from metarl.core.estimators import *
    from metarl.core.inner import *
    from metarl.core.linalg import *
    from metarl.core.outer import *
    from metarl.core.parameters import *
    from metarl.core.seeding import *
    from metarl.core.types import *


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "adapt": ("InnerLoop",),
        "estimators": (
            *("Outer", "TaskGradient", "backprop", "implicit"),
            *("meta_gradient", "query_loss", "reptile"),
        ),
        "inner": (
            *("InnerOptimizer", "adam", "chain", "clip_norm"),
            *("lslr", "meta_curvature", "meta_sgd", "sgd"),
        ),
        "linalg": ("conjugate_gradient", "linearize"),
        "outer": ("gradient_learner",),
        "parameters": ("Apply", "functional"),
        "seeding": ("numpy_generator", "torch_generator"),
        "types": (
            *("Batch", "LossFn", "MetaLearner", "MetaParams"),
            *("MetaState", "Metrics", "Params", "Task"),
        ),
    },
)
