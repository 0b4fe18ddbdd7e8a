"""Load a meta-learned policy from a folder or from the Hugging Face hub, and adapt it in Python."""

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np
import torch

from metarl.core import tree
from metarl.core.seeding import numpy_generator, torch_generator
from metarl.core.types import MetaParams, Params
from metarl.experiments.launch import experiment_of, require_policy
from metarl.experiments.meta_rl import Parts, RLConfig, paper_loop
from metarl.rl.episodes import mean_return
from metarl.rl.evaluate import paper_episodes
from metarl.rl.sampler import TaskDescription
from metarl.runs import hub
from metarl.runs.folder import Run
from metarl.runs.loading import Loaded, load, read_config
from metarl.runs.sharing import require_known_module
from metarl.sb3.policies import sb3_policy


if TYPE_CHECKING:  # at run time it is imported where it is needed
    from stable_baselines3.common.policies import ActorCriticPolicy


@dataclass(frozen=True)
class AdaptedPolicy:
    """A policy that adapted to a task.

    Attributes:
        parts: The policy as a function, and its environment.
        params: Its parameters, of this task.
        returns: Mean return after 0, 1, ..., K steps, on the episodes that the steps learned from
            and, the last, on new ones.
    """

    parts: Parts
    params: Params
    returns: list[float]

    def act(self, observation: Any, *, generator: torch.Generator | None = None) -> Any:
        """Return the most likely action at one observation or a batch; with a generator, draw it.

        Args:
            observation: An array (*batch, features).
            generator: Source of the noise that the policy adapts with.
        """
        seen = torch.as_tensor(np.asarray(observation), device=self.parts.device).float()
        with torch.no_grad():
            actions = self.parts.policy(self.params, seen)
            chosen = actions.mode() if generator is None else actions.sample(generator)
        return chosen.numpy(force=True)

    def to_sb3(self) -> "ActorCriticPolicy":
        """Return the same policy as Stable-Baselines3's own."""
        env: Any = self.parts.sampler.env
        spaces = env.single_observation_space, env.single_action_space
        return sb3_policy(self.parts.policy, self.params, *spaces)


@dataclass(frozen=True)
class MetaPolicy:
    """A meta-learned policy, ready to adapt.

    Attributes:
        config: The settings of its run.
        parts: The policy as a function, its inner loop and its environment.
        params: The meta-parameters.
    """

    config: RLConfig
    parts: Parts
    params: MetaParams

    def sample_task(self, seed: int = 0) -> TaskDescription:
        """Draw a task of its environment."""
        return self.parts.sampler.sample_tasks(numpy_generator(seed, 0, "tasks"))[0]

    def adapt(
        self, task: TaskDescription, *, steps: int | None = None, seed: int = 0
    ) -> AdaptedPolicy:
        """Play episodes of a task and adapt to it, with the step sizes of `metarl evaluate`.

        Args:
            task: A task of its environment.
            steps: Inner steps, each on new episodes; by default as many as in training, and one
                of a policy that was pretrained.
            seed: Seed of the episodes.
        """
        parts, config = self.parts, self.config
        usual = max(config.inner_steps, 0 if config.observe_task else 1)
        count = usual if steps is None else steps
        loop = paper_loop(config, parts.loop, num_steps=count, rate=config.inner_lr)
        generator = torch_generator(seed, 0, "adaptation", device=parts.device)
        sampler, params = parts.sampler, self.params
        batch, _ = sampler.collect(parts.policy, loop, params, [task], generator, parts.process)
        with torch.no_grad():
            adapted = loop.adapt(params, tree.map_leaves(lambda x: x[0], batch.support))
        returns = [mean_return(episodes).item() for episodes in (*batch.support, batch.query)]
        return AdaptedPolicy(parts, adapted, returns)


def load_policy(
    source: str | Path,
    *,
    checkpoint: int | None = None,
    episodes: int | None = None,
    device: str = "auto",
    trust_env: bool = False,
) -> MetaPolicy:
    """Load a policy that `metarl train` or `metarl push` wrote; no code of its files is run.

    Args:
        source: A folder, or a repository of the hub: ``hub:USER/NAME`` or
            ``hub:USER/NAME@REVISION``, which goes into the hub's cache.
        checkpoint: Iteration of the checkpoint, by default the last.
        episodes: Episodes of each inner step; by default as many as have 4,000 steps.
        device: Where to put it: ``auto``, ``cpu`` or ``cuda``.
        trust_env: Import the module that its environment names. Importing it yourself before says
            the same.

    Raises:
        OSError: If there is no run, or the hub cannot be reached.
        ValueError: If it is no policy that adapts, is damaged, or wants to import a module.
    """
    place = hub.place(str(source))
    run = Run.open(place if isinstance(place, Path) else hub.download(place))
    require_policy(run.folder)
    if run.read_config()["experiment"] == "sb3":
        raise ValueError(
            f"{source} was trained by Stable-Baselines3 and does not adapt; see it with "
            f"`metarl pull {source} --out RUN` and `metarl evaluate RUN`"
        )
    experiment, kind = experiment_of(run)
    require_known_module(run, read_config(kind, run), trusted=trust_env)
    loaded: Loaded[Any] = load(kind, run.folder, iteration=checkpoint, device=device)
    if episodes is None:
        one = experiment.build(loaded.config, num_tasks=1, episodes=1)
        episodes = paper_episodes(one.sampler.horizon)
    parts: Parts = experiment.build(loaded.config, num_tasks=1, episodes=episodes)
    return MetaPolicy(loaded.config, parts, loaded.params)
