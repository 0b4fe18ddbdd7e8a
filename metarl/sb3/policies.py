"""Policies of this package in Stable-Baselines3, and its models here.

An MLP policy is an actor that SB3 can hold exactly: a ReLU or tanh network with a Gaussian whose
standard deviation does not depend on the observation, or with a categorical. So a meta-learned or
adapted policy becomes SB3's own ``ActorCriticPolicy``, not a class of ours: everything that SB3 and
the tools around it do works on it, and the files it saves load where this package is not installed.
"""

from functools import partial
from typing import TYPE_CHECKING, Any, NamedTuple

import torch
from gymnasium.spaces import Box, Discrete, Space
from torch import Tensor, nn

from metarl.core.parameters import Apply
from metarl.core.types import Params
from metarl.rl.distributions import Gaussian
from metarl.rl.policies import CONTEXT, CategoricalMLP, GaussianMLP, Policy


if TYPE_CHECKING:  # at run time it is imported by the functions that need it
    import stable_baselines3
    import stable_baselines3.common.base_class
    import stable_baselines3.common.policies

NO_PARAMS: Params = {"none": torch.zeros(())}
"""What :func:`policy_of` is called with: an SB3 model keeps its parameters to itself."""


def sb3_policy(
    policy: Policy,
    params: Params,
    observation_space: Space[Any],
    action_space: Space[Any],
    *,
    device: torch.device | str = "cpu",
) -> "stable_baselines3.common.policies.ActorCriticPolicy":
    """Turn a policy into SB3's: for ``predict``, ``evaluate_policy``, ``save`` and ``load``.

    ``predict(..., deterministic=True)`` is the mode, clipped to the action space as SB3 clips.
    Without, actions are drawn from torch's global generator, as SB3 draws them. The critic that
    belongs to SB3's policies is there, but untrained.

    Args:
        policy: Made by :func:`metarl.rl.policies.mlp_policy`.
        params: Parameters of one task, such as ``loop.adapt`` returns.
        observation_space: That of a single environment.
        action_space: Likewise.
        device: Where to put it.

    Raises:
        TypeError: If the policy is no MLP policy.
        ValueError: If the parameters do not fit the spaces, or have a task axis.
    """
    from stable_baselines3.common.policies import ActorCriticPolicy

    with torch.random.fork_rng([]):  # its own weights are replaced: leave the global stream alone
        made = ActorCriticPolicy(
            observation_space, action_space, lambda _: 0.0, **architecture(policy)
        )
    copy_actor(policy, params, made)
    return made.to(device)


def ppo_from(policy: Policy, params: Params, env: Any, **options: Any) -> "stable_baselines3.PPO":
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
    from stable_baselines3 import PPO

    chosen = {**architecture(policy), **options.pop("policy_kwargs", {})}
    model = PPO("MlpPolicy", env, policy_kwargs=chosen, **options)
    copy_actor(policy, params, model.policy)
    return model


def architecture(policy: Policy) -> dict[str, Any]:
    """Return the ``policy_kwargs`` of the SB3 policy that holds this one.

    Raises:
        TypeError: If the policy is no MLP policy.
    """
    layers = _layers(policy)
    widths = [layer.out_features for layer in layers if isinstance(layer, nn.Linear)][:-1]
    between = [type(layer) for layer in layers if not isinstance(layer, nn.Linear)]
    kind = between[0] if between else nn.Tanh  # of a linear policy: the critic's
    return {"net_arch": {"pi": widths, "vf": widths or [64, 64]}, "activation_fn": kind}


def copy_actor(policy: Policy, params: Params, into: Any) -> None:
    """Overwrite the actor of an SB3 policy of the right architecture.

    Raises:
        TypeError: If the policy is no MLP policy.
        ValueError: If the parameters do not fit its spaces, or have a task axis.
    """
    state = actor_state(policy, params)
    _require_fit(state, into.observation_space, into.action_space)
    into.load_state_dict(state, strict=False)  # not strict: the critic stays


def actor_state(policy: Policy, params: Params) -> dict[str, Tensor]:
    """Return the parameters under the names of SB3's actor.

    The unit of the outputs goes into the last layer, a context into the bias of the first: both
    are the same policy, to rounding.
    """
    indices = [i for i, layer in enumerate(_layers(policy)) if isinstance(layer, nn.Linear)]
    pairs = [[params[f"network.{i}.{name}"] for name in ("weight", "bias")] for i in indices]
    if (got := pairs[0][0].ndim) != 2:
        raise ValueError(
            f"sb3 takes the parameters of one task, and a weight has {got} axes instead of 2; "
            "choose a task: {name: p[0] for name, p in params.items()}"
        )
    if CONTEXT in params:
        context = params[CONTEXT]
        weight, bias = pairs[0]
        features = weight.shape[1] - len(context)
        pairs[0] = [weight[:, :features], bias + weight[:, features:] @ context]
    state: dict[str, Tensor] = {}
    module: Any = policy.module
    outputs = module.distribution(params, pairs[-1][1])
    if isinstance(outputs, Gaussian):
        state["log_std"] = outputs.log_std
        pairs[-1] = [x * module.scale for x in pairs[-1]]
    names = [*(f"mlp_extractor.policy_net.{i}" for i in indices[:-1]), "action_net"]
    for name, (weight, bias) in zip(names, pairs, strict=True):
        state |= {f"{name}.weight": weight, f"{name}.bias": bias}
    return {name: x.detach().float() for name, x in state.items()}


def policy_of(
    model: "stable_baselines3.common.base_class.BaseAlgorithm", *, deterministic: bool = True
) -> Policy:
    """Return an SB3 model as a policy that :class:`metarl.rl.sampler.Sampler` rolls out.

    Args:
        model: A model; what it learns later, the policy knows.
        deterministic: Act by its most likely action, as SB3 evaluates; else by draws from the
            global generators, as it trains.
    """
    return _Acting(model, deterministic=deterministic)


class _Chosen(NamedTuple):
    """Actions that are already chosen, in the place of a distribution."""

    actions: Tensor

    def sample(self, generator: torch.Generator | None = None, share: Any = None) -> Tensor:
        """Return the actions."""
        del generator, share
        return self.actions


class _Acting(Apply):
    """Calls ``model.predict``, whatever the parameters."""

    def __init__(self, model: Any, *, deterministic: bool) -> None:
        self._model, self._deterministic = model, deterministic

    def __call__(self, params: Params, *inputs: Any) -> _Chosen:
        """Act at observations (*batch, features)."""
        del params
        (observations,) = inputs
        batch, features = observations.shape[:-1], observations.shape[-1]
        rows = observations.reshape(-1, features).numpy(force=True)
        actions, _ = self._model.predict(rows, deterministic=self._deterministic)
        chosen = torch.as_tensor(actions, device=observations.device)
        return _Chosen(chosen.reshape(*batch, *chosen.shape[1:]))

    def over_tasks(self, params: Params) -> Any:
        """Act at observations (task, *batch, features)."""
        return partial(self, params)


def _layers(policy: Policy) -> list[nn.Module]:
    """Return the layers of an MLP policy."""
    module: Any = getattr(policy, "module", policy)
    if type(module) not in (GaussianMLP, CategoricalMLP):
        raise TypeError(
            "only policies made by mlp_policy (GaussianMLP, CategoricalMLP) are actors of "
            f"Stable-Baselines3, got {type(module).__name__}"
        )
    return list(module.network)


def _require_fit(state: dict[str, Tensor], seen: Space[Any], acted: Space[Any]) -> None:
    """Compare the first and the last layer with spaces."""
    weights = [x for name, x in state.items() if name.endswith("weight")]
    reads, acts = weights[0].shape[1], weights[-1].shape[0]
    if not isinstance(seen, Box) or seen.shape != (reads,):
        raise ValueError(f"the policy reads a Box of ({reads},), the environment shows {seen}")
    if "log_std" in state:
        fits, kind = isinstance(acted, Box) and acted.shape == (acts,), f"Box of ({acts},)"
    else:
        fits, kind = isinstance(acted, Discrete) and acted.n == acts, f"Discrete({acts})"
    if not fits:
        raise ValueError(f"the policy acts in a {kind}, the environment in {acted}")
