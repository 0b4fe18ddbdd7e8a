"""Meta-train a policy with any method of the table: its settings, and the parts they build.

``metarl train maml-trpo --preset navigation-quick --out runs/quick``
"""

import difflib
import sys
from dataclasses import dataclass, field, make_dataclass, replace
from functools import cache
from typing import Annotated, ClassVar, Literal, NamedTuple, TypeAlias, get_type_hints

import gymnasium
import torch
import tyro
from gymnasium.error import UnregisteredEnv

from metarl.core.adapt import InnerLoop
from metarl.core.inner import adam, sgd
from metarl.core.optimizers import LEARNED_RATES, Inner, inner_optimizer
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.core.speed import chunks, processes
from metarl.core.types import MetaLearner, MetaState, Params
from metarl.envs import ENVIRONMENTS
from metarl.experiments.launch import launch
from metarl.rl.advantages import Process, advantages
from metarl.rl.cavia import context_loop
from metarl.rl.evaluate import paper_rates
from metarl.rl.losses import INNER_LOSSES
from metarl.rl.methods import METHODS
from metarl.rl.metrics import rollout_metrics
from metarl.rl.policies import Policy, mlp_policy
from metarl.rl.sampler import Sampler, make_sampler
from metarl.runs.config import RunConfig, require
from metarl.runs.folder import Run
from metarl.runs.journal import Journal
from metarl.util.device import resolve_device
from metarl.util.ranges import at_least, between, greater_than


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
    """How episodes run side by side: auto takes the environment's own batched face, and without one
    sync, in this process; async takes one process per episode, for slow simulators. The episodes
    are the same."""
    num_tasks: int = 20
    """Tasks of a meta-batch."""
    episodes_per_task: int = 20
    """Episodes of each task before and after each inner step."""
    inner_steps: int = 1
    """Inner policy-gradient steps, each on fresh episodes."""
    inner_lr: float = 0.5
    """Step size of the inner steps."""
    inner: Inner = "sgd"
    """Inner optimizer; the rates of all but sgd and adam are learned, starting at --inner-lr."""
    inner_loss: Loss = "reinforce"
    """Inner loss: log-probability (Finn et al. 2017), likelihood ratio (ProMP; its second
    derivative keeps the score term), dice (derivatives of every order, high variance; unbiased
    with --discount 1 --gae-lambda 1) or clipped (PPO's)."""
    inner_clip: float = 0.5
    """How far from 1 a probability ratio of the clipped inner loss may move."""
    first_order: bool = False
    """Treat inner gradients as constants (FOMAML)."""
    hidden: tuple[int, ...] = (100, 100)
    """Widths of the policy's hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """Nonlinearity of the policy."""
    output_gain: float = 0.1
    """Factor of the last layer's initial weights: a policy that starts out much the same everywhere
    does not run away from the origin before the first updates reach it."""
    init_std: float = 1.0
    """Initial standard deviation of the actions, where [-1, 1] is the full range."""
    action_scale: float = 1.0
    """Unit of the policy's outputs and of its learned standard deviation. 0.1 is what peers mean by
    a policy that acts in [-10, 10]: the same inner step moves it less."""
    discount: float = 0.99
    """Discount factor of rewards."""
    gae_lambda: float = 1.0
    """Lambda of generalized advantage estimation."""
    inner_gae_lambda: float | None = None
    """Another lambda for the episodes that the inner steps learn from: a lower one makes the few
    episodes of a task agree on a direction, and the meta-update makes it a useful one."""
    context_size: int = 0
    """Context parameters: if there are any, they alone adapt, from zero (CAVIA)."""
    chunk_size: int | None = None
    """Tasks worked on at a time; by default as many as fit the processor's cache."""

    method: ClassVar[str]
    """Name of the method, a row of :data:`metarl.rl.methods.METHODS`."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        require(self, at_least(1), "num_tasks", "episodes_per_task", "hidden", "chunk_size")
        require(self, at_least(0), "inner_steps", "inner_lr", "context_size")
        require(self, greater_than(0), "output_gain", "init_std", "action_scale", "inner_clip")
        require(self, between(0, 1), "discount", "gae_lambda", "inner_gae_lambda")
        for name, option in METHODS[self.method].options().items():
            if option.range is not None:
                require(self, option.range, name)


@cache
def config_class(method: str) -> type[RLConfig]:
    """Return the configuration of a method: the shared settings and the method's own.

    Args:
        method: A name of :data:`metarl.rl.methods.METHODS`.
    """
    row = METHODS[method]
    hints = get_type_hints(RLConfig, include_extras=True)
    changed = [(name, hints[name], value) for name, value in row.values.items()]
    own = [
        (name, Annotated[option.kind, tyro.conf.arg(help=option.help)], option.default)
        for name, option in row.options().items()
        if name not in hints
    ]
    text = f"{row.summary[0].upper()}{row.summary[1:]} ({row.paper}).\n\n{DESCRIPTION}"
    space = {"method": method, "__doc__": text, "__module__": __name__}
    return make_dataclass(
        method.title().replace("-", ""),
        [(name, kind, field(default=value)) for name, kind, value in changed + own],
        bases=(RLConfig,), frozen=True, namespace=space,
    )  # fmt: skip


class Parts(NamedTuple):
    """Everything that a configuration means."""

    policy: Policy
    params: Params
    loop: InnerLoop
    learner: MetaLearner
    process: tuple[Process, Process]
    sampler: Sampler

    @property
    def device(self) -> torch.device:
        """Where the parameters live."""
        return self.sampler.device

    def init(self) -> MetaState:
        """Return the state before the first iteration."""
        return self.learner.init(self.params, device=self.device)


def build(config: RLConfig, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run.

    Args:
        config: Its settings.
        num_tasks: Instead of the run's, for an evaluation.
        episodes: Episodes per task instead of the run's, for an evaluation.

    Raises:
        ValueError: If there is no such environment, or it has no tasks.
    """
    sampler = _sampler(
        config,
        num_tasks=config.num_tasks if num_tasks is None else num_tasks,
        episodes=config.episodes_per_task if episodes is None else episodes,
        share=_share(config) if num_tasks is None else None,
    )
    policy, params = mlp_policy(
        sampler.env.single_observation_space,
        sampler.env.single_action_space,
        hidden=config.hidden,
        activation=config.activation,
        output_gain=config.output_gain,
        init_std=config.init_std,
        scale=config.action_scale,
        context=config.context_size,
        generator=torch_generator(config.seed, 0, "parameters"),
    )
    loop = _inner_loop(config, policy)
    method = METHODS[config.method]
    settings = {name: getattr(config, name) for name in method.options()}
    learner = method.function()(policy, loop, **settings)
    return Parts(policy, params, loop, learner, _processing(config), sampler)


def _inner_loop(config: RLConfig, policy: Policy) -> InnerLoop:
    options = {"clip": config.inner_clip} if config.inner_loss == "clipped" else {}
    loop = InnerLoop(
        INNER_LOSSES[config.inner_loss](policy, **options),
        inner_optimizer(config.inner, config.inner_lr, config.inner_steps),
        first_order=config.first_order,
        num_steps=config.inner_steps,
    )
    return context_loop(loop, config.context_size) if config.context_size else loop


def _processing(config: RLConfig) -> tuple[Process, Process]:
    """Return what computes advantages: of the support episodes, and of the query."""
    inner = config.gae_lambda if config.inner_gae_lambda is None else config.inner_gae_lambda
    return (
        advantages(discount=config.discount, gae_lambda=inner),
        advantages(discount=config.discount, gae_lambda=config.gae_lambda),
    )


def train(config: RLConfig, parts: Parts, run: Run, state: MetaState, *, start: int) -> None:
    """Train from iteration `start` + 1 on; all randomness comes from (seed, iteration)."""
    sampler = parts.sampler
    with Journal(run, config, start=start) as journal:
        for iteration in journal.iterations():
            tasks = sampler.sample_tasks(numpy_generator(config.seed, iteration, "tasks"))
            generator = torch_generator(config.seed, iteration, "rollouts", device=sampler.device)
            batch, collected = sampler.collect(
                parts.policy, parts.loop, state.params, tasks, generator, parts.process
            )
            journal.collected()
            state, updated = parts.learner.step(state, batch)
            journal.write(iteration, state, collected | updated | rollout_metrics(batch))


def main(config: RLConfig) -> None:
    """Start a run."""
    launch(config.method, config, build(config), sys.modules[__name__])


def paper_loop(config: RLConfig, loop: InnerLoop, *, num_steps: int, rate: float) -> InnerLoop:
    """Return the loop of the paper's test: step size `rate`, then half of it; learned ones stay."""
    optimizer = loop.optimizer
    if config.inner not in LEARNED_RATES:
        optimizer = sgd(paper_rates(rate)) if config.inner == "sgd" else adam(rate)
    return replace(loop, num_steps=num_steps, optimizer=optimizer)


def _share(config: RLConfig) -> processes.TaskSlice:
    """Return the tasks of this process, whole chunks if they can be told before there are any."""
    spec = gymnasium.registry.get(config.env.rpartition(":")[2])
    steps = config.episodes_per_task * ((spec and spec.max_episode_steps) or 1)
    fitting = chunks.cache_sized(steps, config.num_tasks, torch.device("cpu")) or 1
    return processes.share(config.num_tasks, multiple=config.chunk_size or fitting)


def _sampler(
    config: RLConfig, *, num_tasks: int, episodes: int, share: processes.TaskSlice | None
) -> Sampler:
    try:
        return make_sampler(
            config.env,
            num_tasks=num_tasks,
            episodes_per_task=episodes,
            device=resolve_device(config.device),
            share=share,
            vectorization_mode=None if config.vectorization == "auto" else config.vectorization,
            **({"observe_task": True} if config.observe_task else {}),
        )
    except UnregisteredEnv as error:
        ours = [row.id for row in ENVIRONMENTS]
        name = config.env if "/" in config.env else f"metarl/{config.env}"
        close = difflib.get_close_matches(name, ours, 1, cutoff=0.8)
        hint = f"did you mean {close[0]}?" if close else str(error)
        raise ValueError(
            f"there is no --env {config.env}: {hint} (`metarl envs` lists ours)"
        ) from None
