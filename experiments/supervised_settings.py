"""The settings of every supervised experiment: flags, what a method fills in, what is refused."""

from dataclasses import dataclass, replace
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

import tyro

from metarl.core import INNER_OPTIMIZERS, LEARNED_RATES
from metarl.core.speed import Mode
from metarl.runs import RunConfig
from metarl.supervised.methods import MAML, METHODS, Adapts, Estimator, Start
from metarl.util import Conflicts, among, at_least, between, greater_than, refuse


@dataclass(frozen=True)
class SupervisedConfig(RunConfig):
    """A family of tasks, a network, and how it adapts.

    --method NAME names a row of `metarl methods`; a flag that is left at None takes that method's
    value, and what the run took is in its config.json.
    """

    method: str = "maml"
    """A row of `metarl methods`."""
    num_tasks: Annotated[int | None, at_least(1)] = None
    """Tasks of a meta-batch."""
    inner_steps: Annotated[int | None, at_least(0)] = None
    """Inner steps in training; 0 is joint training."""
    test_steps: Annotated[int | None, at_least(0)] = None
    """Inner steps in validation and test."""
    inner_lr: Annotated[float | None, at_least(0)] = None
    """Step size of the inner steps, or where learned rates start; the inner loss is a mean."""
    inner: Annotated[str | None, among(INNER_OPTIMIZERS)] = None
    """Inner optimizer: sgd, adam, lslr, meta-sgd, meta-curvature or meta-curvature+lslr."""
    inner_clip: Annotated[float | None, greater_than(0)] = None
    """Cut the inner gradient to this global norm."""
    inner_batch: Annotated[int | None, at_least(1)] = None
    """Support examples of one inner step, drawn anew for each; None takes all in every step."""
    adapts: Adapts | None = None
    """Parameters that the inner steps change; the others are meta-learned alone."""
    start: Start | None = None
    """Head to start from: learned, the prototypes of the support set, zero, or of text generated
    from the first support batch."""
    estimator: Estimator | None = None
    """Gradient of the initialization: through the inner steps, Reptile's, or implicit."""
    first_order: tyro.conf.FlagCreatePairsOff[bool] = False
    """Treat inner gradients as constants (FOMAML)."""
    first_order_until: Annotated[float | None, between(0, 1)] = None
    """Part of training with first-order gradients (MAML++: derivative-order annealing)."""
    multi_step_until: Annotated[float | None, between(0, 1)] = None
    """Part of training with query losses after every inner step (MAML++: multi-step loss)."""
    per_step_norm: tyro.conf.FlagCreatePairsOff[bool] = False
    """A scale and shift of each norm layer for every inner step (MAML++)."""
    proximal: Annotated[float | None, at_least(0)] = None
    """Weight λ of the proximal term, which holds the adapted parameters to the initialization."""
    cg_steps: Annotated[int, at_least(1)] = 5
    """Conjugate-gradient steps of the implicit gradient."""
    cg_damping: Annotated[float, at_least(0)] = 0.0
    """Damping of the implicit gradient's linear system."""
    outer: Literal["adam", "sgd"] | None = None
    """Outer optimizer."""
    outer_lr: Annotated[float | None, at_least(0)] = None
    """Outer step size."""
    outer_schedule: Literal["constant", "cosine", "linear"] | None = None
    """How the outer step size falls, to --outer-lr-end."""
    outer_lr_end: Annotated[float, at_least(0)] = 0.0
    """Outer step size at the end of a schedule."""
    clip: Annotated[float | None, greater_than(0)] = None
    """Cut every number of the meta-gradient to [-clip, clip]."""
    validation_tasks: Annotated[int | None, at_least(1)] = None
    """Tasks of the validation at every checkpoint; by default 100, and of text 50, or 5 where each
    is fine-tuned (--method pretrained)."""
    mode: Mode | None = None
    """How the meta-gradient runs: eager, traced to operators once (no compiler needed), or compiled
    with torch.compile, which takes a C++ compiler and a minute or two: for long runs."""
    chunk_size: Annotated[int | None, at_least(1)] = None
    """Tasks worked on at a time; by default what suits the cache."""

    defaults: ClassVar[dict[str, dict[str, Any]]] = {"": {}}
    """Values of settings that are None, by method; ``""`` applies to every method."""
    scheduled = {  # noqa: RUF012
        "outer_schedule": "constant", "first_order_until": 0, "multi_step_until": 0,
    }  # fmt: skip

    def conflicts(self) -> Conflicts:
        """Return the combinations of settings that are errors."""
        names = f"choose one of {', '.join(METHODS)} (`metarl methods` explains them)"
        error = f"there is no method={self.method}; {names}"
        return [*super().conflicts(), (self.method not in METHODS, error)]

    def complete(self) -> Any:
        """Fill in what was left open."""
        return resolve(self, self.defaults)


Config = TypeVar("Config", bound=SupervisedConfig)


def resolve(config: Config, settings: dict[str, dict[str, Any]]) -> Config:
    """Fill in what was left open: by the method, then by the experiment's settings for it.

    Learned rates are tested with the steps that they learned for, and other methods with as many at
    least.

    Args:
        config: The settings that a user gave.
        settings: Defaults of the experiment, by method; ``""`` holds those of all methods.
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
    """Refuse what would fail in the first step, or train less than it says.

    Args:
        config: Resolved settings.

    Raises:
        ValueError: If they do not go together; the message says why.
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
        (batches, f"{whole} takes the whole support set; leave out inner_batch"),
        (made and config.per_step_norm, f"{whole} has no step whose per_step_norm it could read"),
        (
            sized,
            f"{inner} learns rates for every number of the head, and start={start} makes a "
            "new one for each task; use inner=sgd, adam or lslr",
        ),
        (zero and fixed, "start=zero needs inner_steps of at least 1, and no adapts=body"),
        (
            constant and config.outer_lr_end,
            "outer_lr_end ends a schedule; add outer_schedule=cosine",
        ),
    )
    if estimator not in ("reptile", "implicit"):  # which see no path
        return
    asked, proximal = f"estimator={estimator}", config.proximal
    first_order = config.first_order or config.first_order_until
    refuse(
        (learned, f"{asked} has no gradient for what {inner} learns; use sgd or adam"),
        (first_order, f"{asked} takes no second derivatives; leave out first_order"),
        (config.multi_step_until, f"{asked} has no multi-step loss; leave out multi_step_until"),
        (not steps, f"{asked} needs inner_steps of at least 1, got {steps}"),
    )
    if estimator == "reptile":
        partial = config.adapts != "all" or config.per_step_norm
        refuse((partial, f"{asked} learns what adapts; use adapts=all, and no per_step_norm"))
    else:
        refuse(
            (start != "learned", f"{asked} needs start=learned, got {start}"),
            (not proximal, f"{asked} needs `proximal` greater than 0, got {proximal}"),
        )
