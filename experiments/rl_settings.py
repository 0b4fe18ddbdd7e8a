"""The settings of every meta-RL experiment: shared ones, and those that a method adds."""

from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal, TypeAlias, get_type_hints

import tyro

from metarl.core import INNER_OPTIMIZERS
from metarl.rl.methods import METHODS
from metarl.rl.policies import NETWORKS
from metarl.runs import RunConfig
from metarl.util import among, at_least, between, greater_than


DESCRIPTION = """--inner-steps 0 trains one policy on all tasks (the pretrained baseline); with
--observe-task it is the oracle. --preset NAME starts from named settings; `metarl train` lists
them."""
Loss: TypeAlias = Literal["reinforce", "ratio", "dice", "clipped"]


@dataclass(frozen=True)
class RLConfig(RunConfig):
    """A distribution of tasks, a policy, and how it adapts; a method adds its meta-update."""

    env: str = "metarl/Navigation2D-v0"
    """Gymnasium id of an environment with tasks."""
    observe_task: bool = False
    """Append the task to the observation."""
    vectorization: Literal["auto", "sync", "async"] = "auto"
    """How episodes run side by side: auto uses the environment's vectorized implementation, and
    without one sync, in this process; async uses one process per episode, for slow simulators. The
    episodes are the same."""
    num_tasks: Annotated[int, at_least(1)] = 20
    """Tasks of a meta-batch."""
    episodes_per_task: Annotated[int, at_least(1)] = 20
    """Episodes of each task before and after each inner step."""
    inner_steps: Annotated[int, at_least(0)] = 1
    """Inner policy-gradient steps, each on fresh episodes."""
    inner_lr: Annotated[float, at_least(0)] = 0.5
    """Step size of the inner steps."""
    inner: Annotated[str, among(INNER_OPTIMIZERS)] = "sgd"
    """Inner optimizer: sgd, adam, or with learned rates, which start at --inner-lr, lslr, meta-sgd,
    meta-curvature or meta-curvature+lslr."""
    inner_loss: Loss = "reinforce"
    """Inner loss: log-probability (Finn et al. 2017), likelihood ratio (ProMP; its second
    derivative keeps the score term), dice (derivatives of every order, high variance; unbiased
    with --discount 1 --gae-lambda 1) or clipped (PPO's)."""
    inner_clip: Annotated[float, greater_than(0)] = 0.5
    """How far from 1 a probability ratio of the clipped inner loss may move."""
    first_order: bool = False
    """Treat inner gradients as constants (FOMAML)."""
    network: Annotated[str, among(NETWORKS)] = "mlp"
    """Network of the policy."""
    hidden: Annotated[tuple[int, ...], at_least(1)] = (100, 100)
    """Widths of the policy's hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """Nonlinearity of the policy."""
    output_gain: Annotated[float, greater_than(0)] = 0.1
    """Factor of the last layer's initial weights: a policy that starts out much the same everywhere
    does not run away from the origin before the first updates reach it."""
    init_std: Annotated[float, greater_than(0)] = 1.0
    """Initial standard deviation of the actions, where [-1, 1] is the full range."""
    action_scale: Annotated[float, greater_than(0)] = 1.0
    """Unit of the policy's outputs and of its learned standard deviation. 0.1 is what peers mean by
    a policy that acts in [-10, 10]: the same inner step moves it less."""
    discount: Annotated[float, between(0, 1)] = 0.99
    """Discount factor of rewards."""
    gae_lambda: Annotated[float, between(0, 1)] = 1.0
    """Lambda of generalized advantage estimation."""
    inner_gae_lambda: Annotated[float | None, between(0, 1)] = None
    """Another lambda for the episodes that the inner steps learn from: a lower one makes the few
    episodes of a task agree on a direction, and the meta-update makes it a useful one."""
    context_size: Annotated[int, at_least(0)] = 0
    """Number of context parameters; if positive, only these adapt, starting from zero (CAVIA)."""
    chunk_size: Annotated[int | None, at_least(1)] = None
    """Tasks worked on at a time; by default as many as fit the processor's cache."""

    method: ClassVar[str]
    """Name of the method, a row of :data:`metarl.rl.methods.METHODS`."""


@cache
def config_class(method: str) -> type[RLConfig]:
    """Return the configuration of a method: the shared settings and the method's own.

    Args:
        method: A name of :data:`metarl.rl.methods.METHODS`.
    """
    row = METHODS[method]
    hints = get_type_hints(RLConfig, include_extras=True)
    fields = [(name, hints[name], field(default=value)) for name, value in row.values.items()]
    fields += [
        (
            name,
            Annotated[option.kind, tyro.conf.arg(help=option.help)],
            field(default=option.default),
        )
        for name, option in row.options().items()
        if name not in hints
    ]
    text = f"{row.summary[0].upper()}{row.summary[1:]} ({row.paper}).\n\n{DESCRIPTION}"
    space = {"method": method, "__doc__": text, "__module__": __name__}
    name = method.title().replace("-", "")
    return make_dataclass(name, fields, bases=(RLConfig,), frozen=True, namespace=space)
