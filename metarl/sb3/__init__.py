"""Stable-Baselines3: policies, environments, models, checkpoints."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "environments": ("sb3_env",),
        "models": ("advance", "make_model"),
        "policies": ("policy_of", "ppo_from", "sb3_policy"),
    },
)
