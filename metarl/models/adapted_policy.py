"""Adapted policies, which can act, record episodes, adapt further, and be exported or saved."""

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch
from jaxtyping import Shaped

from metarl.core import Params, tree
from metarl.models.adaptation import Adaptation, Measured
from metarl.models.playing import Playing
from metarl.models.policy_module import ActionModule
from metarl.models.recorder import Recorder, inputs_of, require_finite_outputs
from metarl.models.saved import write_adapted
from metarl.models.spaces import Spaces
from metarl.rl import Policy
from metarl.runs import RunConfig
from metarl.util import integer_at_least


if TYPE_CHECKING:  # imported in to_sb3 at run time
    from stable_baselines3.common.policies import ActorCriticPolicy


@dataclass(frozen=True, eq=False)
class AdaptedPolicy:
    """A policy that has adapted to a task.

    Attributes:
        policy: Function ``(params, observations) -> distribution``.
        params: Policy parameters adapted to the task.
        spaces: Observation space, action space and horizon.
        experiment: Name of the experiment, such as ``maml-trpo``.
        config: The settings of the run.
        measured: Mean returns and their standard errors after 0, 1, ... inner
            steps. Each mean return is measured on the episodes that the next
            inner step uses. After the last step, it is measured on additional
            episodes, unless the policy adapted to recorded episodes.
        adaptation: State of the adaptation; None if the policy was loaded from a file.
        playing: The simulator used in training, and default numbers of inner
            steps and episodes; None if the policy was loaded from a file.
    """

    policy: Policy
    params: Params
    spaces: Spaces
    experiment: str
    config: RunConfig
    measured: tuple[Measured, ...] = ()
    adaptation: Adaptation | None = None
    playing: Playing | None = None

    def __repr__(self) -> str:
        """Return one line, because the parameters would fill pages."""
        steps = "" if self.adaptation is None else f", {self.steps} step{'s'[: self.steps != 1]}"
        returns = f", returns {[float(f'{x:.4g}') for x in self.returns]}" if self.measured else ""
        return f"<AdaptedPolicy {self.experiment}{steps}{returns}>"

    @property
    def returns(self) -> list[float]:
        """Mean undiscounted returns after 0, 1, ... inner steps.

        If the policy adapted to recorded episodes, the return after the last
        step is not included, because it is unknown.
        """
        return [each.mean for each in self.measured]

    @property
    def steps(self) -> int:
        """Number of inner steps from the initialization to the parameters of this policy.

        With `keep_best`, inner steps after the best policy are not counted. The
        number is 0 if the policy was loaded from a file.
        """
        return 0 if self.adaptation is None else self.adaptation.steps

    def act(
        self,
        observation: Any,
        deterministic: bool = True,
        *,
        generator: torch.Generator | None = None,
    ) -> Shaped[np.ndarray, "..."] | np.generic:
        """Return the action for one observation or a batch of observations.

        Args:
            observation: Array of shape (*batch, *observation), where
                ``*observation`` is the shape of the observation space;
                ``*batch`` is empty for one observation.
            deterministic: Whether to return the mode of the action distribution
                instead of a sample.
            generator: Random generator for samples. Default: torch's global generator.

        Returns:
            For continuous actions, an array of shape (*batch, *action) with the
            data type of the action space, clipped to the bounds of the action
            space. For discrete actions, integers of shape (*batch).

        Raises:
            ValueError: If the observation does not match the observation space
                or is so large that the outputs of the policy are not finite, or
                if the actions also depend on earlier observations because the
                policy has a memory.
        """
        self._require_no_memory("act")
        like = next(iter(self.params.values()))
        seen = inputs_of(self.spaces.observations(observation, "observation"), like)
        with torch.no_grad():
            actions = self.policy(self.params, seen)
            require_finite_outputs(actions)
            chosen = actions.mode() if deterministic else actions.sample(generator)
        return self.spaces.actions(chosen.numpy(force=True))  # type: ignore[no-any-return]

    def record(self, *, seed: int = 0) -> Recorder:
        """Return a recorder for episodes of this policy; see :meth:`MetaPolicy.record`.

        Args:
            seed: Random seed for the actions. Recorders of the same policy with
                equal seeds sample equal noise.
        """
        integer_at_least(0).check("seed", seed)
        adaptation, _ = self._adaptable()
        return adaptation.recorder(adaptation.generator(seed, "recording"))

    def adapt(
        self,
        task: Any = None,
        *,
        episodes: Sequence[Any] | Recorder | None = None,
        steps: int | None = None,
        episodes_per_step: int | None = None,
        keep_best: bool = False,
        seed: int = 0,
    ) -> "AdaptedPolicy":
        """Take further inner steps with the same step sizes as ``metarl evaluate``.

        Args:
            task: A Gymnasium environment, in which episodes are played, or a
                task description for the simulator used in training, such as a
                result of :meth:`MetaPolicy.sample_task`. An environment must
                have the same spaces as in training, and its task is not
                changed.
            episodes: Recorded episodes of this policy, required if `task` is
                None: the recorder from :meth:`record`, whose completed episodes
                are used, or a list of episodes. An episode is an
                :class:`~metarl.models.episodes.Episode`, or a dictionary or
                NamedTuple with the same entries. A list of episodes is used for
                one inner step. For several steps, pass a list of such lists, in
                which each list contains episodes of the policy after the
                previous steps.
            steps: Number of inner steps; each step uses new episodes. Default:
                the number of inner steps in training. As an exception, for
                policies trained without inner steps, the default is 0 if the
                policy observes the task, otherwise 1.
            episodes_per_step: Number of episodes per inner step. Default: the
                argument `episodes` of :func:`metarl.load` or, if that argument
                was not set, 4000 divided by the horizon, rounded down, but at
                least 1.
            keep_best: Whether to return the policy with the highest mean return
                instead of the policy after the last step. In both cases,
                :attr:`returns` contains all mean returns.
            seed: Random seed for the initial states and the actions.

        Returns:
            The adapted policy. A warning is printed if a step lowered the mean
            return by more than two standard errors of the difference, or if the
            actions in recorded episodes are unlikely to be samples from the
            policy.

        Raises:
            ValueError: If the arguments are invalid, the spaces or shapes do
                not match, episodes were recorded with other parameters, or the
                simulator is not available.
            FloatingPointError: If the parameters after an inner step are not finite.
        """
        adaptation, playing = self._adaptable()
        if (task is None) == (episodes is None):
            got = "none" if task is None else "both"
            raise ValueError(f"adapt requires either `task` or `episodes`, got {got}")
        if episodes is not None:
            if steps is not None or episodes_per_step is not None or keep_best:
                raise ValueError(
                    "`steps`, `episodes_per_step` and `keep_best` require `task`, got `episodes`. "
                    "Remove these arguments; each list of recorded episodes is used for one step"
                )
            given = episodes.episodes if isinstance(episodes, Recorder) else episodes
            return self._after(_steps_on(adaptation, given))
        count = playing.steps if steps is None else steps
        integer_at_least(0).check("steps", count)
        integer_at_least(1).check("episodes_per_step", episodes_per_step)
        integer_at_least(0).check("seed", seed)
        generator = adaptation.generator(seed, "adaptation")
        if self.policy.trials and episodes_per_step not in (None, 1):
            raise ValueError(
                "`episodes_per_step` must be 1 for policies of RL², which adapt after every "
                f"episode, got {episodes_per_step}. Set `steps` to the number of episodes"
            )
        episodes_per_step = 1 if self.policy.trials else episodes_per_step
        play = playing.player(task, episodes_per_step, generator)
        return self._after(adaptation.run(play, count, keep_best=keep_best))

    def _after(self, adaptation: Adaptation) -> "AdaptedPolicy":
        known = {"params": adaptation.adapted, "measured": adaptation.measured}
        return replace(self, adaptation=adaptation, **known)  # type: ignore[arg-type]

    def _adaptable(self) -> tuple[Adaptation, Playing]:
        if self.adaptation is None or self.playing is None:
            raise ValueError(
                "a policy that was loaded from a file cannot adapt or record episodes. Load the "
                "run with `metarl.load` instead"
            )
        return self.adaptation, self.playing

    def _require_no_memory(self, method: str) -> None:
        if tree.leaves(self.policy.initial(self.params, (1,))):
            raise ValueError(
                f"`{method}` does not support policies with memory. Use the recorder from `record` "
                "to select actions"
            )

    def to_sb3(self) -> "ActorCriticPolicy":
        """Return the adapted policy as a Stable-Baselines3 policy, whose critic is untrained."""
        from metarl.sb3 import sb3_policy  # the import takes a second

        return sb3_policy(self.policy, self.params, self.spaces.observation, self.spaces.action)

    def module(self) -> ActionModule:
        """Return the adapted policy as a module, for fine-tuning and export.

        Returns:
            A module whose input is a floating-point tensor of shape (batch,
            *observation). For continuous actions, the output is the mean of the
            Gaussian distribution before clipping, of shape (batch, actions).
            For discrete actions, the output is a tensor of logits, of shape
            (batch, number of actions). :meth:`act` returns the clipped mean or
            the index of the largest logit.

        Raises:
            ValueError: If the policy has a memory.
        """
        self._require_no_memory("module")
        return ActionModule(self.policy, self.params).eval()

    def save(self, path: str | Path) -> None:
        """Save the adapted policy to a file that :func:`metarl.load_adapted` loads.

        Args:
            path: The file to write, such as ``pendulum.safetensors``.

        Raises:
            OSError: If the file cannot be written.
            ValueError: If a parameter is not finite, the observations are not
                Box, or the actions are not Box or Discrete.
        """
        self._require_no_memory("save")
        if not self.spaces.stored:
            raise ValueError(
                f"save requires Box observations and Box or Discrete actions, got {self.spaces}"
            )
        about: dict[str, Any] = {"spaces": self.spaces.to_json(), "measured": self.measured}
        write_adapted(path, self.experiment, self.config, self.params, **about)


def _steps_on(adaptation: Adaptation, episodes: Sequence[Any]) -> Adaptation:
    """Return the adaptation after one inner step for each list of episodes.

    A list of episodes instead of a list of lists results in a single step.
    """
    if isinstance(episodes, Mapping | str | bytes) or hasattr(episodes, "_asdict"):
        raise ValueError("`episodes` must be a list, got a single episode. Pass `[episode]`")
    if not isinstance(episodes, Iterable):
        raise ValueError(f"`episodes` must be a list of episodes, got {episodes!r:.40}")
    given = list(episodes)
    several = given and all(
        isinstance(each, list | tuple) and not hasattr(each, "_asdict") for each in given
    )
    for values in given if several else [given]:
        adaptation = adaptation.step(adaptation.rollout(values))
    return adaptation
