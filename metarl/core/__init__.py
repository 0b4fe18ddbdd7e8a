"""The functional core that every method shares: torch only, pure, and without devices."""

from metarl.core.adapt import InnerLoop
from metarl.core.estimators import Outer, TaskGradient, backprop, meta_gradient, query_loss
from metarl.core.functional import Apply, functional
from metarl.core.inner import InnerOptimizer, meta_sgd, sgd
from metarl.core.outer import gradient_learner
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
    "backprop",
    "functional",
    "gradient_learner",
    "meta_gradient",
    "meta_sgd",
    "query_loss",
    "sgd",
]
