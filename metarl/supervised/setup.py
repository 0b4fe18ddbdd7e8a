"""What every supervised experiment starts from: its settings, and the learner that they mean."""

import math
from collections.abc import Callable
from dataclasses import dataclass, replace
from functools import lru_cache, partial
from typing import Any, Literal, NamedTuple, TypeAlias, TypeVar, cast

import torch
from torch import nn

from metarl.config import RunConfig, at_least, between, greater_than, require
from metarl.core.adapt import InnerLoop
from metarl.core.compiling import Mode
from metarl.core.estimators import TaskGradient, backprop, query_loss, reptile
from metarl.core.functional import Apply, functional
from metarl.core.implicit import implicit
from metarl.core.optimizers import INNER, Inner
from metarl.core.outer import gradient_learner
from metarl.core.types import MetaLearner, MetaState, Params, Task
from metarl.supervised.heads import (
    body_of,
    is_head,
    is_norm,
    prototype_start,
    without_head,
    zero_start,
)
from metarl.supervised.losses import Criterion, judge, loss_of
from metarl.supervised.methods import MAML, METHODS, Adapts, Estimator, Start
from metarl.supervised.schedules import SCHEDULES, multi_step_weights


Tasks: TypeAlias = Task | list[Task]
Draw: TypeAlias = Callable[[int, torch.Generator], Tasks]
LEVELS = 10  # of the multi-step weights while they anneal: MAML++'s epochs
LEARNED_HEAD = frozenset(INNER) - {"sgd", "adam"}  # inner optimizers that learn rates by name
OUTER: dict[str, Callable[..., torch.optim.Optimizer]] = {
    "adam": partial(torch.optim.Adam, fused=True),  # one kernel: a third of the time on small nets
    "sgd": torch.optim.SGD,
}


@dataclass(frozen=True)
class SupervisedConfig(RunConfig):
    """A family of tasks, a network, and how it adapts.

    --method NAME names a row of `metarl methods`; a flag that is left at None takes that method's
    value, and what the run took is in its config.json.
    """

    method: str = "maml"
    """A row of `metarl methods`."""
    num_tasks: int | None = None
    """Tasks of a meta-batch."""
    inner_steps: int | None = None
    """Inner steps in training; 0 is joint training."""
    test_steps: int | None = None
    """Inner steps in validation and test."""
    inner_lr: float | None = None
    """Step size of the inner steps, or where learned rates start; the inner loss is a mean."""
    inner: Inner | None = None
    """Inner optimizer."""
    inner_batch: int | None = None
    """Support examples of one inner step, drawn anew for each; None takes all in every step."""
    adapts: Adapts | None = None
    """Parameters that the inner steps change; the others are meta-learned alone."""
    start: Start | None = None
    """Head to start from: learned, the prototypes of the support set, or zero."""
    estimator: Estimator | None = None
    """Gradient of the initialization: through the inner steps, Reptile's, or implicit."""
    first_order: bool = False
    """Treat inner gradients as constants (FOMAML)."""
    first_order_until: float | None = None
    """Part of training with first-order gradients (MAML++: derivative-order annealing)."""
    multi_step_until: float | None = None
    """Part of training with query losses after every inner step (MAML++: multi-step loss)."""
    per_step_norm: bool = False
    """A scale and shift of each norm layer for every inner step (MAML++)."""
    proximal: float | None = None
    """Weight λ of the proximal term, which holds the adapted parameters to the initialization."""
    cg_steps: int = 5
    """Conjugate-gradient steps of the implicit gradient."""
    cg_damping: float = 0.0
    """Damping of the implicit gradient's linear system."""
    outer: Literal["adam", "sgd"] | None = None
    """Outer optimizer."""
    outer_lr: float | None = None
    """Outer step size."""
    outer_schedule: Literal["constant", "cosine", "linear"] | None = None
    """How the outer step size falls, to --outer-lr-end."""
    outer_lr_end: float = 0.0
    """Outer step size at the end of a schedule."""
    clip: float | None = None
    """Cut every number of the meta-gradient to [-clip, clip]."""
    validation_tasks: int = 100
    """Tasks of the validation at every checkpoint."""
    mode: Mode | None = None
    """How the meta-gradient runs: eager, traced to operators once (no compiler needed), or compiled
    with torch.compile, which takes a C++ compiler and a minute or two: for long runs."""
    chunk_size: int | None = None
    """Tasks worked on at a time; by default what suits the cache."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        if self.method not in METHODS:
            raise ValueError(
                f"there is no --method {self.method}; choose one of {', '.join(METHODS)} "
                "(`metarl methods` explains them)"
            )
        require(self, at_least(1), "num_tasks", "inner_batch", "cg_steps", "validation_tasks")
        require(self, at_least(1), "chunk_size")
        require(self, at_least(0), "inner_steps", "test_steps", "inner_lr", "proximal")
        require(self, at_least(0), "cg_damping", "outer_lr", "outer_lr_end")
        require(self, greater_than(0), "clip")
        require(self, between(0, 1), "first_order_until", "multi_step_until")


Config = TypeVar("Config", bound=SupervisedConfig)


def resolve(config: Config, settings: dict[str, dict[str, Any]]) -> Config:
    """Fill in what was left open: by the method, then by the experiment's settings for it.

    Args:
        config: The settings that a user gave.
        settings: Defaults of the experiment, by method; ``""`` holds those of all methods.
    """
    chosen = MAML | settings[""] | METHODS[config.method].values | settings.get(config.method, {})
    for flag in ("first_order", "per_step_norm"):
        chosen[flag] = chosen[flag] or getattr(config, flag)
    left_open = {n: v for n, v in chosen.items() if getattr(config, n) is None}
    flags = {n: chosen[n] for n in ("first_order", "per_step_norm")}
    resolved = replace(config, **cast(Any, left_open | flags))
    return replace(
        resolved,
        test_steps=resolved.inner_steps if resolved.test_steps is None else resolved.test_steps,
    )


class Model(NamedTuple):
    """A network as a function, and what the inner loop starts and differentiates.

    Attributes:
        apply: ``(params, inputs) -> predictions``.
        params: Its initial parameters.
        loop: How it adapts in training.
        criterion: ``(predictions, targets) -> (loss, metrics)``.
    """

    apply: Apply
    params: Params
    loop: InnerLoop
    criterion: Criterion


class Parts(NamedTuple):
    """Everything that a configuration means.

    Attributes:
        model: The network and its inner loop.
        learner: The meta-learner of an iteration, from 1: schedules make it change.
        test_loop: How it adapts in validation and test.
        draw: Draws training tasks.
        draw_validation: Draws validation tasks.
        draw_test: Draws test tasks.
        device: Where the parameters live.
        chunk_size: Tasks worked on at a time; ``None`` is all of them.
    """

    model: Model
    learner: Callable[[int], MetaLearner]
    test_loop: InnerLoop
    draw: Draw
    draw_validation: Draw
    draw_test: Draw
    device: torch.device
    chunk_size: int | None = None

    def init(self) -> MetaState:
        """Return the state before the first iteration."""
        return self.learner(1).init(self.model.params, device=self.device)


def make_model(config: SupervisedConfig, module: nn.Module, criterion: Criterion) -> Model:
    """Build the inner loop of a resolved configuration.

    Raises:
        ValueError: If the module cannot be used with the method; the message says why.
    """
    apply, params = functional(module)
    fast = _fast(config, module)
    start = _start(config.start, module)
    per_step = frozenset(filter(is_norm, params)) if config.per_step_norm else frozenset()
    steps = config.inner_steps or 0
    params = {n: p.expand(max(1, steps), *p.shape).clone() if n in per_step else p
              for n, p in params.items()}  # fmt: skip
    loop = InnerLoop(
        loss_of(judge(apply, criterion)),
        INNER[config.inner or "sgd"](config.inner_lr or 0.0, steps),
        fast=fast,
        per_step=per_step,
        first_order=config.first_order,
        num_steps=steps,
        proximal=config.proximal or 0.0,
        **({"start": start} if start else {}),
    )
    return Model(apply, without_head(params) if start else params, loop, criterion)


def make_learner(
    config: SupervisedConfig, model: Model, *, chunk_size: int | None = None
) -> Callable[[int], MetaLearner]:
    """Return the meta-learner of every iteration, from 1 to ``config.iterations``.

    Raises:
        ValueError: If the estimator has no gradient for these settings; the message says why.
    """
    _require_gradient(config)

    @lru_cache(maxsize=LEVELS)
    def task_gradient(first_order: bool, weights: tuple[float, ...] | None) -> TaskGradient:
        loop = replace(model.loop, first_order=first_order)
        outer = query_loss(
            judge(model.apply, model.criterion), has_aux=True, step_weights=weights, before=False
        )
        if config.estimator == "implicit":
            return implicit(loop, outer, cg_steps=config.cg_steps, damping=config.cg_damping)
        return (reptile if config.estimator == "reptile" else backprop)(loop, outer)

    def learner(iteration: int) -> MetaLearner:
        progress = (iteration - 1) / config.iterations
        first_order = config.first_order or progress < (config.first_order_until or 0.0)
        rate = SCHEDULES[config.outer_schedule or "constant"]
        until = config.multi_step_until or 0.0
        annealed = math.floor(LEVELS * progress / until) / LEVELS if until else 1.0
        return gradient_learner(
            model.loop,
            task_gradient(first_order, multi_step_weights(config.inner_steps or 0, annealed)),
            OUTER[config.outer or "adam"],
            chunk_size=config.chunk_size or chunk_size,
            mode=config.mode or "traced",
            clip=config.clip,
            lr=rate(config.outer_lr or 0.0, config.outer_lr_end, progress),
        )

    return learner


def _require_gradient(config: SupervisedConfig) -> None:
    """Refuse what would fail in the first step, or train less than it says."""
    if config.start in ("prototypes", "zero") and config.inner in LEARNED_HEAD:
        raise ValueError(
            f"--inner {config.inner} learns rates for the head, and --start {config.start} makes a "
            "new one for each task; use --inner sgd or adam"
        )
    # Reptile and the implicit gradient see no path.
    if config.estimator not in ("reptile", "implicit"):
        return
    asked = f"--estimator {config.estimator}"
    if config.inner not in (None, "sgd", "adam"):
        raise ValueError(
            f"{asked} has no gradient for what --inner {config.inner} learns; use sgd or adam"
        )
    if config.estimator == "reptile" and (config.adapts != "all" or config.per_step_norm):
        raise ValueError(
            f"{asked} learns nothing but what adapts; use --adapts all, and no --per-step-norm"
        )
    if config.estimator == "implicit" and config.start != "learned":
        raise ValueError(f"{asked} needs --start learned, got {config.start}")
    if config.multi_step_until:
        raise ValueError(f"{asked} has no multi-step loss; leave out --multi-step-until")
    if not config.inner_steps:
        raise ValueError(f"{asked} needs --inner-steps of at least 1, got {config.inner_steps}")
    if config.estimator == "implicit" and not config.proximal:
        raise ValueError(f"{asked} needs --proximal greater than 0, got {config.proximal}")


def make_test_loop(
    config: SupervisedConfig, model: Model, *, start: str | None = None
) -> InnerLoop:
    """Return the inner loop of validation and test.

    Args:
        config: The settings.
        model: The network.
        start: Head to start from where the training's cannot serve and no other was asked for.
    """
    loop = replace(model.loop, num_steps=config.test_steps)
    if start is None or config.start != "learned":
        return loop
    return replace(loop, start=_start(start, model.apply.module))


def _fast(config: SupervisedConfig, module: nn.Module) -> Callable[[str], bool]:
    if config.adapts in ("head", "body"):
        body_of(module)  # refuses a module that has none
    choices: dict[str | None, Callable[[str], bool]] = {
        "head": is_head,
        "body": lambda name: not is_head(name),
        "all-but-norm": lambda name: not is_norm(name),
    }
    return choices.get(config.adapts, lambda name: True)


def _start(name: str | None, module: nn.Module) -> Any:
    if name == "prototypes":
        return prototype_start(body_of(module))
    if name == "zero":
        body_of(module)
        return zero_start(cast(Any, module).head.in_features)
    return None
