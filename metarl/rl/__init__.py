"""Meta-reinforcement learning on the functional core."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "baseline": ("advantages",),
        "distributions": ("Categorical", "Distribution", "Gaussian"),
        "episodes": ("Episodes", "Rollout", "mean_return", "rollout_metrics"),
        "evaluate": ("AdaptationCurve", "adaptation_curve", "paper_tasks"),
        "losses": ("clipped", "dice", "mean_kl", "ratio", "reinforce", "surrogate"),
        "methods": ("Method", "register_method"),
        "policies": ("CategoricalMLP", "GaussianMLP", "Policy", "make_policy", "mlp_policy"),
        "policy_gradients": (
            *("maml_ppo", "policy_gradient", "promp"),
            *("reptile_rl", "surrogate_loss", "vpg_maml"),
        ),
        "sampler": ("Sampler", "make_sampler"),
        "trpo": ("context_loop", "e_maml", "maml_trpo", "trust_region_step"),
        "vector_env": ("Checked", "EnvironmentFailed"),
    },
)
