"""Settings of the supervised experiments: flags, default values by method, conflicts."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

import tyro

from metarl.core import INNER_OPTIMIZERS, LEARNED_RATES
from metarl.core.speed import Mode
from metarl.runs import RunConfig, unset
from metarl.supervised.methods import MAML, METHODS, Adapts, Estimator, Start
from metarl.util import Conflicts, Ranged, among, at_least, between, greater_than, refuse


@dataclass(frozen=True)
class InnerLoopSettings(Ranged):
    """Settings of the inner loop; the method sets the defaults."""

    group: ClassVar[str] = "inner loop"
    inner_steps: Annotated[int | None, at_least(0)] = None
    """Number of inner steps in training; 0 is joint training."""
    test_steps: Annotated[int | None, at_least(0)] = None
    """Number of inner steps in validation and test."""
    inner_lr: Annotated[float | None, at_least(0)] = None
    """Step size of the inner steps on the mean loss; initial value of learned step sizes."""
    inner: Annotated[str | None, among(INNER_OPTIMIZERS)] = None
    """Inner optimizer: sgd, adam, lslr, meta-sgd, meta-curvature or meta-curvature+lslr."""
    inner_clip: Annotated[float | None, greater_than(0), unset("no clipping")] = None
    """Clip the inner gradient to this global norm."""
    inner_batch: Annotated[int | None, at_least(1), unset("all")] = None
    """Number of support examples of each inner step, sampled for each step."""
    adapts: Adapts | None = None
    """Parameters that the inner steps adapt; the others are only meta-learned."""
    start: Start | None = None
    """Initial head: learned, prototypes of the support set, zero, or (text only) generated from
    the first support batch."""
    per_step_norm: tyro.conf.FlagCreatePairsOff[bool] = False
    """Separate scale and shift of each norm layer for every inner step (MAML++)."""


@dataclass(frozen=True)
class OuterUpdateSettings(Ranged):
    """Settings of the meta-gradient and of the outer optimizer."""

    group: ClassVar[str] = "outer update"
    num_tasks: Annotated[int | None, at_least(1)] = None
    """Number of tasks in a meta-batch."""
    estimator: Estimator | None = None
    """Meta-gradient: backprop through the inner steps, reptile, or implicit (iMAML)."""
    first_order: tyro.conf.FlagCreatePairsOff[bool] = False
    """Treat inner gradients as constants (FOMAML)."""
    first_order_until: Annotated[float | None, between(0, 1)] = None
    """Fraction of training with first-order gradients (MAML++: derivative-order annealing)."""
    multi_step_until: Annotated[float | None, between(0, 1)] = None
    """Fraction of training with query losses after every inner step (MAML++: multi-step loss)."""
    proximal: Annotated[float | None, at_least(0)] = None
    """Weight λ of the proximal term, which keeps the adapted parameters near the initialization."""
    cg_steps: Annotated[int, at_least(1)] = 5
    """Number of conjugate-gradient steps of the implicit gradient."""
    cg_damping: Annotated[float, at_least(0)] = 0.0
    """Damping of the implicit gradient's linear system."""
    outer: Literal["adam", "sgd"] | None = None
    """Outer optimizer."""
    outer_lr: Annotated[float | None, at_least(0)] = None
    """Outer step size."""
    outer_schedule: Literal["constant", "cosine", "linear"] | None = None
    """Schedule of the outer step size, which ends at --outer-lr-end."""
    outer_lr_end: Annotated[float, at_least(0)] = 0.0
    """Outer step size at the end of a schedule."""
    clip: Annotated[float | None, greater_than(0), unset("no clipping")] = None
    """Clip every element of the meta-gradient to [-clip, clip]."""
    validation_tasks: Annotated[int | None, at_least(1), unset("100")] = None
    """Number of validation tasks at every checkpoint."""
    mode: Mode | None = None
    """Execution of the meta-gradient: eager; traced once to a graph (no compiler needed); or
    compiled with torch.compile (needs a C++ compiler and one to two minutes, for long runs)."""
    chunk_size: Annotated[int | None, at_least(1), unset("fits the cache")] = None
    """Number of tasks processed at a time."""


@dataclass(frozen=True)
class SupervisedConfig(OuterUpdateSettings, InnerLoopSettings, RunConfig):
    """Settings of the supervised experiments.

    --method NAME chooses a method; `metarl methods` lists them. The method sets the defaults of the
    other flags. config.json in the run folder contains the values used.
    """

    method: str = "maml"
    """Method; `metarl methods` lists them."""

    defaults: ClassVar[dict[str, dict[str, Any]]] = {"": {}}
    """Values of settings that are None, by method; ``""`` applies to every method."""
    scheduled = {  # noqa: RUF012
        "outer_schedule": "constant", "first_order_until": 0, "multi_step_until": 0,
    }  # fmt: skip

    def conflicts(self) -> Conflicts:
        """Return the invalid combinations of settings with their error messages."""
        names = f"expected one of {', '.join(METHODS)} (`metarl methods` describes them)"
        error = f"unknown method={self.method}: {names}"
        return [*super().conflicts(), (self.method not in METHODS, error)]

    def filled(self) -> Any:
        """Return the configuration with the values of the method."""
        return resolve(self, self.defaults)

    def complete(self) -> Any:
        """Return the complete configuration, as it is trained and saved."""
        return self.filled()


Config = TypeVar("Config", bound=SupervisedConfig)


def resolve(config: Config, settings: dict[str, dict[str, Any]]) -> Config:
    """Replace settings that are None by the defaults of the method and the experiment.

    The default number of test steps is at least the number of training steps; with learned step
    sizes it equals the number of training steps.

    Args:
        config: The settings of the user.
        settings: Defaults of the experiment by method; ``""`` applies to every method.
    """
    chosen = MAML | settings[""] | METHODS[config.method].values | settings.get(config.method, {})
    flags = {n: chosen[n] or getattr(config, n) for n in ("first_order", "per_step_norm")}
    left_open = {n: v for n, v in chosen.items() if getattr(config, n) is None}
    resolved = replace(config, **cast(Any, left_open | flags))
    if config.test_steps is not None:
        return resolved
    more = 0 if resolved.inner in LEARNED_RATES else resolved.test_steps or 0
    return replace(resolved, test_steps=max(resolved.inner_steps or 0, more))


def require_compatible(config: SupervisedConfig) -> None:
    """Raise a ValueError for settings that fail in the first step or have no effect.

    Args:
        config: A complete configuration.

    Raises:
        ValueError: If two settings conflict; the message names them.
    """
    start, steps, estimator = config.start, config.inner_steps, config.estimator
    inner, learned = f"inner={config.inner}", config.inner in LEARNED_RATES
    made = start in ("prototypes", "generated")  # of the whole support set
    whole = f"start={start}" if made else f"estimator={estimator}"
    batches = config.inner_batch and (made or estimator == "implicit")
    sized = learned and config.inner != "lslr" and start != "learned"
    zero = start == "zero" and config.method != "pretrained"  # pretrained uses it only in tests
    fixed = not steps or config.adapts == "body"
    constant = config.outer_schedule in (None, "constant")
    refuse(
        (batches, f"{whole} uses the whole support set; remove inner_batch"),
        (made and config.per_step_norm, f"{whole} does not support per_step_norm; remove it"),
        (
            sized,
            f"{inner} learns a step size for every element of the head, but start={start} creates "
            "a new head for each task; use inner=sgd, adam or lslr",
        ),
        (
            zero and fixed,
            "start=zero requires inner_steps of at least 1 and does not support adapts=body",
        ),
        (
            constant and config.outer_lr_end,
            "outer_lr_end requires a schedule; add outer_schedule=cosine",
        ),
    )
    if estimator not in ("reptile", "implicit"):  # which see no path
        return
    asked, proximal = f"estimator={estimator}", config.proximal
    first_order = config.first_order or config.first_order_until
    refuse(
        (learned, f"{asked} cannot learn the step sizes of {inner}; use inner=sgd or adam"),
        (first_order, f"{asked} uses no second derivatives; remove first_order"),
        (
            config.multi_step_until,
            f"{asked} does not support the multi-step loss; remove multi_step_until",
        ),
        (not steps, f"{asked} requires inner_steps of at least 1, got {steps}"),
    )
    if estimator == "reptile":
        partial = config.adapts != "all" or config.per_step_norm
        refuse((partial, f"{asked} requires adapts=all and does not support per_step_norm"))
    else:
        refuse(
            (start != "learned", f"{asked} requires start=learned, got start={start}"),
            (not proximal, f"{asked} requires `proximal` greater than 0, got {proximal}"),
        )
