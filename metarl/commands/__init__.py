"""The command line, with one module per command, and the table of the commands."""

import importlib
from collections.abc import Callable, Sequence
from typing import Any, NamedTuple


class Verb(NamedTuple):
    """A command of ``metarl`` other than ``train``.

    Attributes:
        module: Name of the module in :mod:`metarl.commands`, which is imported on first use.
        options: Name of the attribute of this module that defines the options.
            The attribute is the dataclass that the module's ``main`` function
            accepts or, if the options depend on the run, a function ``words ->
            (dataclass, main)`` of the command-line arguments.
        summary: One-line description in the output of ``metarl --help``.
    """

    module: str
    options: str
    summary: str

    def load(self, words: Sequence[str]) -> tuple[type[Any], Callable[[Any], None]]:
        """Return the options dataclass and the main function for a command line.

        Args:
            words: Command-line arguments after the name of the command.
        """
        module = importlib.import_module(f"metarl.commands.{self.module}")
        found = getattr(module, self.options)
        return (found, module.main) if isinstance(found, type) else found(words)


VERBS = {
    "evaluate": Verb("evaluate", "command", "measure results after 0, 1, ... steps on test tasks"),
    "predict": Verb("predict", "Predict", "predict images, texts or points from a few examples"),
    "render": Verb("render", "command", "draw an image or a video of a policy that adapts"),
    "plot": Verb("plot", "Plot", "plot learning curves and adaptation curves of runs"),
    "resume": Verb("resume", "Resume", "continue a run from its last checkpoint"),
    "compare": Verb("compare", "Compare", "train methods with several seeds and compare them"),
    "headstart": Verb("headstart", "Headstart", "compare adaptation with training from scratch"),
    "push": Verb("push", "Push", "share a run, in a folder or on the Hugging Face hub"),
    "pull": Verb("pull", "Pull", "create a run folder from a shared run"),
    "methods": Verb("methods", "Methods", "list the methods, or the details of one method"),
    "envs": Verb("envs", "Envs", "list the environments, or the details of one environment"),
    "completion": Verb("usage", "completion", "print the completion script of a shell"),
    "benchmark": Verb("benchmark", "Benchmark", "measure the speed of sampling and of updates"),
}
"""All commands except ``train``, by name."""
