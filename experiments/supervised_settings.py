"""Configuration of the supervised experiments: flags, defaults by method, and checks."""

import os
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal, TypeVar, cast

import tyro

from metarl.core import INNER_OPTIMIZERS, LEARNED_CONSTANTS
from metarl.core.speed import Mode
from metarl.runs import RunConfig, unset
from metarl.supervised.methods import MAML, METHODS, Adapts, Estimator, Start
from metarl.util import Conflicts, Ranged, among, at_least, between, greater_than, raise_if


@dataclass(frozen=True)
class InnerLoopSettings(Ranged):
    """Settings for the inner loop. Defaults of the method replace values that are None."""

    group: ClassVar[str] = "inner loop"
    inner_steps: Annotated[int | None, at_least(0)] = None
    """Number of inner steps in training; 0 trains without adaptation. If not
    set, the method's default is used, such as 1 for maml."""
    test_steps: Annotated[int | None, at_least(0)] = None
    """Number of inner steps in validation and test. If not set, the method's
    default is used, such as 3 for maml on images, but at least --inner-steps."""
    inner_lr: Annotated[float | None, at_least(0)] = None
    """Step size of the inner steps on the mean loss, or initial value of
    learned step sizes. If not set, the method's default is used, such as 0.4
    for maml on images."""
    inner: Annotated[str | None, among(INNER_OPTIMIZERS)] = None
    """Inner optimizer: sgd or adam with a fixed step size, lslr, meta-sgd or
    meta-curvature+lslr with learned step sizes, or meta-curvature with a
    learned preconditioner and a fixed step size. If not set, the method's
    default is used, such as sgd for maml."""
    inner_clip: Annotated[float | None, greater_than(0), unset("no clipping")] = None
    """Clip the inner gradient to this global norm. The default is 1 for leopard and
    no clipping otherwise."""
    inner_batch: Annotated[int | None, at_least(1), unset("all")] = None
    """Number of support examples per inner step, sampled without replacement. The
    default is 10 for reptile on images, 16 for pretrained on text, and all
    otherwise."""
    adapts: Adapts | None = None
    """Parameters that the inner steps adapt; other parameters are only
    meta-learned. The default is head for anil, body for boil, all-but-norm for
    maml++ and all otherwise."""
    start: Start | None = None
    """Initial head in every task: learned, prototypes of the support set, zero or,
    only for text, generated from the first support batch. The default is prototypes
    for protomaml and protonet, zero for zero-head, generated for leopard and
    learned otherwise."""
    per_step_norm: tyro.conf.FlagCreatePairsOff[bool] = False
    """Learn a separate scale and shift per inner step for each normalization
    layer. Always enabled for maml++ on images."""


@dataclass(frozen=True)
class OuterUpdateSettings(Ranged):
    """Settings for the meta-gradient and the outer optimizer."""

    group: ClassVar[str] = "outer update"
    num_tasks: Annotated[int | None, at_least(1)] = None
    """Number of tasks per meta-batch. If not set, the method's default is used,
    such as 32 for maml on images."""
    estimator: Estimator | None = None
    """Meta-gradient estimator: backprop through the inner steps, reptile, or
    implicit (iMAML). The default is reptile for reptile, implicit for imaml and
    backprop otherwise."""
    first_order: tyro.conf.FlagCreatePairsOff[bool] = False
    """Treat inner gradients as constants in the meta-gradient. Always enabled
    for fomaml, zero-head and leopard."""
    first_order_until: Annotated[float | None, between(0, 1)] = None
    """Initial fraction of training with first-order meta-gradients
    (derivative-order annealing in MAML++). The default is 0, which disables
    annealing."""
    multi_step_until: Annotated[float | None, between(0, 1)] = None
    """Initial fraction of training in which the query losses after all inner steps
    are minimized (multi-step loss in MAML++). The default is 0.1 for maml++ and 0
    otherwise."""
    proximal: Annotated[float | None, at_least(0)] = None
    """Weight λ of the proximal term, which keeps the adapted parameters near the
    initialization. The default is 2 for imaml and 0 otherwise."""
    cg_steps: Annotated[int, at_least(1)] = 5
    """Number of conjugate-gradient steps that compute the implicit gradient; only used with
    --estimator implicit."""
    cg_damping: Annotated[float, at_least(0)] = 0.0
    """Damping δ of the linear system (1 + δ) x + H x / λ = g that defines the implicit
    gradient x, with the Hessian H of the inner loss; only used with --estimator implicit.
    Increase the damping if training diverges."""
    outer: Literal["adam", "sgd"] | None = None
    """Outer optimizer. The default is sgd for reptile and adam otherwise."""
    outer_lr: Annotated[float | None, at_least(0)] = None
    """Step size of the outer optimizer. The default is 1 for reptile, 1e-4 for text
    and 1e-3 otherwise."""
    outer_schedule: Literal["constant", "cosine", "linear"] | None = None
    """Schedule of the outer step size from --outer-lr to --outer-lr-end; constant
    keeps --outer-lr. The default is linear for reptile, cosine for maml++ and
    constant otherwise."""
    outer_lr_end: Annotated[float, at_least(0)] = 0.0
    """Outer step size at the end of a cosine or linear schedule."""
    clip: Annotated[float | None, greater_than(0), unset("no clipping")] = None
    """Clip every element of the meta-gradient to [-CLIP, CLIP]."""
    validation_tasks: Annotated[int | None, at_least(0), unset("100")] = None
    """Number of validation tasks that are evaluated at every checkpoint; 0 trains
    without validation and requires no validation data. The default is 100 for
    images and sinusoids; for text, 5 for pretrained and 50 otherwise."""
    mode: Mode | None = None
    """Execution of the meta-gradient: eager; traced to a graph, which requires no
    compiler; or compiled with torch.compile, which requires a C++ compiler and
    takes one to two minutes at the start. The default is eager for text, for
    tasks of variable size and for images with fewer than 50 iterations, which
    tracing would not speed up, and traced otherwise."""
    chunk_size: Annotated[
        int | None, at_least(1), unset("all; for images, as many as fit the CPU cache")
    ] = None
    """Number of tasks that are processed together; larger values need more
    memory. Text tasks are always processed one at a time."""


@dataclass(frozen=True)
class SupervisedConfig(OuterUpdateSettings, InnerLoopSettings, RunConfig):
    """Settings of the supervised experiments.

    --method NAME selects a method, which sets the defaults of the other
    flags; run `metarl methods` to list all methods. config.json in the run
    folder contains the values that are used.
    """

    method: str = "maml"
    """Meta-learning method; run `metarl methods` to list all methods."""

    defaults: ClassVar[dict[str, dict[str, Any]]] = {"": {}}
    """Default values that replace None, by method and field name. The values
    with the key ``""`` apply to every method."""
    scheduled = {  # noqa: RUF012
        "outer_schedule": "constant", "first_order_until": 0, "multi_step_until": 0,
    }  # fmt: skip

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        error = (
            f"unknown method={self.method}: expected one of {', '.join(METHODS)} (run "
            "`metarl methods` for a description of each method)"
        )
        return [*super().conflicts(), (self.method not in METHODS, error)]

    def filled(self) -> Any:
        """Return the configuration with the defaults of the method filled in."""
        return resolve(self, self.defaults)

    def complete(self) -> Any:
        """Return the complete configuration, which is used in training and saved in config.json.

        A data folder becomes an absolute path, so that the run can be used in any folder.
        """
        config = self.filled()
        root = getattr(config, "data_root", None)
        return config if root is None else replace(config, data_root=absolute(root))


def encoder_place(name: str) -> str:
    """Return the absolute path of a folder with an encoder, or other names unchanged."""
    folder = absolute(Path(name))
    return str(folder) if folder.is_dir() else name


def absolute(path: Path) -> Path:
    """Return the absolute path of a file or folder, which does not need to exist."""
    # Unlike Path.expanduser, os.path.expanduser accepts names of unknown users, such as ~nobody.
    return Path(os.path.abspath(os.path.expanduser(path)))


Config = TypeVar("Config", bound=SupervisedConfig)


def resolve(config: Config, settings: dict[str, dict[str, Any]]) -> Config:
    """Replace settings that are None with the defaults of the method and the experiment.

    If `test_steps` is None, the number of inner steps at test time is at
    least the number in training. Both numbers are equal if the inner optimizer
    has learned hyperparameters, such as step sizes.

    Args:
        config: The configuration. Settings other than None are kept, except
            that the method can enable `first_order` and `per_step_norm`.
        settings: Defaults of the experiment, by method and field name. The
            key ``""`` applies to every method.

    Returns:
        A copy of the configuration.
    """
    chosen = MAML | settings[""] | METHODS[config.method].values | settings.get(config.method, {})
    flags = {n: chosen[n] or getattr(config, n) for n in ("first_order", "per_step_norm")}
    left_open = {n: v for n, v in chosen.items() if getattr(config, n) is None}
    resolved = replace(config, **cast(Any, left_open | flags))
    if config.test_steps is not None:
        return resolved
    more = 0 if resolved.inner in LEARNED_CONSTANTS else resolved.test_steps or 0
    return replace(resolved, test_steps=max(resolved.inner_steps or 0, more))


def require_compatible(config: SupervisedConfig) -> None:
    """Check that the settings of a configuration can be combined.

    Args:
        config: A complete configuration, see :meth:`SupervisedConfig.complete`.

    Raises:
        ValueError: If a combination of settings would fail in the first step or have no effect.
    """
    start, steps, estimator = config.start, config.inner_steps, config.estimator
    inner, learned = f"inner={config.inner}", config.inner in LEARNED_CONSTANTS
    made = start in ("prototypes", "generated")  # the head depends on the whole support set
    whole = f"start={start}" if made else f"estimator={estimator}"
    batches = config.inner_batch and (made or estimator == "implicit")
    sized = learned and config.inner != "lslr" and start != "learned"
    zero = (
        start == "zero" and config.method != "pretrained"
    )  # pretrained uses the zero head only at test time
    fixed = not steps or config.adapts == "body"
    constant = config.outer_schedule in (None, "constant")
    raise_if(
        (batches, f"{whole} uses the whole support set; remove inner_batch"),
        (
            made and config.per_step_norm,
            f"{whole} does not support per_step_norm; remove per_step_norm",
        ),
        (
            sized,
            f"{inner} learns hyperparameters for each element of the head, but start={start} "
            "creates a new head for each task; use inner=sgd, adam or lslr",
        ),
        (
            zero and fixed,
            f"start=zero requires inner_steps of at least 1 and does not support adapts=body, got "
            f"inner_steps={steps} and adapts={config.adapts}; change these settings",
        ),
        (
            constant and config.outer_lr_end,
            "outer_lr_end requires a schedule; set outer_schedule=cosine or linear",
        ),
    )
    if estimator not in (
        "reptile",
        "implicit",
    ):  # these estimators do not use the path of the inner steps
        return
    asked, proximal = f"estimator={estimator}", config.proximal
    first_order = config.first_order or config.first_order_until
    raise_if(
        (
            learned,
            f"{asked} cannot learn the hyperparameters of {inner}, such as step sizes; use "
            "inner=sgd or adam",
        ),
        (
            first_order,
            f"{asked} uses no second derivatives; remove first_order and first_order_until",
        ),
        (
            config.multi_step_until,
            f"{asked} does not support the multi-step loss; remove multi_step_until",
        ),
        (
            not steps,
            f"{asked} requires inner_steps of at least 1, got {steps}; increase inner_steps",
        ),
    )
    if estimator == "reptile":
        partial = config.adapts != "all" or config.per_step_norm
        raise_if(
            (
                partial,
                f"{asked} requires adapts=all and does not support per_step_norm; set adapts=all "
                "and remove per_step_norm",
            )
        )
    else:
        raise_if(
            (
                start != "learned",
                f"{asked} requires start=learned, got start={start}; remove `start`",
            ),
            (
                not proximal,
                f"{asked} requires `proximal` greater than 0, got {proximal}; increase `proximal`",
            ),
        )
