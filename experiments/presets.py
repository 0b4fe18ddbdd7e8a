"""Presets: named settings from published experiments, and quick settings to start with."""

from typing import Any

from metarl.rl.methods import METHODS


PLANE = "metarl/Navigation2D-v0"
# Settings that are not listed have their defaults, which mostly follow the paper.
# Finn et al. 2017 trained half-cheetahs on 40 tasks × 20 episodes with step size 0.1, λ 1 and KL
# 0.01 to 0.02. docs/results.md explains the differences and their effects.
CHEETAH: dict[str, Any] = {
    "iterations": 300,
    "inner_lr": 0.1,
    "gae_lambda": 0.95,
    "inner_gae_lambda": 0.6,
    "max_kl": 0.05,
    "fisher_fraction": 0.25,
}
# Observations contain little information: the biases, which a large inner step changes, determine
# the actions.
TABULAR: dict[str, Any] = {"num_tasks": 40, "hidden": (32, 32), "inner_lr": 5.0, "output_gain": 1.0}
POLICIES: dict[str, dict[str, Any]] = {
    # Training takes 0.8 million environment steps, or one minute on two CPU cores.
    "navigation-quick": {"env": PLANE, "iterations": 30, "hidden": (64, 64)},
    # Finn et al. 2017, section 5.3 and their point scripts: 20 tasks × 20 episodes × 100 steps.
    # One deviation: the last layer starts at a tenth of Xavier's scale, see docs/results.md.
    "navigation-paper": {"env": PLANE, "iterations": 100},
    # The simulation of the paper: 0.01 s per step, 200 steps.
    "rllab-cheetah-dir": {**CHEETAH, "env": "metarl/RllabHalfCheetahDir-v0", "iterations": 200},
    # More tasks with fewer episodes each, as in the checkpoint of the paper.
    "rllab-cheetah-vel": {
        **CHEETAH, "env": "metarl/RllabHalfCheetahVel-v0", "iterations": 200, "num_tasks": 40,
        "episodes_per_task": 10,
    },
    # The simulation of Gymnasium, as in ProMP and later work: 0.05 s per step, 100 steps.
    "cheetah-dir": {**CHEETAH, "env": "metarl/HalfCheetahDir-v1", "iterations": 160},
    "cheetah-vel": {**CHEETAH, "env": "metarl/HalfCheetahVel-v1", "iterations": 160},
    # Duan et al. 2016, with 200 pulls, or 20 episodes of ten steps, before an inner step. On the
    # bandit, the curvature of log π · A makes the first policy deterministic, see docs/results.md.
    "bandit": {
        **TABULAR, "env": "metarl/Bandit-v0", "iterations": 60, "discount": 0.5,
        "inner_loss": "ratio",
    },
    "tabular-mdp": {
        **TABULAR, "env": "metarl/TabularMDP-v0", "iterations": 100, "gae_lambda": 0.9,
    },
}  # fmt: skip

# RL² on the bandits and the tabular MDPs of Duan et al. 2016: trials of 10 episodes, 100 steps.
TRIALS: dict[str, Any] = {
    "iterations": 500, "checkpoint_every": 50, "inner_steps": 9, "num_tasks": 100,
    "episodes_per_task": 2, "memory": 64, "baseline": "value", "gae_lambda": 0.3, "outer_lr": 3e-3,
}  # fmt: skip
MEMORIES: dict[str, dict[str, Any]] = {
    **POLICIES,
    "bandit": {**TRIALS, "env": "metarl/Bandit-v0"},
    "bandit-10": {  # trials of one episode, that is 10 pulls
        **TRIALS, "env": "metarl/Bandit-v0", "iterations": 300, "inner_steps": 0,
        "episodes_per_task": 20, "entropy": 0.01, "outer_lr": 2e-3, "output_gain": 1.0,
    },
    # With γ = 0.99, returns-to-go depend mostly on the time step: the value layer learns slowly.
    "tabular-mdp": {
        **TRIALS, "env": "metarl/TabularMDP-v0", "iterations": 120, "episodes_per_task": 4,
        "network": "attention", "hidden": (128,), "memory": 128, "discount": 0.9, "entropy": 0.01,
        "outer_lr": 4e-3, "output_gain": 0.3, "epochs": 4, "minibatches": 10,
    },
}  # fmt: skip

# Finn et al. 2017, section 5.1: 70,000 meta-updates on 25 sinusoids. The step size is from their
# code; with 0.01, the value in the paper, some test tasks diverge after three or more steps.
SINUSOID: dict[str, Any] = {"iterations": 70_000, "checkpoint_every": 10_000, "inner_lr": 1e-3}
SINUSOIDS: dict[str, dict[str, Any]] = {
    "sinusoid-paper": {**SINUSOID, "num_shots": 10},
    "sinusoid-5-shot": {**SINUSOID, "num_shots": 5},
}

# Published inner step sizes apply to summed losses: 0.4 for 5 ways is 2.0 for the mean loss here.
OMNIGLOT: dict[str, Any] = {"data": "omniglot", "method": "maml", "iterations": 60_000}
# Finn et al. 2017: 32 filters, 5 steps of 0.01 × 5 in training and 10 steps in test, gradients
# clipped to 10. Antoniou et al. 2019: 48 filters, 2 tasks.
MINI: dict[str, Any] = {
    "data": "mini-imagenet", "num_queries": 15, "inner_steps": 5, "clip": 10.0,
}  # fmt: skip
IMAGES: dict[str, dict[str, Any]] = {
    # Finn et al. 2017: 32 tasks, 1 step of 0.4 × 5; 60,000 meta-updates.
    "omniglot-maml": {**OMNIGLOT, "inner_lr": 2.0},
    # Finn et al. 2017, 20 ways: 16 tasks, 5 steps of 0.1 × 20.
    "omniglot-maml-20": {
        **OMNIGLOT, "inner_lr": 2.0, "num_ways": 20, "num_tasks": 16, "inner_steps": 5,
    },
    # Antoniou et al. 2019: 16 tasks, 5 steps, max-pooling, rotations as classes only in training.
    "omniglot-maml++": {
        **OMNIGLOT, "method": "maml++", "iterations": 50_000, "network": "conv4-pool",
        "rotations": "train",
    },
    # Nichol et al. 2018: 5 tasks, 5 steps of 1e-3 in training and 50 in test; 10 images per class
    # in training, batches of 10, Adam without momentum.
    "omniglot-reptile": {
        **OMNIGLOT, "method": "reptile", "iterations": 100_000, "network": "conv4-flat",
        "rotations": "train",
    },
    # Park & Oliva 2019: one step of 0.4 × 5, as in MAML.
    "omniglot-meta-curvature": {**OMNIGLOT, "method": "meta-curvature", "inner_lr": 2.0},
    # Rajeswaran et al. 2019: 16 steps, λ 2, 5 conjugate-gradient steps, the rate of their code.
    # Their linear system, 2 I + H / (λ + 10), is a sixth of the system here, 12 I + H / λ. With
    # damping 1, training diverges. A step size near 1/λ makes the proximal steps overshoot.
    "omniglot-imaml": {
        **OMNIGLOT, "method": "imaml", "iterations": 20_000, "cg_damping": 11.0,
        "network": "conv4-flat",
    },
    "mini-imagenet-maml": {
        **MINI, "method": "maml", "iterations": 60_000, "network": "mini-32", "num_tasks": 4,
        "inner_lr": 0.05, "test_steps": 10,
    },
    "mini-imagenet-maml++": {
        **MINI, "method": "maml++", "iterations": 50_000, "network": "mini-48", "num_tasks": 2,
    },
}  # fmt: skip

PRESETS: dict[str, dict[str, dict[str, Any]]] = {
    "policies": POLICIES,
    "rl2": MEMORIES,
    "regression": SINUSOIDS,
    "fewshot": IMAGES,
    "text": {},
}
"""Preset settings by experiment and preset name. All meta-RL methods except rl2 share the
key ``"policies"``."""


def presets_of(experiment: str) -> dict[str, dict[str, Any]]:
    """Return the settings of all presets for an experiment, by preset name."""
    family = experiment if experiment in PRESETS else "policies"
    own = METHODS[experiment].with_preset if experiment in METHODS else {}
    return {name: values | own for name, values in PRESETS[family].items()}


def preset(name: str, experiment: str) -> dict[str, Any]:
    """Return the settings of a preset, by field name of the configuration dataclass.

    Args:
        name: Name of the preset.
        experiment: Name of the experiment.

    Raises:
        ValueError: If the experiment has no preset of this name.
    """
    own = presets_of(experiment)
    if name not in own:
        known = f"one of {', '.join(own)}" if own else "no preset"
        raise ValueError(
            f"unknown preset {name!r} for {experiment}: expected {known}. Run `metarl train` to "
            "list all presets"
        )
    return own[name]
