"""The functional core that every method shares: torch only, pure, and without devices."""

from metarl.core.adapt import InnerLoop
from metarl.core.curvature import meta_curvature
from metarl.core.estimators import (
    Outer,
    TaskGradient,
    backprop,
    meta_gradient,
    query_loss,
    reptile,
)
from metarl.core.implicit_gradient import implicit
from metarl.core.inner import InnerOptimizer, adam, chain, clip_norm, lslr, meta_sgd, sgd
from metarl.core.outer import gradient_learner
from metarl.core.parameters import Apply, functional
from metarl.core.types import (
    Batch,
    LossFn,
    MetaLearner,
    MetaParams,
    MetaState,
    Metrics,
    Params,
    Task,
)


__all__ = [
    "Apply",
    "Batch",
    "InnerLoop",
    "InnerOptimizer",
    "LossFn",
    "MetaLearner",
    "MetaParams",
    "MetaState",
    "Metrics",
    "Outer",
    "Params",
    "Task",
    "TaskGradient",
    "adam",
    "backprop",
    "chain",
    "clip_norm",
    "functional",
    "gradient_learner",
    "implicit",
    "lslr",
    "meta_curvature",
    "meta_gradient",
    "meta_sgd",
    "query_loss",
    "reptile",
    "sgd",
]
