"""Meta-reinforcement learning with any method in :data:`metarl.rl.methods.METHODS`.

``metarl train maml-trpo --preset navigation-quick --out runs/quick``
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

from metarl.core import (
    LEARNED_RATES,
    MetaLearner,
    MetaParams,
    MetaState,
    Metrics,
    numpy_generator,
    torch_generator,
)
from metarl.experiment import Evaluation, Experiment, Report
from metarl.experiments import meta_world
from metarl.experiments.policies import Parts as Parts
from metarl.experiments.policies import build as build
from metarl.experiments.policies import meta_policy, policy_of, spaces_of
from metarl.experiments.rl_rendering import RLRendering, draw_episodes, draw_paths
from metarl.experiments.rl_settings import RLConfig as RLConfig
from metarl.experiments.rl_settings import config_class as config_class
from metarl.experiments.tuning import best_rate
from metarl.models import AdaptedPolicy, MetaPolicy, Saved, Spaces
from metarl.models.adaptation import Measured
from metarl.rl import AdaptationCurve, TaskDescription, paper_tasks, rollout_metrics
from metarl.rl.methods import METHODS
from metarl.runs import Subject, checkpoint, unset
from metarl.util import Conflicts, Table, at_least, raise_if


PLANE = "metarl/Navigation2D-v0"
TUNING_RATES = (0.01, 0.02, 0.05, 0.1, 0.2, 0.5, 1.0, 2.0)


@dataclass(frozen=True)
class RLEvaluation(Evaluation):
    """Adapt the policy of a run to test tasks, and report the return after each adaptation step.

    The test tasks are new samples from the training distribution, and every
    step uses new episodes. The defaults follow the protocol of Finn et al.
    2017: 40 tasks with seed 1, the step size of training in as many steps as
    in training, and half of that step size in later steps. Runs with --inner
    adam use the same step size in all steps, and learned step sizes are not
    changed.
    """

    inner_steps: Annotated[int | None, at_least(0), unset("0 for an oracle, otherwise 3")] = None
    """Number of policy-gradient steps that adapt the policy to each test task; for rl2, number of
    episodes before the last episode of a trial, by default as in training."""
    protocol: Literal["finn2017", "metaworld"] = "finn2017"
    """finn2017: new tasks, see above. metaworld: the fixed test goals of a Meta-World environment;
    10 episodes for each adaptation step of training, and success rates in 3 episodes after them."""
    num_tasks: Annotated[int, at_least(1)] = 40
    """Number of test tasks. The reported return is the mean over these tasks. With --protocol
    metaworld, number of test goals per class, at most 50."""
    episodes_per_task: Annotated[int | None, at_least(1), unset("4000 / horizon, rounded down")] = (
        None
    )
    """Number of episodes per task before and after each adaptation step. The
    default is 40 episodes for a horizon of 100 time steps and 20 for a
    horizon of 200, as in Finn et al. 2017."""
    inner_lr: Annotated[float | None, at_least(0), unset("value used in training")] = None
    """Step size of the adaptation steps. Runs with --inner sgd use half of this
    value after the first step or, if they were trained with several inner
    steps, after as many steps as in training."""
    tune_inner_lr: bool = False
    """Before the evaluation, select the best of eight step sizes from 0.01 to
    2 on separate validation tasks. Use this flag for pretrained
    policies, whose training does not determine a step size."""

    info: Annotated[tuple[str, ...] | None, unset("value used in training")] = None
    """Names of numbers or booleans in the environment's info to report, such as
    success: the mean over episodes of the maximum in the episode."""

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        both = self.tune_inner_lr and self.inner_lr is not None
        return [(both, "tune_inner_lr and inner_lr are mutually exclusive; set only one of them")]


class MetaRL(Experiment[RLConfig]):
    """An experiment that trains a policy with a method in :data:`metarl.rl.methods.METHODS`."""

    settings = staticmethod(config_class)
    evaluation = RLEvaluation
    rendering = RLRendering

    @property
    def name(self) -> str:
        """Name of the meta-RL method."""
        return self.config.method

    @cached_property
    def parts(self) -> Parts:
        """The policy, the inner loop, the meta-learner and the sampler of the run."""
        return build(self.config)

    def entries(self) -> dict[str, Any]:
        """Return the spaces for config.json, so that a run can be used without the environment."""
        spaces = spaces_of(self.parts.sampler)
        return {"spaces": spaces.to_json()} if spaces.stored else {}

    def init(self) -> MetaState:
        """Return the initial meta-parameters and the initial state of the outer optimizer."""
        return self.parts.learner.init(self.parts.params, device=self.device)

    def draw(self, state: MetaState, iteration: int) -> tuple[Any, Metrics]:
        """Sample tasks, and collect episodes before and after each inner step.

        Returns:
            The meta-batch, and metrics of the collected episodes.
        """
        parts, seed = self.parts, self.config.seed
        tasks = parts.sampler.sample_tasks(numpy_generator(seed, iteration, "tasks"))
        generator = torch_generator(seed, iteration, "rollouts", device=self.device)
        way = (parts.policy, parts.loop, state.params, tasks, generator, parts.process)
        if collect := METHODS[self.name].collector():
            return collect(parts.sampler, *way)
        batch, collected = parts.sampler.collect(*way)
        return batch, collected | rollout_metrics(batch)

    def learner(self, iteration: int) -> MetaLearner:
        """Return the meta-learner of the method, which is the same in all iterations."""
        del iteration
        return self.parts.learner

    def model(  # type: ignore[override]
        self, params: MetaParams, *, num_tasks: int = 1, episodes: int | None = None
    ) -> MetaPolicy:
        """Return the meta-trained policy, ready to adapt.

        Args:
            params: The meta-parameters.
            num_tasks: Number of tasks that the policy adapts to at the same time.
            episodes: Number of episodes per task and inner step. Default: 4000
                divided by the horizon, rounded down, but at least 1.

        Raises:
            ValueError: If the parameters do not match the configuration.
        """
        stored = self.stored.get("spaces")
        spaces = None if stored is None else Spaces.read(stored, "config.json")
        sizes: dict[str, Any] = {"num_tasks": num_tasks, "episodes": episodes}
        return meta_policy(self.config, params, spaces, **sizes, guard=self.guard)

    def adapted(self, saved: Saved) -> AdaptedPolicy:
        """Restore an adapted policy from `saved`, the contents of a file.

        Raises:
            ValueError: If the file is damaged.
        """
        spaces = Spaces.read(saved.about.get("spaces"), "the file")
        policy, params = policy_of(self.config, spaces)
        checkpoint.require_same_tensors(params, saved.params)
        measured = tuple(Measured(*map(float, pair)) for pair in saved.about.get("measured", ()))
        return AdaptedPolicy(policy, saved.params, spaces, self.name, self.config, measured)

    def describe(self) -> Subject:
        """Return the method, paper and environment of the run, for model cards and tables."""
        baseline = "oracle" if self.config.observe_task else "pretraining"
        method = self.name if self.config.inner_steps else f"{self.name} ({baseline})"
        paper, env = METHODS[self.name].paper, self.config.env
        return Subject(method, paper, env, "reinforcement-learning", "policy", "render")

    def with_options(self, options: RLEvaluation) -> "MetaRL":
        """Return an experiment that collects the infos that the evaluation flags name."""
        info = options.info
        if options.protocol == "metaworld":
            info = ("success", *(x for x in info or () if x != "success"))
        return self if info is None else self.changed(info=info)  # type: ignore[return-value]

    def evaluate(self, metas: Sequence[MetaParams], options: RLEvaluation) -> Report:
        """Report the mean return on test tasks before adaptation and after each adaptation step.

        With seed 1, the test tasks are the test tasks of Finn et al. 2017.
        """
        trials, goals = METHODS[self.name].trials, options.num_tasks
        official = options.protocol == "metaworld"
        options = meta_world.sized(options, self.config, trials=trials) if official else options
        num_steps, seed = self._steps_to_take(options), options.seed
        rate, tables = self.config.inner_lr if options.inner_lr is None else options.inner_lr, []
        policy = self.model(
            metas[0], num_tasks=options.num_tasks, episodes=options.episodes_per_task
        )
        sampler = policy.sampler

        def curve(tasks: list[TaskDescription], rate: float, role: str) -> AdaptationCurve:
            generator = torch_generator(seed, 0, role, device=self.device)
            return policy.curve(policy.loop(num_steps, rate), tasks, generator)

        if options.tune_inner_lr:
            # A different stream than the test tasks and their episodes.
            others = sampler.sample_tasks(numpy_generator(seed, 0, "tuning"))
            means = [curve(others, each, "tuning").mean[1:].mean() for each in TUNING_RATES]
            title = "step size, on separate tasks"
            rate, table = best_rate(title, "mean return", TUNING_RATES, means)
            tables = [table]
        more: dict[str, Any] = {}
        if official:
            generator = torch_generator(seed, 0, "evaluation", device=self.device)
            loop = policy.loop(num_steps, rate)
            found = meta_world.success_curve(policy, loop, goals, generator, trials=trials)
            more, table = meta_world.by_class(found, self.config.env)
            tables.append(table)
        else:
            found = curve(paper_tasks(sampler, seed), rate, "evaluation")
        measures = found.measures
        tables += _tables(found.described, measures, trials=trials)
        spent = sampler.horizon * (1 if trials else sampler.episodes_per_task)
        values = {
            "env": self.config.env,
            "num_tasks": len(found.tasks),
            "episodes_per_task": sampler.episodes_per_task,
            "seed": seed,
            "adaptation_steps": [step * spent for step in range(found.returns.shape[1])],
            "inner_lr": rate,
            "tuned": options.tune_inner_lr,
            "tasks": found.tasks,
            "returns": found.returns.tolist(),
            "infos": {name: values.tolist() for name, values in found.infos.items()},
            "measure": "return",
            "measures": measures,
        }
        name = f"steps-{num_steps}_tasks-{len(found.tasks)}"
        name += f"_episodes-{sampler.episodes_per_task}_seed-{seed}"
        name += f"_lr-{rate:g}" if rate != self.config.inner_lr else ""
        name += f"_info-{'-'.join(options.info)}" if options.info is not None else ""
        name += "_metaworld" if official else ""
        name += "_tuned" if options.tune_inner_lr else ""  # even if the step size is unchanged
        return Report(name, values | more | measures["return"], tables)

    def _steps_to_take(self, options: RLEvaluation) -> int:
        """Return the number of adaptation steps; raise a ValueError if options conflict."""
        config = self.config
        oracle = config.observe_task and config.inner_steps == 0
        usual = config.inner_steps if METHODS[self.name].trials else 0 if oracle else 3
        num_steps = usual if options.inner_steps is None else options.inner_steps
        chosen = options.inner_lr is not None or options.tune_inner_lr
        raise_if(
            (
                chosen and config.inner in LEARNED_RATES,
                f"{options.run} has learned step sizes (inner={config.inner}); remove inner_lr and "
                "tune_inner_lr",
            ),
            (
                options.tune_inner_lr and not num_steps,
                "tune_inner_lr requires inner_steps of at least 1, got 0; increase inner_steps",
            ),
        )
        return num_steps

    def draw_adaptation(
        self,
        experiments: Sequence[Experiment[Any]],
        metas: Sequence[MetaParams],
        options: RLRendering,
    ) -> None:
        """Render the policies of several runs before and after adaptation.

        For ``Navigation2D-v0``, the paths of several episodes are drawn. For
        other environments, one episode is recorded before adaptation and one
        after each adaptation step.

        Args:
            experiments: One experiment per run.
            metas: Meta-parameters of each run.
            options: The flags of ``metarl render``.
        """
        draw_rows = draw_paths if self.config.env == PLANE else draw_episodes
        draw_rows(list(zip(experiments, metas, strict=True)), options)


def _tables(tasks: str, measures: dict[str, dict[str, Any]], *, trials: bool) -> list[Table]:
    """Return a table of the infos if there are any, and the table of the return.

    Args:
        tasks: Description of the test tasks, for the titles.
        measures: Statistics by metric, see :attr:`AdaptationCurve.measures`; the return is first.
        trials: Whether the rows are the episodes of a trial (RL²), counted from 1.
    """
    main, *others = measures.values()
    returns, infos = [], []
    for step, (low, high) in enumerate(main["iqm_interval95"]):
        mean = [f"{main['mean'][step]:.2f}", f"± {main['interval95'][step]:.2f}"]
        row = step + trials
        returns.append([row, *mean, f"{main['iqm'][step]:.2f}", f"[{low:.2f}, {high:.2f}]"])
        cells = (f"{x['mean'][step]:.3g} ± {x['interval95'][step]:.2g}" for x in others)
        infos.append([row, *cells])
    head = "episode" if trials else "adaptation steps"
    heads = [head, "mean return", "95 % interval", "IQM", "95 % bootstrap"]
    info = Table(f"infos on {tasks}, mean ± 95 %", [head, *[*measures][1:]], infos)
    return [*([info] if others else []), Table(f"return on {tasks}", heads, returns)]
