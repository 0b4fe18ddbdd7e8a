"""The registry of experiments: names that ``metarl train`` takes, and where each is defined."""

import importlib
from typing import Any, NamedTuple


class Entry(NamedTuple):
    """One command or experiment.

    Attributes:
        module: The module of metarl that defines it; imported only when it is used.
        options: Its configuration dataclass in that module, or ``function:argument`` that returns
            one.
        summary: One line of help.
    """

    module: str
    options: str
    summary: str

    def load(self) -> tuple[Any, Any]:
        """Import and return the module and the configuration dataclass."""
        module = importlib.import_module(f"metarl.{self.module}")
        name, _, argument = self.options.partition(":")
        found = getattr(module, name)
        return module, found(argument) if argument else found


OTHERS = {
    "sb3": Entry("experiments.sb3", "SB3", "Stable-Baselines3 on one task, or with task observed"),
    "regression": Entry("experiments.regression", "Regression", "few-shot regression of sinusoids"),
    "fewshot": Entry("experiments.fewshot", "FewShotImages", "few-shot classification of images"),
    "text": Entry("experiments.text", "Text", "few-shot classification of sentences"),
}
SUPERVISED = ("regression", "fewshot", "text")
