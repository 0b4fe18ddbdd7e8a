"""Step-by-step adaptation of a policy to recorded or newly played episodes."""

import hashlib
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cached_property
from typing import Any, NamedTuple

import torch

from metarl.core import InnerLoop, MetaParams, Params, torch_generator, tree
from metarl.core.speed import Mode, chunks
from metarl.models.episodes import (
    Episode,
    episodes_in,
    read_episodes,
    rollout_of,
    warn_if_improbable,
)
from metarl.models.recorder import Recorder
from metarl.models.spaces import Spaces
from metarl.rl import Actor, Policy, Process, Rollout, masked, mean_return
from metarl.rl.inner_step import inner_step
from metarl.util import warn


class Measured(NamedTuple):
    """The mean undiscounted return of a policy over episodes.

    Attributes:
        mean: The mean return.
        error: Standard error of the mean; 0 for a single episode.
    """

    mean: float
    error: float


@dataclass(frozen=True)
class Adaptation:
    """The state of an adaptation to one task between inner steps.

    An inner step computes the same update as in training: the same episodes
    result in bit-identical parameters.

    Attributes:
        policy: The policy, a function ``(params, observations) -> distribution``.
        spaces: Observation space, action space and horizon.
        loop: Inner loop, which defines the inner steps.
        meta: Meta-parameters, such as the initialization and learned step sizes.
        process: Function that computes the advantages of the support episodes.
        params: The current parameters, with a leading task axis of size 1.
        state: State of the inner optimizer, with a leading task axis of size 1.
        steps: Number of completed inner steps.
        measured: Mean returns and their standard errors after 0, 1, ... inner
            steps, added by :meth:`measure`.
        history: Previous episodes of a trial, for policies of RL². An
            adaptation step then consists of one or more further episodes, and
            the parameters do not change.
    """

    policy: Policy
    spaces: Spaces
    loop: InnerLoop
    meta: MetaParams
    process: Process
    params: Params
    state: Any
    steps: int = 0
    measured: tuple[Measured, ...] = ()
    history: tuple[Episode, ...] = ()

    @classmethod
    def start(
        cls, policy: Policy, spaces: Spaces, loop: InnerLoop, meta: MetaParams, process: Process
    ) -> "Adaptation":
        """Return an adaptation with the meta-learned initialization and no completed inner steps.

        The arguments are the attributes with the same names; see the class.
        """
        params = tree.expand(loop.start(meta.model, ())[0], 1)
        return cls(policy, spaces, loop, meta, process, params, loop.state(params))

    @property
    def adapted(self) -> Params:
        """The current parameters without a task axis."""
        return {name: value[0].clone() for name, value in self.params.items()}

    @property
    def device(self) -> torch.device:
        """Device of the parameters."""
        return next(iter(self.params.values())).device

    @cached_property
    def fingerprint(self) -> str:
        """A digest of the current parameters, which identifies the policy."""
        digest = hashlib.sha256()
        for name, value in sorted(self.params.items()):
            digest.update(name.encode() + value.numpy(force=True).tobytes())
        return digest.hexdigest()[:16]

    def recorder(self, generator: torch.Generator) -> Recorder:
        """Return a recorder for episodes of the current policy.

        Args:
            generator: Random generator for the actions.
        """
        about = (self.spaces, generator, self.fingerprint)
        return Recorder(self.policy, self.params, *about, self.actor())

    def actor(self) -> Actor | None:
        """Return the memory after the previous episodes of a trial; None for other policies."""
        if not self.policy.trials:
            return None
        actor = self.policy.actor(self.params, (1,))
        if self.history:
            rollout_of(self.policy, self.params, self.history, self.spaces.horizon, actor)
        return actor

    def generator(self, seed: int, role: str) -> torch.Generator:
        """Return a random generator for the current step.

        Args:
            seed: Random seed.
            role: Purpose of the generator, such as ``"recording"``. Generators
                with different roles or for different steps are independent.
        """
        return torch_generator(seed, self.steps, role, device=self.device)

    def rollout(self, values: Sequence[Any]) -> Rollout:
        """Validate recorded episodes of the current policy, and return them as a rollout.

        For episodes without a fingerprint, a warning is printed if the actions
        are unlikely to be samples from the current policy.

        Args:
            values: The episodes, see :func:`~metarl.models.episodes.read_episodes`.

        Raises:
            ValueError: If an episode is invalid or was recorded with other parameters.
        """
        found = read_episodes(values, self.spaces)
        for index, episode in enumerate(found):
            if episode.policy not in ("", self.fingerprint):
                raise ValueError(
                    f"episode {index} of `episodes` was recorded with other parameters: expected "
                    f"the parameters after {self.steps} inner steps. Record the episode with the "
                    "`record` method of the policy that you adapt"
                )
        rollout = rollout_of(self.policy, self.params, found, self.spaces.horizon, self.actor())
        if not all(episode.policy for episode in found):
            warn_if_improbable(rollout)
        return rollout

    def measure(self, rollout: Rollout) -> "Adaptation":
        """Return the adaptation with the mean return of the current policy added to `measured`.

        A warning is printed if the last inner step lowered the mean return by
        more than two standard errors of the difference.

        Args:
            rollout: Episodes of the current policy, with a leading task axis of size 1.
        """
        before, after = self.measured[: self.steps], _measured(rollout)
        noise = (before[-1].error ** 2 + after.error**2) ** 0.5 if before else 0.0
        if before and not self.policy.trials and after.mean < before[-1].mean - 2 * noise:
            warn(
                f"adaptation step {self.steps} lowered the mean return from {before[-1].mean:.4g} "
                f"to {after.mean:.4g}. Set `keep_best`, or use more episodes or fewer steps"
            )
        return replace(self, measured=(*before, after))

    def step(self, rollout: Rollout) -> "Adaptation":
        """Return the adaptation after one more inner step.

        Args:
            rollout: Episodes of the current policy, with a leading task axis of size 1.

        Raises:
            FloatingPointError: If the new parameters are not finite.
        """
        if self.policy.trials:
            history = (*self.history, *episodes_in(rollout, self.spaces))
            return replace(self.measure(rollout), history=history, steps=self.steps + 1)
        mode: Mode = "traced" if self.policy.traced(self.meta.model) else "eager"
        size = 1 if self.device.type == "cpu" else None
        episodes, _ = chunks.map_tasks(self.process, rollout, size)
        params, state, _ = inner_step(
            self.loop, self.meta, self.params, self.state, episodes, self.steps, mode=mode
        )
        new = self.measure(rollout)
        if not all(value.isfinite().all() for value in params.values()):
            rewards = masked(rollout.rewards, rollout.mask).abs().max().item()
            raise FloatingPointError(
                f"the parameters after adaptation step {self.steps + 1} are not finite: expected "
                f"values of similar size as in training, got rewards up to {rewards:.3g}. Scale "
                "rewards, observations and actions, or train with a smaller step size `inner_lr`"
            )
        return replace(new, params=params, state=state, steps=self.steps + 1)

    def run(
        self, play: Callable[["Adaptation"], Rollout], steps: int, *, keep_best: bool
    ) -> "Adaptation":
        """Return the adaptation after several inner steps, each with newly played episodes.

        The policy after the last step is also measured on newly played episodes.

        Args:
            play: Function ``adaptation -> rollout`` that plays episodes of the current policy.
            steps: Number of inner steps.
            keep_best: Whether to return the parameters with the highest mean
                return instead of the parameters after the last step. In both
                cases, the result contains the mean returns after all steps.
        """
        found = [self]
        for _ in range(steps):
            found.append(found[-1].step(play(found[-1])))
        last = found[-1].measure(play(found[-1]))
        means = [each.mean for each in last.measured[self.steps :]]
        kept = found[means.index(max(means))] if keep_best else last
        return replace(kept, measured=last.measured)


def _measured(rollout: Rollout) -> Measured:
    """Return the mean return over the episodes of one task, and the standard error of the mean."""
    returns = masked(rollout.rewards, rollout.mask).sum(-2)[0]
    if not returns.isfinite().all():
        raise FloatingPointError(
            f"the returns of the episodes must be finite in {returns.dtype}, got NaN or infinity. "
            "Scale the rewards"
        )
    error = returns.std().item() / len(returns) ** 0.5 if len(returns) > 1 else 0.0
    return Measured(mean_return(rollout).item(), error)
