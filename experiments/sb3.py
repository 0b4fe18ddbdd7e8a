"""Training with Stable-Baselines3 on one task, or on all tasks (oracle or pretrained policy).

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
    """Train a policy with Stable-Baselines3 (SB3) on one task or on all tasks.

    With --task, the policy is trained on this task. Without --task, a task is sampled for every
    episode: with --observe-task, the policy also observes the task (the oracle baseline), otherwise
    it does not (the pretraining baseline).
    Hyperparameters without a flag have SB3's defaults, with three exceptions: PPO updates on whole
    episodes, SAC and TD3 take one gradient step per environment step, and TD3 explores with
    Gaussian noise.

    On a CPU, a resumed run gives the same results as an uninterrupted run, because every iteration
    starts new episodes with random numbers that only depend on the seed and the iteration.
    """

    iterations: int = 20
    """Number of evaluations, each after --eval-every environment steps."""
    eval_every: Annotated[int, at_least(1)] = 10_000
    """Number of environment steps between evaluations. PPO rounds up to the end of a rollout."""
    total_steps: Annotated[int | None, at_least(1), unset("iterations × eval-every")] = None
    """Total number of environment steps, rounded up to a multiple of --eval-every; overrides
    --iterations."""
    algo: Literal["ppo", "a2c", "sac", "td3"] = "ppo"
    """Training algorithm; sac and td3 require continuous actions."""
    env: str = "metarl/Navigation2D-v0"
    """Gymnasium ID of an environment with tasks; run `metarl envs` to list the built-in
    environments."""
    task: Annotated[str | None, unset("sampled for every episode")] = None
    """Task to train on, as JSON, such as '{"direction": -1}'."""
    observe_task: bool = False
    """Append the task parameters to the observation, to train an oracle."""
    num_envs: Annotated[int, at_least(1)] = 16
    """Number of training environments that are stepped in parallel."""
    episodes: Annotated[int, at_least(1)] = 20
    """Number of episodes per evaluation during training, without exploration. If --task is not set,
    every episode has a different task."""
    hidden: Annotated[tuple[int, ...] | None, at_least(1), unset("SB3's default")] = None
    """Numbers of units in the hidden layers. SB3's defaults are 64 64 for ppo and a2c, 256 256
    for sac, and 400 300 for td3."""
    learning_rate: Annotated[float | None, greater_than(0), unset("SB3's default")] = None
    """Step size. SB3's defaults are 3e-4 for ppo and sac, 7e-4 for a2c, and 1e-3 for td3."""
    discount: Annotated[float, between(0, 1)] = 0.99
    """Discount factor γ for future rewards."""
    device: Literal["auto", "cpu", "cuda"] = "cpu"
    """Device of the networks; small networks are fastest on the CPU. auto selects CUDA if it is
    available and the CPU otherwise."""
    checkpoint_every: int = 1
    """Number of evaluations between checkpoints."""
    log_every: tyro.conf.Suppress[int] = 1

    def __post_init__(self) -> None:
        """Validate the settings, and convert `total_steps` to a number of iterations."""
        super().__post_init__()
        if self.total_steps is not None:  # stored as iterations
            object.__setattr__(self, "iterations", math.ceil(self.total_steps / self.eval_every))
            object.__setattr__(self, "total_steps", None)


@dataclass(frozen=True)
class SB3Evaluation(Evaluation):
    """Measure the return of a policy that was trained with Stable-Baselines3 (SB3).

    A run with --task is evaluated on this task. Other runs are evaluated on the same test tasks as
    meta-learned policies: by default, the 40 tasks of Finn et al. 2017. Unless --explore is set,
    actions are the modes of the action distributions, as in SB3's own evaluation.
    """

    num_tasks: Annotated[int, at_least(1)] = 40
    """Number of test tasks; ignored for runs with --task."""
    episodes_per_task: Annotated[int | None, at_least(1), unset("4000 / horizon, rounded down")] = (
        None
    )
    """Number of episodes per task. The default is 40 for a horizon of 100 time steps."""
    explore: bool = False
    """Sample the actions, as in the evaluation of meta-learned policies, instead of using the
    modes of the action distributions."""
    device: Device = "cpu"
    """Device of the policy; auto selects CUDA if it is available and the CPU otherwise."""


class StableBaselines(Experiment[SB3Config]):
    """The experiment ``metarl train sb3``: training with Stable-Baselines3 (SB3).

    The training state is an SB3 model.
    """

    name = "sb3"
    settings = SB3Config
    evaluation = SB3Evaluation

    @property
    def env_options(self) -> dict[str, Any]:
        """Keyword arguments for the constructor of the environment."""
        return {"observe_task": True} if self.config.observe_task else {}

    def sampler(self, num_tasks: int, episodes: int) -> Sampler:
        """Return a sampler for evaluations with `num_tasks` tasks and `episodes` per task."""
        return make_sampler(
            self.config.env, num_tasks=num_tasks, episodes_per_task=episodes, **self.env_options
        )

    @cached_property
    def single(self) -> Sampler:
        """A sampler with one task and one episode, which provides the horizon and test tasks."""
        return self.sampler(1, 1)

    @cached_property
    def task(self) -> TaskDescription | None:
        """The training task; None if a task is sampled for every episode."""
        return None if self.config.task is None else read_task(self.config.task, self.single)

    @cached_property
    def evaluator(self) -> Sampler:
        """The sampler for evaluations during training, with one episode per task."""
        return self.sampler(self.config.episodes, 1)

    def init(self) -> Any:
        """Return an untrained SB3 model.

        Raises:
            SharedError: In distributed training, which is not supported.
        """
        processes.require_single_process("runs of Stable-Baselines3")
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
        """Return the random seed for SB3 in an iteration, derived from the seed of the run."""
        drawn = seed_sequence(self.config.seed, iteration, "sb3").generate_state(1)[0]
        return int(drawn >> 1)

    def prepare(self) -> dict[str, float]:
        """Check the settings and return the metrics of the untrained model."""
        super().prepare()
        return {"env/steps": 0.0, "return/step_0": self.measure_return(self.init()).item()}

    def draw(self, state: Any, iteration: int) -> tuple[Any, Metrics]:
        """Return an empty meta-batch and no metrics, because SB3 collects the transitions."""
        return (), {}

    def learner(self, iteration: int) -> MetaLearner:
        """Return a learner that trains the model up to evaluation `iteration` and evaluates it."""

        def step(model: Any, tasks: Any) -> tuple[Any, Metrics]:
            before = model.num_timesteps
            advance(model, iteration * self.config.eval_every, seed=self.seed_of(iteration))
            taken = torch.tensor(float(model.num_timesteps - before))
            return model, {"env/steps": taken, "return/step_0": self.measure_return(model)}

        return MetaLearner(self.init, step, adapt=self.model)  # type: ignore[arg-type]

    def measure_return(self, model: Any) -> torch.Tensor:
        """Return the mean undiscounted return of a model, as a scalar tensor.

        Every evaluation uses the same tasks and initial states. The result is logged as
        ``return/step_0``, like the return of a meta-learned policy before adaptation.
        """
        seed = self.config.seed
        drawn = self.evaluator.sample_tasks(numpy_generator(seed, 0, "evaluation"))
        tasks = drawn if self.task is None else [self.task] * len(drawn)
        return mean_return(play_tasks(model, self.evaluator, tasks, seed=seed)).mean()

    def save(self, run: Run, iteration: int, state: Any) -> None:
        """Write a checkpoint in SB3's format, including the replay buffer of SAC and TD3."""
        sb3_checkpoint.save(run, state, iteration)

    def restore(self, run: Run, iteration: int, *, replay: bool = True) -> Any:
        """Load the model in a checkpoint and, with `replay`, the replay buffer of SAC and TD3."""
        model = self.init()
        sb3_checkpoint.restore(run, model, iteration, replay=replay)
        return model

    def read(self, run: Run, iteration: int) -> Any:
        """Return the model in a checkpoint for an evaluation, without the replay buffer."""
        return self.restore(run, iteration, replay=False)

    def copy(self, run: Run, iteration: int, new: Run, config: RunConfig) -> None:
        """Copy the tensors of a checkpoint from `run` to `new`, without pickled objects."""
        del config
        sb3_checkpoint.copy(run, new, iteration)

    def describe(self) -> Subject:
        """Return the algorithm and the environment of the run, for model cards and tables."""
        source = "by Stable-Baselines3, without meta-learning"
        return Subject(
            self.config.algo, source, self.config.env, "reinforcement-learning", "", "render"
        )

    def model(self, params: Any, **options: Any) -> Any:
        """Raise a ValueError, because policies trained with SB3 do not adapt."""
        raise ValueError(
            "policies trained by Stable-Baselines3 do not adapt. Use `metarl evaluate RUN` to "
            "measure the return. A shared run must first be downloaded with `metarl pull`"
        )

    def evaluate(self, metas: Sequence[Any], options: SB3Evaluation) -> Report:
        """Report the mean return on the task of the run or, without such a task, on test tasks."""
        num_tasks = options.num_tasks if self.task is None else 1
        episodes = options.episodes_per_task or paper_episodes(self.single.horizon)
        sampler, seed = self.sampler(num_tasks, episodes), options.seed
        tasks = paper_tasks(sampler, seed) if self.task is None else [self.task]
        rollout = play_tasks(metas[0], sampler, tasks, seed=seed, explore=options.explore)
        returns = masked(rollout.rewards, rollout.mask).sum(1).double().cpu().numpy()
        mean = float(returns.mean())
        # Tasks vary more than episodes, so the interval is over tasks if there are several.
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
        """Record one episode with the policy of each run, and draw the recordings."""
        rows = []
        for one, model in zip(experiments, metas, strict=True):
            task = tasks_shown(self.single, options, options.task or one.config.task)[0]
            (played,), pace = play(recorder_of(one), policy_of(model), [NO_PARAMS], task, options)
            rows.append([Shot(one.config.algo, float(played.returns[-1]), played)])
        draw_recordings(rows, options.out, title=headline(self.config.env, task), pace=pace)


def play_tasks(
    model: Any, sampler: Sampler, tasks: list[TaskDescription], *, seed: int, explore: bool = False
) -> Rollout:
    """Collect episodes with an SB3 model for an evaluation.

    Args:
        model: The SB3 model.
        sampler: Sampler whose number of tasks is the length of `tasks`.
        tasks: One description per task.
        seed: Seed of all random numbers.
        explore: Whether to sample actions instead of using the mode of the distribution.

    Returns:
        The transitions, with a leading task axis.
    """
    if explore:  # SB3 samples from the global generators
        model.set_random_seed(seed)
    policy = policy_of(model, deterministic=not explore)
    generator = torch_generator(seed, 0, "evaluation")
    return sampler.rollout(policy, tree.expand(NO_PARAMS, len(tasks)), tasks, generator)
