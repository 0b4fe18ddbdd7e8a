"""Settings of meta-RL: those shared by all methods, and those of each method."""

from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal, TypeAlias, get_type_hints

import tyro

from metarl.core import INNER_OPTIMIZERS
from metarl.rl.methods import METHODS
from metarl.rl.policies import NETWORKS
from metarl.runs import RunConfig, unset
from metarl.util import Ranged, among, at_least, between, greater_than


DESCRIPTION = """--inner-steps 0 trains one policy on all tasks (the pretrained baseline), and with
--observe-task the oracle. --preset NAME starts from named settings; `metarl train` lists them."""
Loss: TypeAlias = Literal["reinforce", "ratio", "dice", "clipped"]


@dataclass(frozen=True)
class EnvironmentSettings(Ranged):
    """Settings of the environment and of the episodes in a meta-batch."""

    group: ClassVar[str] = "environment"
    env: str = "metarl/Navigation2D-v0"
    """Gymnasium id of an environment with tasks; `metarl envs` lists them."""
    observe_task: bool = False
    """Append the task to the observation."""
    vectorization: Literal["auto", "sync", "async"] = "auto"
    """Vectorization of episodes: auto uses the environment's own implementation if it has one, and
    sync otherwise; sync runs in this process; async runs one process per episode, for slow
    simulators. The episodes are the same."""
    num_tasks: Annotated[int, at_least(1)] = 20
    """Number of tasks in a meta-batch."""
    episodes_per_task: Annotated[int, at_least(1)] = 20
    """Number of episodes of each task before and after each inner step."""
    discount: Annotated[float, between(0, 1)] = 0.99
    """Discount factor of the rewards."""
    gae_lambda: Annotated[float, between(0, 1)] = 1.0
    """λ of generalized advantage estimation."""


@dataclass(frozen=True)
class PolicySettings(Ranged):
    """Settings of the policy network and its action distribution."""

    group: ClassVar[str] = "policy"
    network: Annotated[str, among(NETWORKS)] = "mlp"
    """Network of the policy."""
    hidden: Annotated[tuple[int, ...], at_least(1)] = (100, 100)
    """Widths of the hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function of the hidden layers."""
    output_gain: Annotated[float, greater_than(0)] = 0.1
    """Gain of the last layer's initial weights. Small values keep the initial actions near zero
    for all observations."""
    init_std: Annotated[float, greater_than(0)] = 1.0
    """Initial standard deviation of the actions; the action range is [-1, 1]."""
    action_scale: Annotated[float, greater_than(0)] = 1.0
    """Factor from the network's outputs to actions. 0.1 corresponds to policies of other
    implementations that act in [-10, 10]; each inner step then changes the actions less."""


@dataclass(frozen=True)
class InnerLoopSettings(Ranged):
    """Settings of the adaptation to one task."""

    group: ClassVar[str] = "inner loop"
    inner_steps: Annotated[int, at_least(0)] = 1
    """Number of inner policy-gradient steps; each uses new episodes."""
    inner_lr: Annotated[float, at_least(0)] = 0.5
    """Step size of the inner steps; initial value of learned step sizes."""
    inner: Annotated[str, among(INNER_OPTIMIZERS)] = "sgd"
    """Inner optimizer: sgd or adam; with learned step sizes lslr, meta-sgd, meta-curvature or
    meta-curvature+lslr."""
    inner_loss: Loss = "reinforce"
    """Inner loss: reinforce (log-probability, Finn et al. 2017); ratio (likelihood ratio, ProMP);
    dice (unbiased derivatives of every order with --discount 1 --gae-lambda 1, high variance); or
    clipped (PPO)."""
    inner_clip: Annotated[float, greater_than(0)] = 0.5
    """Clip the probability ratio of the clipped inner loss to 1 ± this value."""
    first_order: bool = False
    """Treat inner gradients as constants (FOMAML)."""
    inner_gae_lambda: Annotated[float | None, between(0, 1), unset("gae-lambda")] = None
    """λ of the advantages in the inner steps. Lower values reduce the variance of the inner
    gradient, which has few episodes."""
    context_size: Annotated[int, at_least(0)] = 0
    """Number of context parameters. If positive, only these adapt, starting from zero (CAVIA)."""


@dataclass(frozen=True)
class RLConfig(InnerLoopSettings, PolicySettings, EnvironmentSettings, RunConfig):
    """Settings of meta-RL; each method adds the settings of its outer update."""

    chunk_size: Annotated[int | None, at_least(1), unset("fits the cache")] = None
    """Number of tasks processed at a time."""

    method: ClassVar[str]
    """Name of the method in :data:`metarl.rl.methods.METHODS`."""


@cache
def config_class(method: str) -> type[RLConfig]:
    """Return the configuration class of a method: the shared settings and those of the method.

    Args:
        method: A name in :data:`metarl.rl.methods.METHODS`.
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
    space = {"method": method, "group": "outer update", "__doc__": text, "__module__": __name__}
    name = method.title().replace("-", "")
    return make_dataclass(name, fields, bases=(RLConfig,), frozen=True, namespace=space)
