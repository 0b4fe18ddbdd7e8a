"""Integration with Stable-Baselines3: environments, models, checkpoints and policy conversion.

- :func:`sb3_env` creates an SB3 environment with a fixed task, or with a new task per episode.
- :func:`make_model` and :func:`advance` create and train PPO, A2C, SAC and TD3 models.
- :func:`sb3_policy` converts a metarl policy to an SB3 policy; :func:`ppo_from` creates a PPO model
  that fine-tunes a metarl policy.
- :func:`policy_of` wraps an SB3 model as a metarl policy.

Example::

    import torch

    from metarl.rl import mlp_policy
    from metarl.sb3 import advance, make_model, sb3_env, sb3_policy

    env = sb3_env("metarl/Navigation2D-v0", num_envs=4, task={"goal": [0.3, -0.2]})
    model = make_model("ppo", env, horizon=100, seed=0)
    advance(model, 2_000, seed=0)

    generator = torch.Generator().manual_seed(0)
    policy, params = mlp_policy(env.observation_space, env.action_space, generator=generator)
    converted = sb3_policy(policy, params, env.observation_space, env.action_space)
    actions, _ = converted.predict(env.reset(), deterministic=True)
"""

import lazy_loader


__getattr__, __dir__, __all__ = lazy_loader.attach_stub(__name__, __file__)
