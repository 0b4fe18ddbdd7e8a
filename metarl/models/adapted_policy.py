"""Policies that have adapted to a task: act, record, adapt further, export and save."""

from collections.abc import Sequence
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
from metarl.models.recorder import Recorder
from metarl.models.saved import write_adapted
from metarl.models.spaces import Spaces
from metarl.rl import Policy
from metarl.runs import RunConfig
from metarl.util import at_least


if TYPE_CHECKING:  # imported in to_sb3 at run time
    from stable_baselines3.common.policies import ActorCriticPolicy


@dataclass(frozen=True)
class AdaptedPolicy:
    """A policy that has adapted to a task.

    Attributes:
        policy: Function ``(params, observations) -> distribution``.
        params: Policy parameters adapted to the task.
        spaces: Observation space, action space and horizon.
        experiment: Name of the experiment, such as ``maml-trpo``.
        config: The settings of the run.
        measured: Mean returns and their standard errors after 0, 1, ... inner steps. Each is
            measured on new episodes; the next inner step then uses these episodes.
        adaptation: State of the adaptation; None if the policy was loaded from a file.
        playing: The simulator and defaults; None if the policy was loaded from a file.
    """

    policy: Policy
    params: Params
    spaces: Spaces
    experiment: str
    config: RunConfig
    measured: tuple[Measured, ...] = ()
    adaptation: Adaptation | None = None
    playing: Playing | None = None

    @property
    def returns(self) -> list[float]:
        """Mean undiscounted returns after 0, 1, ... inner steps.

        With recorded episodes, the return after the last step is unknown and missing.
        """
        return [each.mean for each in self.measured]

    @property
    def steps(self) -> int:
        """Number of inner steps of the adapted parameters; with `keep_best`, of the best ones."""
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
            observation: Array of shape (*batch, *observation).
            deterministic: Whether to return the mode of the action distribution instead of a
                sample.
            generator: Random generator for samples. Default: torch's global generator.

        Returns:
            Actions of shape (*batch, *action) with the data type of the action space and inside of
            its bounds; integers of shape (*batch) for discrete actions.

        Raises:
            ValueError: If the observation does not match the observation space, or the policy has
                a memory, so that actions depend on earlier observations.
        """
        self._require_no_memory("act")
        like = next(iter(self.params.values()))
        seen = torch.as_tensor(self.spaces.observations(observation, "observation"))
        kind = like.dtype if seen.is_floating_point() else seen.dtype
        with torch.no_grad():
            actions = self.policy(self.params, seen.to(like.device, kind))
            chosen = actions.mode() if deterministic else actions.sample(generator)
        return self.spaces.actions(chosen.numpy(force=True))  # type: ignore[no-any-return]

    def record(self, *, seed: int = 0) -> Recorder:
        """Return a recorder for episodes of this policy; see :meth:`MetaPolicy.record`.

        Args:
            seed: Random seed for the actions.
        """
        adaptation, _ = self._adaptable()
        return adaptation.recorder(adaptation.generator(seed, "recording"))

    def adapt(
        self,
        task: Any = None,
        *,
        episodes: Sequence[Any] | None = None,
        steps: int | None = None,
        episodes_per_step: int | None = None,
        keep_best: bool = False,
        seed: int = 0,
    ) -> "AdaptedPolicy":
        """Take further inner steps, with the step sizes of ``metarl evaluate``.

        Args:
            task: A Gymnasium environment with the spaces of the run, in which episodes are played
                and whose task is not changed; or a task description, such as a result of
                :meth:`MetaPolicy.sample_task`, for the simulator of training.
            episodes: Recorded episodes of this policy instead of a task, for one inner step: from
                :meth:`record`, or dictionaries or NamedTuples with the entries of
                :class:`~metarl.models.episodes.Episode`. A list of such lists takes one step per
                list; each list must contain episodes of the policy after the previous steps.
            steps: Number of inner steps; each step uses new episodes. Default: the number of inner
                steps in training; for policies trained without inner steps, 0 if the policy
                observes the task, otherwise 1.
            episodes_per_step: Number of episodes per inner step. Default: as many as have 4000
                time steps in total, or the argument `episodes` of :func:`metarl.load`.
            keep_best: Whether to return the policy after the step with the best mean return
                instead of the last step; all returns are reported.
            seed: Random seed for the initial states and the actions.

        Returns:
            The adapted policy. A warning is printed if a step lowered the mean return by more than
            two standard errors, and if actions are not samples of the policy.

        Raises:
            ValueError: If the arguments are invalid, the spaces or shapes do not match, episodes
                were recorded with other parameters, or the simulator is not available.
        """
        adaptation, playing = self._adaptable()
        if (task is None) == (episodes is None):
            got = "none" if task is None else "both"
            raise ValueError(f"adapt requires a task, an environment or `episodes`, got {got}")
        if episodes is not None:
            if steps is not None or episodes_per_step is not None or keep_best:
                raise ValueError(
                    "`steps`, `episodes_per_step` and `keep_best` require a task or an "
                    "environment, got `episodes`. Recorded episodes take one step per list"
                )
            return self._after(_steps_on(adaptation, episodes))
        count = playing.steps if steps is None else steps
        at_least(0).check("steps", count)
        at_least(1).check("episodes_per_step", episodes_per_step)
        generator = adaptation.generator(seed, "adaptation")
        play = playing.player(task, episodes_per_step, generator)
        return self._after(adaptation.run(play, count, keep_best=keep_best))

    def _after(self, adaptation: Adaptation) -> "AdaptedPolicy":
        known = {"params": adaptation.adapted, "measured": adaptation.measured}
        return replace(self, adaptation=adaptation, **known)  # type: ignore[arg-type]

    def _adaptable(self) -> tuple[Adaptation, Playing]:
        if self.adaptation is None or self.playing is None:
            raise ValueError(
                "a policy from a file cannot adapt or record. Adapt the result of `metarl.load`"
            )
        return self.adaptation, self.playing

    def _require_no_memory(self, method: str) -> None:
        if tree.leaves(self.policy.initial(self.params, (1,))):
            raise ValueError(
                f"`{method}` does not support policies with memory. Use the recorder from `record`"
            )

    def to_sb3(self) -> "ActorCriticPolicy":
        """Return the adapted policy as a Stable-Baselines3 policy, whose critic is untrained."""
        from metarl.sb3 import sb3_policy  # the import takes a second

        return sb3_policy(self.policy, self.params, self.spaces.observation, self.spaces.action)

    def module(self) -> ActionModule:
        """Return the adapted policy as a module, for fine-tuning and export.

        Returns:
            A module from observations of shape (batch, *observation), as floating-point numbers, to
            the means of Gaussian actions before clipping, of shape (batch, actions), or to logits
            of discrete actions. :meth:`act` returns the means clipped to the action space, or the
            index of the largest logit.

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
            ValueError: If the spaces cannot be stored.
        """
        if not self.spaces.stored:
            raise ValueError(f"spaces must be Box or Discrete to be saved, got {self.spaces}")
        about: dict[str, Any] = {"spaces": self.spaces.to_json(), "measured": self.measured}
        write_adapted(path, self.experiment, self.config, self.params, **about)


def _steps_on(adaptation: Adaptation, episodes: Sequence[Any]) -> Adaptation:
    """Return the adaptation after one step per list of recorded episodes."""
    given = list(episodes)
    several = given and all(
        isinstance(each, list | tuple) and not hasattr(each, "_asdict") for each in given
    )
    for values in given if several else [given]:
        adaptation = adaptation.step(adaptation.rollout(values))
    return adaptation
