"""Training with Stable-Baselines3 on one task, or on all tasks as an oracle or pretrained policy.

``metarl train sb3 --algo ppo --env metarl/HalfCheetahDir-v1 --task '{"direction": -1}' --out DIR``
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import torch
import tyro

from metarl.core import MetaLearner, Metrics, numpy_generator, seed_sequence, torch_generator, tree
from metarl.core.speed import processes
from metarl.drawing import Shot, draw_recordings, headline
from metarl.experiment import Device, Evaluation, Experiment, Report
from metarl.experiments.rl_rendering import play, recorder_of, tasks_shown
from metarl.rl import (
    Rollout,
    Sampler,
    TaskDescription,
    make_sampler,
    masked,
    mean_return,
    paper_episodes,
    paper_tasks,
    read_task,
)
from metarl.runs import Run, RunConfig, Subject, unset
from metarl.sb3 import NO_PARAMS, advance, make_model, policy_of, sb3_env
from metarl.sb3 import checkpoint as sb3_checkpoint
from metarl.util import Table, at_least, between, greater_than, interval95


@dataclass(frozen=True)
class SB3Config(RunConfig):
    """Train a policy with Stable-Baselines3, on one task or on all tasks.

    With --observe-task and without --task, the policy is the oracle: each episode samples a task,
    which the policy observes. Without both flags, the policy is pretrained on all tasks. Other
    hyperparameters are those of SB3, except that PPO's rollouts are whole episodes, SAC and TD3
    take one gradient step per environment step, and TD3 explores with noise.

    On a CPU, a resumed run equals an uninterrupted one: every iteration starts new episodes, with
    random numbers from the seed and the iteration.
    """

    iterations: int = 20
    """Number of evaluations, each after --eval-every environment steps."""
    eval_every: Annotated[int, at_least(1)] = 10_000
    """Environment steps between evaluations; PPO finishes its rollout first."""
    total_steps: Annotated[int | None, at_least(1), unset("iterations × eval-every")] = None
    """Environment steps of the whole run, rounded up to an evaluation; replaces --iterations."""
    algo: Literal["ppo", "a2c", "sac", "td3"] = "ppo"
    """Algorithm; sac and td3 need continuous actions."""
    env: str = "metarl/Navigation2D-v0"
    """Gymnasium id of an environment with tasks."""
    task: Annotated[str | None, unset("sampled for every episode")] = None
    """Task as JSON, such as '{"direction": -1}'."""
    observe_task: bool = False
    """Append the task to the observation."""
    num_envs: Annotated[int, at_least(1)] = 16
    """Number of environments that step in parallel."""
    episodes: Annotated[int, at_least(1)] = 20
    """Number of episodes of an evaluation, without exploration; each has a new task if --task is
    not set."""
    hidden: Annotated[tuple[int, ...] | None, at_least(1), unset("that of SB3")] = None
    """Widths of the hidden layers; SB3 uses 64 64 for ppo and a2c, and larger ones for others."""
    learning_rate: Annotated[float | None, greater_than(0), unset("that of SB3")] = None
    """Step size."""
    discount: Annotated[float, between(0, 1)] = 0.99
    """Discount factor of the rewards."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of the networks; small ones are fastest on the CPU."""
    checkpoint_every: int = 1
    """Evaluations between checkpoints."""
    log_every: tyro.conf.Suppress[int] = 1

    def __post_init__(self) -> None:
        """Validate the settings and convert total_steps into `iterations`."""
        super().__post_init__()
        if self.total_steps is not None:  # from here on --iterations says it
            object.__setattr__(self, "iterations", math.ceil(self.total_steps / self.eval_every))
            object.__setattr__(self, "total_steps", None)


@dataclass(frozen=True)
class SB3Evaluation(Evaluation):
    """Measure the return of a policy trained by Stable-Baselines3.

    The policy is evaluated on the run's --task, or if it has none on the test tasks of meta-learned
    policies (40 tasks with seed 1, as in Finn et al. 2017). Actions are the modes of the
    distribution, as in SB3's own evaluation.
    """

    num_tasks: Annotated[int, at_least(1)] = 40
    """Number of test tasks, for runs without --task."""
    episodes_per_task: Annotated[int | None, at_least(1), unset("4000 steps in total")] = None
    """Number of episodes of each task."""
    explore: bool = False
    """Sample the actions, as in training and in evaluations of meta-learned policies."""
    device: Device = "cpu"
    """Device of the policy."""


class StableBaselines(Experiment[SB3Config]):
    """Training with Stable-Baselines3; the training state is an SB3 model."""

    name = "sb3"
    settings = SB3Config
    evaluation = SB3Evaluation

    @property
    def env_options(self) -> dict[str, Any]:
        """Keyword arguments of the environment."""
        return {"observe_task": True} if self.config.observe_task else {}

    def sampler(self, num_tasks: int, episodes: int) -> Sampler:
        """Return a sampler for evaluations."""
        return make_sampler(
            self.config.env, num_tasks=num_tasks, episodes_per_task=episodes, **self.env_options
        )

    @cached_property
    def single(self) -> Sampler:
        """An environment with one episode, used for its horizon and its tasks."""
        return self.sampler(1, 1)

    @cached_property
    def task(self) -> TaskDescription | None:
        """The task of the run; None if each episode samples a task."""
        return None if self.config.task is None else read_task(self.config.task, self.single)

    @cached_property
    def evaluator(self) -> Sampler:
        """The sampler of the evaluations during training."""
        return self.sampler(self.config.episodes, 1)

    def init(self) -> Any:
        """Return an untrained SB3 model."""
        processes.require_alone("runs of Stable-Baselines3")
        config = self.config
        return make_model(
            config.algo,
            sb3_env(config.env, num_envs=config.num_envs, task=self.task, **self.env_options),
            horizon=self.single.horizon,
            seed=self.seed_of(0),
            discount=config.discount,
            hidden=config.hidden,
            learning_rate=config.learning_rate,
            device=self.device,
        )

    def seed_of(self, iteration: int) -> int:
        """Return the seed of SB3's random numbers in one iteration."""
        drawn = seed_sequence(self.config.seed, iteration, "sb3").generate_state(1)[0]
        return int(drawn >> 1)

    def prepare(self) -> dict[str, float]:
        """Return the metrics of the untrained model."""
        super().prepare()
        return {"env/steps": 0.0, "return/step_0": self.earned(self.init()).item()}

    def draw(self, state: Any, iteration: int) -> tuple[Any, Metrics]:
        """Return an empty meta-batch: SB3 collects its own experience."""
        return (), {}

    def learner(self, iteration: int) -> MetaLearner:
        """Return a learner that trains the model until the next evaluation and evaluates it."""

        def step(model: Any, tasks: Any) -> tuple[Any, Metrics]:
            before = model.num_timesteps
            advance(model, iteration * self.config.eval_every, seed=self.seed_of(iteration))
            taken = torch.tensor(float(model.num_timesteps - before))
            return model, {"env/steps": taken, "return/step_0": self.earned(model)}

        return MetaLearner(self.init, step, adapt=self.model)  # type: ignore[arg-type]

    def earned(self, model: Any) -> torch.Tensor:
        """Measure the mean return on the same tasks and initial states in every evaluation.

        It is logged like the return of a meta-learned policy without inner steps.
        """
        seed = self.config.seed
        drawn = self.evaluator.sample_tasks(numpy_generator(seed, 0, "evaluation"))
        tasks = drawn if self.task is None else [self.task] * len(drawn)
        return mean_return(play_tasks(model, self.evaluator, tasks, seed=seed)).mean()

    def save(self, run: Run, iteration: int, state: Any) -> None:
        """Write a checkpoint in SB3's format."""
        sb3_checkpoint.save(run, state, iteration)

    def restore(self, run: Run, iteration: int, *, replay: bool = True) -> Any:
        """Load the model of a checkpoint, with its replay buffer if `replay` is true."""
        model = self.init()
        sb3_checkpoint.restore(run, model, iteration, replay=replay)
        return model

    def read(self, run: Run, iteration: int) -> Any:
        """Load the model of a checkpoint for an evaluation."""
        return self.restore(run, iteration, replay=False)

    def copy(self, run: Run, iteration: int, new: Run, config: RunConfig) -> None:
        """Copy the tensors of a checkpoint, without its pickles."""
        del config
        sb3_checkpoint.copy(run, new, iteration)

    def describe(self) -> Subject:
        """Return the algorithm and the environment."""
        source = "by Stable-Baselines3, without meta-learning"
        return Subject(
            self.config.algo, source, self.config.env, "reinforcement-learning", False, "render"
        )

    def model(self, params: Any, **options: Any) -> Any:
        """Raise a ValueError, because policies of SB3 do not adapt."""
        raise ValueError(
            "policies trained by Stable-Baselines3 do not adapt. Use `metarl pull` and `metarl "
            "evaluate` to measure the return"
        )

    def evaluate(self, metas: Sequence[Any], options: SB3Evaluation) -> Report:
        """Report the return on the run's task, or on test tasks."""
        num_tasks = options.num_tasks if self.task is None else 1
        episodes = options.episodes_per_task or paper_episodes(self.single.horizon)
        sampler, seed = self.sampler(num_tasks, episodes), options.seed
        tasks = paper_tasks(sampler, seed) if self.task is None else [self.task]
        rollout = play_tasks(metas[0], sampler, tasks, seed=seed, explore=options.explore)
        returns = masked(rollout.rewards, rollout.mask).sum(1).double().cpu().numpy()
        mean = float(returns.mean())
        # Tasks differ more than their episodes do; of one task there are only its episodes.
        half = float(interval95(returns.mean(1) if len(returns) > 1 else returns[0]))
        values = {
            "env": self.config.env,
            "num_tasks": num_tasks,
            "episodes_per_task": episodes,
            "tasks": tasks,
            "seed": options.seed,
            "explore": options.explore,
            "mean": [mean],
            "interval95": [half],
            "returns": returns.mean(1, keepdims=True).tolist(),
        }
        title = f"return on {f'{num_tasks} test tasks' if self.task is None else self.config.task}"
        rows = [[f"{mean:.2f}", f"± {half:.2f}"]]
        name = f"tasks-{num_tasks}_episodes-{episodes}_seed-{options.seed}"
        name += "_explore" if options.explore else ""
        return Report(name, values, [Table(title, ["mean return", "95 % interval"], rows)])

    def draw_adaptation(
        self, experiments: Sequence[Experiment[Any]], metas: Sequence[Any], options: Any
    ) -> None:
        """Record one episode of each run."""
        rows = []
        for one, model in zip(experiments, metas, strict=True):
            task = tasks_shown(self.single, options, options.task or one.config.task)[0]
            (played,), pace = play(recorder_of(one), policy_of(model), [NO_PARAMS], task, options)
            rows.append([Shot(one.config.algo, float(played.returns[-1]), played)])
        draw_recordings(rows, options.out, title=headline(self.config.env, task), pace=pace)


def play_tasks(
    model: Any, sampler: Sampler, tasks: list[TaskDescription], *, seed: int, explore: bool = False
) -> Rollout:
    """Collect the episodes of an evaluation."""
    if explore:  # by draws from the global generators
        model.set_random_seed(seed)
    policy = policy_of(model, deterministic=not explore)
    generator = torch_generator(seed, 0, "evaluation")
    return sampler.rollout(policy, tree.expand(NO_PARAMS, len(tasks)), tasks, generator)
