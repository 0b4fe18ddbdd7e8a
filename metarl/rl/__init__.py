"""Meta-reinforcement learning on the functional core."""

from metarl.util.lazy import attach


__getattr__, __dir__, __all__ = attach(
    __name__,
    {
        "baseline": ("advantages",),
        "distributions": ("Categorical", "Distribution", "Gaussian"),
        "episodes": ("Episodes", "Rollout", "mean_return"),
        "error_context": ("Checked", "EnvironmentFailed"),
        "evaluate": ("AdaptationCurve", "adaptation_curve", "paper_tasks"),
        "losses": ("clipped", "dice", "mean_kl", "ratio", "reinforce", "surrogate"),
        "meta_trpo": ("context_loop", "e_maml", "maml_trpo"),
        "methods": ("Method", "register_method"),
        "metrics": ("rollout_metrics",),
        "policies": ("CategoricalMLP", "GaussianMLP", "make_policy", "mlp_policy"),
        "policy": ("Policy",),
        "policy_gradients": ("policy_gradient", "reptile_rl", "surrogate_loss", "vpg_maml"),
        "proximal": ("maml_ppo", "promp"),
        "sampler": ("Sampler", "make_sampler"),
        "trpo": ("trust_region_step",),
    },
)
