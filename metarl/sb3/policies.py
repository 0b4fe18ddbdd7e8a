"""Conversion of policies from metarl to Stable-Baselines3 and back.

An MLP policy has the same architecture as an SB3 actor: a ReLU or tanh
network with a categorical distribution, or with a Gaussian whose standard
deviation does not depend on the observation. A meta-trained or adapted policy
can therefore be converted to an SB3 ``ActorCriticPolicy``, which can be saved
and then loaded without metarl.
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
from metarl.rl.policies import CONTEXT, NORMALIZER


NO_PARAMS: Params = {"none": torch.zeros(())}
"""Placeholder parameters for policies from :func:`policy_of`, which use the
SB3 model's parameters."""


def sb3_policy(
    policy: Policy,
    params: Params,
    observation_space: Space[Any],
    action_space: Space[Any],
    *,
    device: torch.device | str = "cpu",
) -> ActorCriticPolicy:
    """Convert a policy to an SB3 policy with ``predict``, ``save`` and ``load``.

    ``predict(..., deterministic=True)`` returns the mode of the action
    distribution; otherwise, actions are sampled with torch's global
    generator. Actions are clipped to the action space. The critic is untrained.

    Args:
        policy: A policy from :func:`metarl.rl.networks.mlp_policy`.
        params: Parameters for one task, such as the result of ``loop.adapt``.
        observation_space: Observation space of a single environment.
        action_space: Action space of a single environment.
        device: Device for the SB3 policy.

    Raises:
        TypeError: If the policy is not an MLP policy.
        ValueError: If the parameters do not match the spaces, or have a task axis.
    """
    with torch.random.fork_rng([]):  # sampling weights must not advance the global generator
        made = ActorCriticPolicy(
            observation_space, action_space, lambda _: 0.0, **architecture(policy)
        )
    copy_actor(policy, params, made)
    return made.to(device)


def ppo_from(policy: Policy, params: Params, env: Any, **options: Any) -> PPO:
    """Create a PPO model for fine-tuning, with a metarl policy as the actor.

    The critic is untrained, so that advantages are inaccurate in the first
    rollouts. Start with a small `learning_rate`, and check that the policy's
    standard deviation is large enough to explore.

    Args:
        policy: A policy from :func:`metarl.rl.networks.mlp_policy`.
        params: Parameters for one task.
        env: A Gymnasium environment or its ID, or an SB3 vectorized environment.
        options: Arguments of ``PPO``, such as ``seed``, ``n_steps``,
            ``learning_rate`` and ``device``. Entries in ``policy_kwargs``
            override the result of :func:`architecture`.

    Raises:
        TypeError: If the policy is not an MLP policy.
        ValueError: If the parameters do not match the environment, or have a task axis.
    """
    chosen = {**architecture(policy), **options.pop("policy_kwargs", {})}
    model = PPO("MlpPolicy", env, policy_kwargs=chosen, **options)
    copy_actor(policy, params, model.policy)
    return model


def architecture(policy: Policy) -> dict[str, Any]:
    """Return the ``policy_kwargs`` for an SB3 policy with the same architecture as an MLP policy.

    Args:
        policy: A policy from :func:`metarl.rl.networks.mlp_policy`.

    Returns:
        A dictionary with the keys ``net_arch`` and ``activation_fn``.

    Raises:
        TypeError: If the policy is not an MLP policy.
    """
    module: Any = policy.module
    if type(module) not in (GaussianMLP, CategoricalMLP):
        raise TypeError(
            "only policies from mlp_policy can be converted to Stable-Baselines3, got "
            f"{type(module).__name__}. Train a policy with network=mlp"
        )
    layers = list(module.network)
    widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)][:-1]
    kind = type(layers[1]) if widths else nn.Tanh  # linear policies: for the critic only
    return {"net_arch": {"pi": widths, "vf": widths or [64, 64]}, "activation_fn": kind}


def copy_actor(policy: Policy, params: Params, into: ActorCriticPolicy) -> None:
    """Copy the parameters of an MLP policy into the actor of an SB3 policy.

    The output scale is merged into the last layer, and context parameters are
    merged into the bias of the first layer. The statistics of normalized
    observations are merged into the first layer, too. The two policies are
    then equal up to rounding, as long as no observation is clipped.

    Args:
        policy: A policy from :func:`metarl.rl.networks.mlp_policy`.
        params: Parameters for one task.
        into: An SB3 policy built with the ``policy_kwargs`` from :func:`architecture`.

    Raises:
        ValueError: If the parameters do not match the spaces, or have a task axis.
    """
    module: Any = policy.module
    indices = [i for i, layer in enumerate(module.network) if isinstance(layer, nn.Linear)]
    weights = [params[f"network.{i}.weight"] for i in indices]
    biases = [params[f"network.{i}.bias"] for i in indices]
    if weights[0].ndim != 2:
        raise ValueError(
            f"params must have no task axis: expected weights with 2 axes, got {weights[0].ndim}; "
            "select a task with {name: p[0] for name, p in params.items()}"
        )
    if f"{NORMALIZER}.mean" in params:
        mean, scale = params[f"{NORMALIZER}.mean"], params[f"{NORMALIZER}.scale"]
        scaled = weights[0][:, : len(mean)] * scale
        biases[0] = biases[0] - scaled @ mean
        weights[0] = torch.cat([scaled, weights[0][:, len(mean) :]], 1)
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
    held = {n: tuple(x.shape) for n, x in into.state_dict().items() if "value_net" not in n}
    if held != (shapes := {name: tuple(x.shape) for name, x in state.items()}):
        raise ValueError(
            f"the policy does not match the observations {into.observation_space} and the actions "
            f"{into.action_space}: expected parameters with the shapes {held}, got {shapes}. Use "
            "the spaces of the environment in which the policy was trained"
        )
    into.load_state_dict({name: x.detach().float() for name, x in state.items()}, strict=False)


def policy_of(model: BaseAlgorithm, *, deterministic: bool = True) -> Policy:
    """Wrap an SB3 model as a policy for :class:`metarl.rl.sampler.Sampler`.

    Args:
        model: The SB3 model. The policy does not copy the model, so further
            training also changes the policy.
        deterministic: Whether to use the most likely actions, as in SB3's
            evaluation. Otherwise, actions are sampled with the global
            generators, as in SB3's training.

    Returns:
        A policy that ignores its parameters; use :data:`NO_PARAMS` as the
        parameters.
    """
    return _Acting(model, deterministic=deterministic)


class _Chosen(NamedTuple):
    """Fixed actions with the interface of a distribution."""

    actions: Tensor

    def sample(self, generator: torch.Generator | None = None, share: Any = None) -> Tensor:
        """Return the fixed actions; both arguments are ignored."""
        return self.actions


class _Acting(Policy):
    """A policy that calls ``model.predict`` and ignores `params`."""

    def __init__(self, model: BaseAlgorithm, *, deterministic: bool) -> None:
        self._predict = partial(model.predict, deterministic=deterministic)

    def __call__(self, params: Params, *inputs: Any) -> _Chosen:
        """Return actions for observations of shape (*batch, features)."""
        (seen,) = inputs
        actions, _ = self._predict(seen.flatten(0, -2).numpy(force=True))
        chosen = torch.as_tensor(actions, device=seen.device)
        return _Chosen(chosen.reshape(*seen.shape[:-1], *chosen.shape[1:]))

    def over_tasks(self, params: Params, batch: Any) -> Any:
        """Return an empty carry, and a function ``(carry, observations) -> (carry, actions)``."""
        return (), lambda carry, observations: (carry, self(params, observations))
