"""Configuration of meta-RL: settings shared by all methods, and method-specific settings."""

from dataclasses import dataclass, field, make_dataclass
from functools import cache
from typing import Annotated, ClassVar, Literal, TypeAlias, get_type_hints

import tyro

from metarl.core import INNER_OPTIMIZERS
from metarl.nn import CELLS
from metarl.rl.methods import METHODS
from metarl.rl.networks import NETWORKS
from metarl.runs import RunConfig, unset
from metarl.util import Conflicts, Ranged, among, at_least, between, greater_than


DESCRIPTION = """--inner-steps 0 trains one policy on all tasks without adaptation: the pretrained
baseline or, with --observe-task, the oracle. --preset NAME selects published or quick settings; run
`metarl train` to list all presets."""
Loss: TypeAlias = Literal["reinforce", "ratio", "dice", "clipped"]


@dataclass(frozen=True)
class EnvironmentSettings(Ranged):
    """Settings for the environment and the episodes in a meta-batch."""

    group: ClassVar[str] = "environment"
    env: str = "metarl/Navigation2D-v0"
    """Gymnasium ID of an environment with tasks; run `metarl envs` to list the
    built-in environments."""
    observe_task: bool = False
    """Append the task parameters to the observation. With --inner-steps 0, this
    trains an oracle."""
    vectorization: Literal["auto", "sync", "async"] = "auto"
    """Implementation of parallel episodes. auto uses the environment's
    vectorized implementation if there is one, otherwise sync. sync runs all
    episodes in this process; async runs each episode in a separate process,
    for slow simulators. This setting does not change the sampled episodes."""
    worker_timeout: Annotated[float | None, greater_than(0), unset("wait forever")] = None
    """Time in seconds to wait for an answer of a process with --vectorization async, such as one
    time step. Set this for simulators that may hang: after this time, the run ends with an error
    that names the process and its task."""
    num_tasks: Annotated[int, at_least(1)] = 20
    """Number of tasks per meta-batch."""
    episodes_per_task: Annotated[int, at_least(1)] = 20
    """Number of episodes per task before and after each inner step."""
    discount: Annotated[float, between(0, 1)] = 0.99
    """Discount factor γ for future rewards."""
    gae_lambda: Annotated[float, between(0, 1)] = 1.0
    """Parameter λ of generalized advantage estimation (GAE) in the outer
    update and, unless --inner-gae-lambda is set, in the inner steps."""
    info: tuple[str, ...] = ()
    """Names of numbers or booleans in the environment's info to report, such as
    success. The value for an episode is the maximum over its time steps: 1 if a
    boolean was ever true. The reported value is the mean over episodes."""


@dataclass(frozen=True)
class PolicySettings(Ranged):
    """Settings for the policy network and the action distribution."""

    group: ClassVar[str] = "policy"
    network: Annotated[str, among(NETWORKS)] = "mlp"
    """Architecture of the policy network: mlp is a multilayer perceptron; cnn has the convolutions
    of Mnih et al. 2015 for image observations, followed by the hidden layers; gru and lstm have a
    recurrent cell after the hidden layers and, for images, the same convolutions; attention has
    linear attention over the earlier time steps in place of the cell."""
    hidden: Annotated[tuple[int, ...], at_least(1)] = (100, 100)
    """Numbers of units in the hidden layers, one number per layer."""
    memory: Annotated[int, at_least(1)] = 128
    """Number of units in the recurrent cell, or of outputs of linear attention; only used
    with --network gru, lstm and attention."""
    normalize_observations: bool = False
    """Standardize observations with their running mean and standard deviation,
    which are updated after each iteration and are part of the checkpoints. In
    the first iteration, the policy observes zeros. Use this setting if
    observations have different units or are not near 1."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function of the hidden layers."""
    output_gain: Annotated[float, greater_than(0)] = 0.1
    """Gain of the initial weights in the last layer. A small gain keeps the
    mean actions near zero for all observations at the start of training."""
    init_std: Annotated[float, greater_than(0)] = 1.0
    """Initial standard deviation of the actions; the action range is [-1, 1]."""
    action_scale: Annotated[float, greater_than(0)] = 1.0
    """Factor that converts the network's outputs to actions. With a smaller
    factor, an inner step changes the actions less; 0.1 corresponds to
    implementations with actions in [-10, 10]."""


@dataclass(frozen=True)
class InnerLoopSettings(Ranged):
    """Settings for the adaptation to a task."""

    group: ClassVar[str] = "inner loop"
    inner_steps: Annotated[int, at_least(0)] = 1
    """Number of policy-gradient steps that adapt to a task; each step uses new episodes. For rl2,
    number of episodes before the last episode of a trial."""
    inner_lr: Annotated[float, at_least(0)] = 0.5
    """Step size of the inner steps; initial value of learned step sizes."""
    inner: Annotated[str, among(INNER_OPTIMIZERS)] = "sgd"
    """Inner optimizer: sgd or adam with a fixed step size, lslr, meta-sgd or
    meta-curvature+lslr with learned step sizes, or meta-curvature with a
    learned preconditioner and a fixed step size."""
    inner_loss: Loss = "reinforce"
    """Inner loss: reinforce uses log-probabilities (Finn et al. 2017), ratio
    uses likelihood ratios (ProMP), clipped uses clipped likelihood ratios
    (PPO), and dice has unbiased derivatives of every order with --discount 1
    and --gae-lambda 1, but a high variance."""
    inner_clip: Annotated[float, greater_than(0)] = 0.5
    """Clip likelihood ratios to 1 ± this value; only used with --inner-loss clipped."""
    first_order: bool = False
    """Treat inner gradients as constants in the meta-gradient (FOMAML)."""
    inner_gae_lambda: Annotated[float | None, between(0, 1), unset("value of --gae-lambda")] = None
    """Parameter λ of generalized advantage estimation in the inner steps.
    Lower values reduce the variance of the inner gradient, which is estimated
    from few episodes."""
    context_size: Annotated[int, at_least(0)] = 0
    """Number of context parameters. If positive, inner steps adapt only the
    context parameters, which start at zero in every task (CAVIA). With 0,
    inner steps adapt the whole network."""


@dataclass(frozen=True)
class RLConfig(InnerLoopSettings, PolicySettings, EnvironmentSettings, RunConfig):
    """Settings shared by all meta-RL methods.

    :func:`config_class` returns a subclass with the additional settings of a method.
    """

    chunk_size: Annotated[
        int | None, at_least(1), unset("as many as fit the CPU cache; all on a GPU")
    ] = None
    """Number of tasks that are processed together; larger values need more memory."""

    method: ClassVar[str]
    """Name of the method, a key of :data:`metarl.rl.methods.METHODS`."""

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        alone = self.worker_timeout is not None and self.vectorization != "async"
        unused = f"worker_timeout requires vectorization=async, got {self.vectorization}"
        forgets = METHODS[self.method].trials and self.network not in CELLS
        names = " or ".join(CELLS)
        error = f"method {self.method} requires network={names}, got network={self.network}"
        return [*super().conflicts(), (forgets, error), (alone, unused)]


@cache
def config_class(method: str) -> type[RLConfig]:
    """Return the configuration dataclass of a method.

    Args:
        method: Name of the method, a key of :data:`metarl.rl.methods.METHODS`.

    Returns:
        A subclass of :class:`RLConfig` with additional fields for the settings of the method.
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
