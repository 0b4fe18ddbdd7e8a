"""Meta-trained policies, which adapt to a task."""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import torch

from metarl.core import InnerLoop, MetaParams, numpy_generator
from metarl.models.adaptation import Adaptation
from metarl.models.adapted_policy import AdaptedPolicy
from metarl.models.playing import Playing
from metarl.models.recorder import Recorder
from metarl.models.spaces import Spaces
from metarl.rl import (
    AdaptationCurve,
    Episodes,
    Policy,
    Process,
    Sampler,
    TaskDescription,
    adaptation_curve,
)
from metarl.runs import RunConfig
from metarl.util import integer_at_least


@dataclass(frozen=True, eq=False)
class MetaPolicy:
    """A meta-trained policy that can adapt to tasks.

    The simulator is only required by :attr:`sampler`, :meth:`sample_task`,
    :meth:`play`, :meth:`curve`, and by :meth:`adapt` if the task is a task
    description.

    Attributes:
        policy: Function ``(params, observations) -> distribution``.
        params: The meta-parameters.
        spaces: Observation space, action space and horizon.
        process: Two functions that compute advantages, the first for the
            support episodes and the second for the query episodes.
        loops: Function ``(steps, rate) -> inner loop``. If the rate is None,
            the step size of the run is used.
        simulator: Function ``(num_tasks, episodes) -> sampler`` for the training environment.
        steps: Default number of inner steps.
        episodes: Default number of episodes per task and inner step.
        num_tasks: Number of tasks that :attr:`sampler` simulates at the same time.
        experiment: Name of the experiment, such as ``maml-trpo``.
        config: The settings of the run.
    """

    policy: Policy
    params: MetaParams
    spaces: Spaces
    process: tuple[Process, Process]
    loops: Callable[[int, float | None], InnerLoop]
    simulator: Callable[[int, int], Sampler]
    steps: int
    episodes: int
    num_tasks: int
    experiment: str
    config: RunConfig

    def __repr__(self) -> str:
        """Return one line, because the parameters would fill pages."""
        return f"<MetaPolicy {self.experiment}, horizon {self.spaces.horizon}>"

    @property
    def sampler(self) -> Sampler:
        """The sampler for the training environment, which is created again after a failure.

        Raises:
            ValueError: If the environment cannot be created, or its module is not trusted.
        """
        found: Sampler | None = self.__dict__.get("_sampler")
        if found is None or found.interrupted:
            found = self.__dict__["_sampler"] = self.simulator(self.num_tasks, self.episodes)
        return found

    def sample_task(self, seed: int = 0) -> TaskDescription:
        """Sample a task description from the environment's task distribution with a random seed."""
        integer_at_least(0).check("seed", seed)
        return self.sampler.sample_tasks(numpy_generator(seed, 0, "tasks"))[0]

    def loop(self, steps: int, rate: float | None = None) -> InnerLoop:
        """Return the inner loop for test time (Finn et al. 2017).

        Args:
            steps: Number of inner steps.
            rate: Step size. Gradient descent uses this value for as many steps as
                in training, and half of this value in later steps; Adam uses it
                in all steps. Ignored if the step sizes are learned. Default: the
                step size of the run.
        """
        return self.loops(steps, rate)

    def play(
        self, loop: InnerLoop, tasks: Sequence[TaskDescription], generator: torch.Generator
    ) -> list[Episodes]:
        """Collect episodes before the first inner step and after each of the K steps of `loop`.

        Each inner step uses the episodes that were collected directly before this step.

        Args:
            loop: Inner loop with K steps, see :meth:`loop`.
            tasks: Task descriptions; the number must equal ``sampler.num_tasks``.
            generator: Random generator for actions and initial states.

        Returns:
            K + 1 batches of episodes in the order of the steps, each with a leading task axis.
        """
        batch, _ = self.sampler.collect(
            self.policy, loop, self.params, list(tasks), generator, self.process
        )
        return [*batch.support, batch.query]

    def curve(
        self, loop: InnerLoop, tasks: Sequence[TaskDescription], generator: torch.Generator
    ) -> AdaptationCurve:
        """Measure the mean return per task before the first and after each inner step of `loop`.

        Args:
            loop: Inner loop, see :meth:`loop`.
            tasks: Task descriptions; the number must equal ``sampler.num_tasks``.
            generator: Random generator for actions and initial states.
        """
        return adaptation_curve(
            self.sampler, self.policy, loop, self.params, tasks, generator, process=self.process
        )

    @cached_property
    def unadapted(self) -> AdaptedPolicy:
        """The policy with the meta-learned initialization, before the first inner step."""
        loop = self.loop(max(self.steps, 1))
        playing = Playing(self._simulator, self.steps, self.episodes)
        start = (self.policy, self.spaces, loop, self.params, self.process[0])
        adaptation = Adaptation.start(*start)
        about = (self.spaces, self.experiment, self.config, ())
        return AdaptedPolicy(self.policy, adaptation.adapted, *about, adaptation, playing)

    def _simulator(self, num_tasks: int, episodes: int) -> Sampler:
        same = (num_tasks, episodes) == (self.num_tasks, self.episodes)
        return self.sampler if same else self.simulator(num_tasks, episodes)

    def record(self, *, seed: int = 0) -> Recorder:
        """Return a recorder for episodes that your own environment loop collects.

        Args:
            seed: Random seed for the actions. Recorders with equal seeds sample
                equal noise; set a different seed for each recorder if you
                combine their episodes.

        Example::

            env = gymnasium.make("metarl/Navigation2D-v0")
            policy = metarl.load("runs/quick")  # trained in an environment with the same spaces
            recorder = policy.record()
            for _ in range(40):
                observation, _ = env.reset()
                ended = False
                while not ended:
                    action = recorder.act(observation)
                    observation, reward, terminated, truncated, _ = env.step(action)
                    ended = recorder.step(reward, terminated, truncated)
            adapted = policy.adapt(episodes=recorder.episodes)
            adapted.returns  # mean return of the recorded episodes
        """
        return self.unadapted.record(seed=seed)

    def adapt(self, task: Any = None, **options: Any) -> AdaptedPolicy:
        """Adapt the policy to a task; see :meth:`AdaptedPolicy.adapt` for the arguments.

        Example::

            adapted = policy.adapt(env)                          # any environment with these spaces
            adapted = policy.adapt({"goal": [0.3, -0.4]})        # the simulator of training
            adapted = policy.adapt(episodes=recorder.episodes)   # recorded episodes
        """
        return self.unadapted.adapt(task, **options)
