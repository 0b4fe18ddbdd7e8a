"""Conversion of policies from metarl to Stable-Baselines3 and back.

An MLP policy corresponds exactly to an actor of SB3: a ReLU or tanh network with a categorical
distribution, or with a Gaussian whose standard deviation does not depend on the observation. A
meta-trained or adapted policy can therefore be converted to an ``ActorCriticPolicy`` of SB3, whose
files can be loaded without metarl.
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
"""Parameters for the policies of :func:`policy_of`, which keep their own parameters."""


def sb3_policy(
    policy: Policy,
    params: Params,
    observation_space: Space[Any],
    action_space: Space[Any],
    *,
    device: torch.device | str = "cpu",
) -> ActorCriticPolicy:
    """Convert a policy to an SB3 policy with ``predict``, ``save`` and ``load``.

    ``predict(..., deterministic=True)`` returns the mode, clipped to the action space; otherwise
    actions are sampled with the global generator of torch. The critic is untrained.

    Args:
        policy: A policy of :func:`metarl.rl.policies.mlp_policy`.
        params: Parameters of one task, such as those returned by ``loop.adapt``.
        observation_space: Observation space of a single environment.
        action_space: Action space of a single environment.
        device: Device of the SB3 policy.

    Raises:
        TypeError: If the policy is not an MLP policy.
        ValueError: If the parameters do not match the spaces, or have a task axis.
    """
    with torch.random.fork_rng([]):  # initial weights must not change the global generator
        made = ActorCriticPolicy(
            observation_space, action_space, lambda _: 0.0, **architecture(policy)
        )
    copy_actor(policy, params, made)
    return made.to(device)


def ppo_from(policy: Policy, params: Params, env: Any, **options: Any) -> PPO:
    """Create a PPO model whose actor is a policy of metarl, for fine-tuning.

    The critic is untrained, so that the advantages of the first rollouts are inaccurate. Start with
    a small `learning_rate`, and make sure that the policy still explores.

    Args:
        policy: A policy of :func:`metarl.rl.policies.mlp_policy`.
        params: Parameters of one task.
        env: An environment, a vectorized environment of SB3 or an id, as for ``PPO``.
        options: Arguments of ``PPO``, such as ``seed``, ``n_steps``, ``learning_rate`` and
            ``device``; ``policy_kwargs`` are merged with those of the actor.

    Raises:
        TypeError: If the policy is not an MLP policy.
        ValueError: If the parameters do not match the environment, or have a task axis.
    """
    chosen = {**architecture(policy), **options.pop("policy_kwargs", {})}
    model = PPO("MlpPolicy", env, policy_kwargs=chosen, **options)
    copy_actor(policy, params, model.policy)
    return model


def architecture(policy: Policy) -> dict[str, Any]:
    """Return the ``policy_kwargs`` of the SB3 policy that corresponds to a policy.

    Raises:
        TypeError: If the policy is not an MLP policy.
    """
    module: Any = policy.module
    if type(module) not in (GaussianMLP, CategoricalMLP):
        raise TypeError(
            "only policies of mlp_policy can be converted to Stable-Baselines3, got "
            f"{type(module).__name__}"
        )
    layers = list(module.network)
    widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)][:-1]
    kind = type(layers[1]) if widths else nn.Tanh  # for a linear policy, that of the critic
    return {"net_arch": {"pi": widths, "vf": widths or [64, 64]}, "activation_fn": kind}


def copy_actor(policy: Policy, params: Params, into: ActorCriticPolicy) -> None:
    """Replace the actor of an SB3 policy that has the right :func:`architecture`.

    The scale of the outputs is merged into the last layer, and context parameters into the bias of
    the first layer. The policies are equal up to rounding.

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
            f"the policy does not match the observations {into.observation_space} and the actions "
            f"{into.action_space}: expected parameters {held}"
        )
    into.load_state_dict({name: x.detach().float() for name, x in state.items()}, strict=False)


def policy_of(model: BaseAlgorithm, *, deterministic: bool = True) -> Policy:
    """Return an SB3 model as a policy for :class:`metarl.rl.sampler.Sampler`.

    Args:
        model: The model; the policy changes with it if it is trained further.
        deterministic: Whether to use the most likely actions, as in SB3's evaluation; otherwise
            actions are sampled with the global generators, as in SB3's training.
    """
    return _Acting(model, deterministic=deterministic)


class _Chosen(NamedTuple):
    """Fixed actions with the interface of a distribution."""

    actions: Tensor

    def sample(self, generator: torch.Generator | None = None, share: Any = None) -> Tensor:
        """Return the actions."""
        return self.actions


class _Acting(Policy):
    """A module that calls ``model.predict`` and ignores its parameters."""

    def __init__(self, model: BaseAlgorithm, *, deterministic: bool) -> None:
        self._predict = partial(model.predict, deterministic=deterministic)

    def __call__(self, params: Params, *inputs: Any) -> _Chosen:
        """Return actions for observations of shape (*batch, features)."""
        (seen,) = inputs
        actions, _ = self._predict(seen.flatten(0, -2).numpy(force=True))
        chosen = torch.as_tensor(actions, device=seen.device)
        return _Chosen(chosen.reshape(*seen.shape[:-1], *chosen.shape[1:]))

    def over_tasks(self, params: Params, batch: Any) -> Any:
        """Return actions for observations of shape (task, *batch, features)."""
        return (), lambda carry, observations: (carry, self(params, observations))
