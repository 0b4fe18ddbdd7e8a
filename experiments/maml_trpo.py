"""Meta-train a policy with MAML-TRPO (Finn et al. 2017), its pretrained baseline or its oracle.

``metarl train maml-trpo --preset navigation-quick --out runs/quick``
"""

import math
import time
from dataclasses import asdict, dataclass, fields, replace
from pathlib import Path
from typing import Any, Literal, NamedTuple, cast

import tyro

from metarl import checkpoint
from metarl.console import Progress
from metarl.core.adapt import InnerLoop
from metarl.core.inner import meta_sgd, sgd
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.core.types import MetaLearner, MetaState, Params
from metarl.device import resolve_device
from metarl.rl.advantages import Process, advantages
from metarl.rl.losses import ESTIMATORS
from metarl.rl.maml_trpo import maml_trpo
from metarl.rl.metrics import rollout_metrics
from metarl.rl.policies import Policy, mlp_policy
from metarl.rl.sampler import Sampler, make_sampler
from metarl.tracking import Run, require_tracker, tracker


INNER = {"sgd": sgd, "meta-sgd": meta_sgd}


@dataclass(frozen=True)
class MAMLTRPO:
    """Meta-train a policy that adapts by policy gradients, with a trust-region meta-update.

    --inner-steps 0 is plain TRPO over all tasks (the pretrained baseline); with --observe-task it
    is the oracle. --preset NAME starts from named settings; `metarl train` lists them.
    """

    out: Path
    """Run folder to make."""
    env: str = "metarl/Navigation2D-v0"
    """Gymnasium id of an environment with tasks."""
    observe_task: bool = False
    """Append the task to the observation."""
    iterations: int = 100
    """Meta-updates."""
    num_tasks: int = 20
    """Tasks of a meta-batch."""
    episodes_per_task: int = 20
    """Episodes of each task before and after each inner step."""
    inner_steps: int = 1
    """Inner policy-gradient steps, each on fresh episodes."""
    inner_lr: float = 0.5
    """Step size of the inner steps."""
    inner: Literal["sgd", "meta-sgd"] = "sgd"
    """Inner optimizer; meta-sgd learns one rate per parameter, starting at --inner-lr."""
    estimator: Literal["reinforce", "ratio"] = "reinforce"
    """Inner loss: log-probability (the paper's) or likelihood ratio (keeps the score term)."""
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
    max_kl: float = 0.01
    """Radius of the trust region."""
    cg_steps: int = 10
    """Conjugate-gradient iterations of a meta-update."""
    cg_damping: float = 1e-5
    """Damping added to the Fisher matrix."""
    backtracks: int = 15
    """Points of the line search."""
    backtrack_ratio: float = 0.8
    """Ratio of successive step lengths in the line search."""
    chunk_size: int | None = None
    """Tasks worked on at a time; by default as many as fit the processor's cache."""
    seed: int = 0
    """Seed of everything random."""
    device: Literal["auto", "cpu", "cuda"] = "auto"
    """Where the policy lives."""
    checkpoint_every: int = 10
    """Iterations between checkpoints."""
    track: Literal["none", "tensorboard", "wandb"] = "none"
    """Also send metrics to a tracker."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        for name in ("inner_lr", "init_std", "output_gain", "action_scale", "max_kl", "cg_damping"):
            self._require(name, math.isfinite(getattr(self, name)), "finite")
        at_least = dict.fromkeys(
            ("iterations", "num_tasks", "episodes_per_task", "cg_steps", "backtracks"), 1
        ) | {"checkpoint_every": 1, "inner_steps": 0, "inner_lr": 0, "cg_damping": 0, "seed": 0}
        for name, low in at_least.items():
            self._require(name, getattr(self, name) >= low, f"at least {low}")
        for name in ("init_std", "max_kl", "output_gain", "action_scale"):
            self._require(name, getattr(self, name) > 0, "greater than 0")
        for name in ("discount", "gae_lambda"):
            self._require(name, 0 <= getattr(self, name) <= 1, "between 0 and 1")
        self._require("backtrack_ratio", 0 < self.backtrack_ratio < 1, "between 0 and 1")
        self._require("chunk_size", self.chunk_size is None or self.chunk_size > 0, "at least 1")
        self._require("hidden", all(width > 0 for width in self.hidden), "positive widths")

    def _require(self, name: str, fine: bool, expected: str) -> None:
        if not fine:
            flag = "--" + name.replace("_", "-")
            raise ValueError(f"{flag} must be {expected}, got {getattr(self, name)}")

    def to_json(self) -> dict[str, Any]:
        """Return the fields that make the run what it is: all but the folder."""
        return {name: value for name, value in asdict(self).items() if name != "out"}

    @classmethod
    def from_json(cls, values: dict[str, Any], out: Path) -> "MAMLTRPO":
        """Rebuild the configuration of a run.

        Raises:
            ValueError: If there are fields that this version does not know.
        """
        known = {field.name for field in fields(cls)} - {"out"}
        if different := known.symmetric_difference(values):
            raise ValueError(
                f"{out}/config.json is of another version, or damaged: see {sorted(different)}"
            )
        try:
            return cls(**{**values, "hidden": tuple(values["hidden"]), "out": out})
        except TypeError as error:
            raise ValueError(f"{out}/config.json is damaged: {error}") from None


class Parts(NamedTuple):
    """Everything that a configuration means."""

    policy: Policy
    params: Params
    loop: InnerLoop
    learner: MetaLearner
    process: Process
    sampler: Sampler


def build(config: MAMLTRPO, *, num_tasks: int | None = None, episodes: int | None = None) -> Parts:
    """Build the parts of a run; evaluation asks for its own numbers of tasks and episodes."""
    sampler = make_sampler(
        config.env,
        num_tasks=num_tasks or config.num_tasks,
        episodes_per_task=episodes or config.episodes_per_task,
        device=resolve_device(config.device),
        **({"observe_task": True} if config.observe_task else {}),
    )
    policy, params = mlp_policy(
        sampler.env.single_observation_space,
        sampler.env.single_action_space,
        hidden=config.hidden,
        activation=config.activation,
        output_gain=config.output_gain,
        init_std=config.init_std,
        scale=config.action_scale,
        generator=torch_generator(config.seed, 0, "parameters"),
    )
    loop = InnerLoop(
        ESTIMATORS[config.estimator](policy),
        INNER[config.inner](config.inner_lr),
        first_order=config.first_order,
        num_steps=config.inner_steps,
    )
    learner = maml_trpo(
        policy,
        loop,
        max_kl=config.max_kl,
        cg_steps=config.cg_steps,
        cg_damping=config.cg_damping,
        backtracks=config.backtracks,
        backtrack_ratio=config.backtrack_ratio,
        chunk_size=config.chunk_size,
    )
    process = advantages(discount=config.discount, gae_lambda=config.gae_lambda)
    return Parts(policy, params, loop, learner, process, sampler)


def main(config: MAMLTRPO) -> None:
    """Start a run."""
    parts = build(config)  # an impossible setting leaves no folder behind
    require_tracker(config.track)
    # What "auto" meant is part of the run: the generators of devices differ.
    config = replace(config, device=cast(Any, parts.sampler.device.type))
    run = Run.create(config.out, "maml-trpo", config.to_json())
    with run.lock():
        state = parts.learner.init(parts.params, device=parts.sampler.device)
        checkpoint.save(run.checkpoint_path(0), state, iteration=0, config=config.to_json())
        train(config, parts, run, state, start=0)


def train(config: MAMLTRPO, parts: Parts, run: Run, state: MetaState, *, start: int) -> None:
    """Train from iteration `start` + 1 on; all randomness comes from (seed, iteration)."""
    sampler, device = parts.sampler, parts.sampler.device
    also = tracker(config.track, run, start=start)
    done = time.perf_counter()
    with Progress(config.iterations, start=start) as progress:
        for iteration in range(start + 1, config.iterations + 1):
            began, ended = time.perf_counter(), done
            tasks = sampler.sample_tasks(numpy_generator(config.seed, iteration, "tasks"))
            generator = torch_generator(config.seed, iteration, "rollouts", device=device)
            batch, collected = sampler.collect(
                parts.policy, parts.loop, state.params, tasks, generator, parts.process
            )
            sampled = time.perf_counter()
            try:
                state, updated = parts.learner.step(state, batch)
            except FloatingPointError as error:
                raise FloatingPointError(
                    f"iteration {iteration}: {error}; the run up to here stays in {run.folder}"
                ) from None
            scalars = collected | updated | rollout_metrics(batch)
            metrics = {name: value.item() for name, value in scalars.items()}
            done = time.perf_counter()
            metrics |= {
                "time/sampling": sampled - began,
                "time/update": done - sampled,
                "time/other": began - ended,
            }
            run.log(iteration, metrics)
            if iteration % config.checkpoint_every == 0 or iteration == config.iterations:
                path = run.checkpoint_path(iteration)
                checkpoint.save(path, state, iteration=iteration, config=config.to_json())
            if also is not None:
                also.log(iteration, metrics)
            progress.update(iteration, metrics)


if __name__ == "__main__":
    main(tyro.cli(MAMLTRPO))
