"""Named settings: the papers' values, and quick ones to look around with."""

from typing import Any


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
}


def preset(name: str) -> dict[str, Any]:
    """Return the settings called `name`.

    Raises:
        ValueError: If there are none.
    """
    if name not in PRESETS:
        raise ValueError(f"there is no preset {name!r}; choose one of {', '.join(PRESETS)}")
    return PRESETS[name]
