"""Policies of this package in Stable-Baselines3, and its models here.

An MLP policy is an actor that SB3 can hold exactly: a ReLU or tanh network with a Gaussian whose
standard deviation does not depend on the observation, or with a categorical. So a meta-learned or
adapted policy becomes SB3's own ``ActorCriticPolicy``: everything that SB3 and the tools around it
do works on it, and the files it saves load where this package is not installed.
"""

from functools import partial
from typing import Any, NamedTuple

import torch
from gymnasium.spaces import Space
from stable_baselines3 import PPO
from stable_baselines3.common.base_class import BaseAlgorithm
from stable_baselines3.common.policies import ActorCriticPolicy
from torch import Tensor, nn

from metarl.core import Params
from metarl.rl import CategoricalMLP, Gaussian, GaussianMLP, Policy
from metarl.rl.policies import CONTEXT


NO_PARAMS: Params = {"none": torch.zeros(())}
"""Parameters to call :func:`policy_of` with: an SB3 model keeps its own."""


def sb3_policy(
    policy: Policy,
    params: Params,
    observation_space: Space[Any],
    action_space: Space[Any],
    *,
    device: torch.device | str = "cpu",
) -> ActorCriticPolicy:
    """Turn a policy into SB3's: for ``predict``, ``evaluate_policy``, ``save`` and ``load``.

    ``predict(..., deterministic=True)`` is the mode, clipped to the action space as SB3 clips.
    Without, actions are drawn from torch's global generator, as SB3 draws them. The critic that
    belongs to SB3's policies is there, but untrained.

    Args:
        policy: Made by :func:`metarl.rl.policies.mlp_policy`.
        params: Parameters of one task, such as ``loop.adapt`` returns.
        observation_space: Observations of a single environment.
        action_space: Its actions.
        device: Where to put it.

    Raises:
        TypeError: If the policy is no MLP policy.
        ValueError: If the parameters do not fit the spaces, or have a task axis.
    """
    with torch.random.fork_rng([]):  # its own weights are replaced: leave the global stream alone
        made = ActorCriticPolicy(
            observation_space, action_space, lambda _: 0.0, **architecture(policy)
        )
    copy_actor(policy, params, made)
    return made.to(device)


def ppo_from(policy: Policy, params: Params, env: Any, **options: Any) -> PPO:
    """Build a PPO model whose actor is a policy of this package, to fine-tune it with.

    The critic is new and knows nothing: a few rollouts pass before its advantages are worth much,
    so start with a small `learning_rate`, and see that a policy with little noise left keeps some.

    Args:
        policy: Made by :func:`metarl.rl.policies.mlp_policy`.
        params: Parameters of one task.
        env: What ``PPO`` takes: an environment, a vector environment of SB3 or an id.
        options: Of ``PPO``, such as ``seed``, ``n_steps``, ``learning_rate`` and ``device``;
            ``policy_kwargs`` are added to those of the actor.

    Raises:
        TypeError: If the policy is no MLP policy.
        ValueError: If the parameters do not fit the environment, or have a task axis.
    """
    chosen = {**architecture(policy), **options.pop("policy_kwargs", {})}
    model = PPO("MlpPolicy", env, policy_kwargs=chosen, **options)
    copy_actor(policy, params, model.policy)
    return model


def architecture(policy: Policy) -> dict[str, Any]:
    """Return the ``policy_kwargs`` of the SB3 policy that holds this one.

    Raises:
        TypeError: If the policy is no MLP policy.
    """
    module: Any = policy.module
    if type(module) not in (GaussianMLP, CategoricalMLP):
        raise TypeError(
            "only policies made by mlp_policy are actors of Stable-Baselines3, got "
            f"{type(module).__name__}"
        )
    layers = list(module.network)
    widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)][:-1]
    kind = type(layers[1]) if widths else nn.Tanh  # of a linear policy: the critic's
    return {"net_arch": {"pi": widths, "vf": widths or [64, 64]}, "activation_fn": kind}


def copy_actor(policy: Policy, params: Params, into: ActorCriticPolicy) -> None:
    """Overwrite the actor of an SB3 policy of the right :func:`architecture`; its critic stays.

    The unit of the outputs goes into the last layer, a context into the bias of the first: both
    are the same policy, to rounding.

    Raises:
        ValueError: If the parameters do not fit its spaces, or have a task axis.
    """
    module: Any = policy.module
    indices = [i for i, layer in enumerate(module.network) if isinstance(layer, nn.Linear)]
    weights = [params[f"network.{i}.weight"] for i in indices]
    biases = [params[f"network.{i}.bias"] for i in indices]
    if weights[0].ndim != 2:
        raise ValueError(
            f"params must be those of one task: a weight must have 2 axes, got {weights[0].ndim}; "
            "choose a task: {name: p[0] for name, p in params.items()}"
        )
    if CONTEXT in params:
        features = weights[0].shape[1] - len(params[CONTEXT])
        biases[0] = biases[0] + weights[0][:, features:] @ params[CONTEXT]
        weights[0] = weights[0][:, :features]
    state: dict[str, Tensor] = {}
    outputs = module.distribution(params, biases[-1])
    if isinstance(outputs, Gaussian):
        state["log_std"] = outputs.log_std
        weights[-1], biases[-1] = weights[-1] * module.scale, biases[-1] * module.scale
    names = [*(f"mlp_extractor.policy_net.{i}" for i in indices[:-1]), "action_net"]
    for name, weight, bias in zip(names, weights, biases, strict=True):
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    held = {name: x.shape for name, x in into.state_dict().items() if "value_net" not in name}
    if held != {name: x.shape for name, x in state.items()}:
        raise ValueError(
            f"the policy does not fit the environment: it reads {into.observation_space}, acts in "
            f"{into.action_space}, and needs parameters {held}"
        )
    into.load_state_dict({name: x.detach().float() for name, x in state.items()}, strict=False)


def policy_of(model: BaseAlgorithm, *, deterministic: bool = True) -> Policy:
    """Return an SB3 model as a policy that :class:`metarl.rl.sampler.Sampler` rolls out.

    Args:
        model: A model; the policy follows what it learns later.
        deterministic: Act by its most likely action, as SB3 evaluates; else by draws from the
            global generators, as it trains.
    """
    return _Acting(model, deterministic=deterministic)


class _Chosen(NamedTuple):
    """Actions that are already chosen, in the place of a distribution."""

    actions: Tensor

    def sample(self, generator: torch.Generator | None = None, share: Any = None) -> Tensor:
        """Return the actions."""
        return self.actions


class _Acting(Policy):
    """Calls ``model.predict``, whatever the parameters."""

    def __init__(self, model: BaseAlgorithm, *, deterministic: bool) -> None:
        self._predict = partial(model.predict, deterministic=deterministic)

    def __call__(self, params: Params, *inputs: Any) -> _Chosen:
        """Act at observations (*batch, features)."""
        (seen,) = inputs
        actions, _ = self._predict(seen.flatten(0, -2).numpy(force=True))
        chosen = torch.as_tensor(actions, device=seen.device)
        return _Chosen(chosen.reshape(*seen.shape[:-1], *chosen.shape[1:]))

    def over_tasks(self, params: Params, batch: Any) -> Any:
        """Act at observations (task, *batch, features)."""
        return (), lambda carry, observations: (carry, self(params, observations))
