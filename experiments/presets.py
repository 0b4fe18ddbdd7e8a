"""Named settings: the papers' values, and quick ones to look around with."""

from typing import Any


# Finn et al. 2017 trained half-cheetahs on 40 tasks × 20 episodes with a step of 0.1, λ 1 and KL
# 0.01 to 0.02. What is different here, and what each difference gives, is in docs/results.md.
CHEETAH: dict[str, Any] = {
    "iterations": 100,
    "num_tasks": 20,
    "episodes_per_task": 20,
    "hidden": (100, 100),
    "activation": "relu",
    "inner_lr": 0.1,
    "output_gain": 0.1,
    "inner_steps": 1,
    "estimator": "reinforce",
    "discount": 0.99,
    "gae_lambda": 0.95,
    "inner_gae_lambda": 0.6,
    "max_kl": 0.05,
    "cg_steps": 10,
    "cg_damping": 1e-5,
    "backtracks": 15,
    "backtrack_ratio": 0.8,
    "fisher_fraction": 0.25,
}

PRESETS: dict[str, dict[str, Any]] = {
    # A minute on two cores: 0.8 million environment steps.
    "navigation-quick": {
        "env": "metarl/Navigation2D-v0",
        "iterations": 30,
        "num_tasks": 20,
        "episodes_per_task": 20,
        "hidden": (64, 64),
        "inner_lr": 0.5,
    },
    # Finn et al. 2017, section 5.3 and their point scripts: 20 tasks × 20 episodes × 100 steps.
    # One deviation: the last layer starts at a tenth of Xavier's scale (docs/results.md says why).
    "navigation-paper": {
        "env": "metarl/Navigation2D-v0",
        "iterations": 100,
        "num_tasks": 20,
        "episodes_per_task": 20,
        "hidden": (100, 100),
        "activation": "relu",
        "inner_lr": 0.5,
        "output_gain": 0.1,
        "inner_steps": 1,
        "estimator": "reinforce",
        "discount": 0.99,
        "gae_lambda": 1.0,
        "max_kl": 0.01,
        "cg_steps": 10,
        "cg_damping": 1e-5,
        "backtracks": 15,
        "backtrack_ratio": 0.8,
    },
    # The paper's physics: 0.01 s a step, 200 steps.
    "cheetah-dir-v0": {"env": "metarl/HalfCheetahDir-v0", **CHEETAH},
    "cheetah-vel-v0": {"env": "metarl/HalfCheetahVel-v0", **CHEETAH},
    # Gymnasium's physics as of ProMP and later: 0.05 s a step, 100 steps.
    "cheetah-dir-v1": {"env": "metarl/HalfCheetahDir-v1", **CHEETAH},
    "cheetah-vel-v1": {"env": "metarl/HalfCheetahVel-v1", **CHEETAH},
}


def preset(name: str) -> dict[str, Any]:
    """Return the settings called `name`.

    Raises:
        ValueError: If there are none.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
