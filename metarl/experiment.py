"""The registry of experiments: names that ``metarl train`` takes, and where each is defined."""

from typing import NamedTuple


class Entry(NamedTuple):
    """One command or experiment.

    Attributes:
        module: The module of metarl that defines it; imported only when it is used.
        options: Name of its configuration dataclass in that module.
        summary: One line of help.
    """

    module: str
    options: str
    summary: str


EXPERIMENTS = {
    "maml-trpo": Entry(
        "experiments.maml_trpo",
        "MAMLTRPO",
        "MAML with TRPO; without inner steps: pretraining, or the oracle",
    ),
    "vpg-maml": Entry("experiments.vpg_maml", "VPGMAML", "MAML with Adam on the policy gradient"),
    "maml-ppo": Entry("experiments.maml_ppo", "MAMLPPO", "MAML with PPO's clipped loss"),
    "promp": Entry("experiments.promp", "ProMP", "proximal meta-policy search"),
    "e-maml": Entry(
        "experiments.e_maml", "EMAML", "MAML-TRPO that credits exploration before adapting"
    ),
    "cavia": Entry(
        "experiments.cavia", "CAVIA", "MAML-TRPO that adapts a few context parameters alone"
    ),
    "reptile": Entry("experiments.reptile", "Reptile", "towards the adapted policies, first order"),
    "sb3": Entry(
        "experiments.sb3", "SB3", "Stable-Baselines3 on one task, or with the task observed"
    ),
    "regression": Entry("experiments.regression", "Regression", "few-shot regression of sinusoids"),
    "fewshot": Entry("experiments.fewshot", "FewShotImages", "few-shot classification of images"),
    "text": Entry("experiments.text", "Text", "few-shot classification of sentences"),
}

SUPERVISED = ("regression", "fewshot", "text")
