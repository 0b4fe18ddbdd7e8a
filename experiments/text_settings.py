"""The settings of few-shot classification of sentences."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, Literal

import tyro

from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.text_evaluation import names
from metarl.text.files import find_tasks
from metarl.util.ranges import at_least


SETTINGS: dict[str, dict[str, Any]] = {
    "": {
        "num_tasks": 4, "inner_steps": 3, "test_steps": 3, "inner_lr": 0.1, "outer_lr": 1e-4,
        "validation_tasks": 50,
    },
    # Faster, an encoder forgets what tasks unlike those of the meta-training need.
    "leopard": {"encoder_lr": 1e-5},
    # Fine-tuned with Adam, as encoders are.
    "pretrained": {
        "inner": "adam", "inner_lr": 1e-3, "inner_batch": 16, "test_steps": 100,
        "validation_tasks": 5,
    },
}  # fmt: skip
HELD_OUT = "airline,restaurant,conll,political_audience,political_bias,political_message"
JOINT_BATCH = 16  # sentences of a data set in a batch of joint training


@dataclass(frozen=True)
class TextConfig(SupervisedConfig):
    """Learn to tell any number of classes of sentences apart from K examples of each.

    --method pretrained trains one classifier of all tasks; at its checkpoint 0 it is the encoder
    as it came, for the baseline of plain fine-tuning.
    """

    method: str = "leopard"
    """A row of `metarl methods`: leopard, protonet, protomaml, zero-head or pretrained."""
    iterations: int = 1000
    """Meta-updates."""
    checkpoint_every: int = 250
    """Iterations between checkpoints; with an encoder of 23 million parameters one takes 270 MB."""
    log_every: int = 10
    """Iterations that one line of metrics.jsonl averages."""
    data_root: Path | None = None
    """Folder of the tasks; by default METARL_DATA."""
    tasks: str = ""
    """Tasks to train on, separated by commas; by default all that are not held out."""
    held_out: str = HELD_OUT
    """Tasks to keep for the test, which --tasks left out does not train on."""
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hugging Face encoder: a folder or a name."""
    encoder_lr: Annotated[float | None, at_least(0)] = None
    """Outer step size of the encoder, where it is not that of what is new: with leopard 1e-5, as in
    the paper's code. It falls with --outer-schedule as --outer-lr does."""
    top_layers: Annotated[int, at_least(0)] = 2
    """Layers of the encoder that adapt; those below are meta-learned alone (the paper's ν)."""
    pooling: Literal["mean", "cls"] = "mean"
    """Feature of a sentence: the mean over its tokens, or the first token."""
    max_length: Annotated[int, at_least(1)] = 64
    """Tokens after which a sentence is cut."""
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 4
    """Support sentences of each class."""
    num_queries: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--queries"])] = 4
    """Query sentences of each class."""
    max_ways: Annotated[int, at_least(2)] = 6
    """The most classes of a task in training; of one that has more, some are drawn."""
    part_shots: Annotated[int, at_least(1)] = 2
    """Support sentences of each class in a part of the support set, at most, where a head is
    generated: from the first part; the steps take the others, and then all in turn."""

    def __post_init__(self) -> None:
        """Raise a ValueError for impossible settings."""
        super().__post_init__()
        if self.encoder_lr and self.outer_lr == 0:
            raise ValueError(
                f"encoder_lr={self.encoder_lr:g} is a part of outer_lr, which is 0: give that "
                "a value, or use encoder_lr=0 as well"
            )
        if self.start == "learned" and self.method != "pretrained":
            raise ValueError(
                "tasks of text have no fixed number of classes; use start=generated, zero or "
                "prototypes (method=leopard, zero-head, protomaml or protonet)"
            )
        fixed = (None, 0), (None, "learned"), (None, "sgd", "adam")
        asked = self.inner_steps, self.start, self.inner
        if self.method == "pretrained" and not all(
            x in y for x, y in zip(asked, fixed, strict=True)
        ):
            raise ValueError(
                "method=pretrained adapts in the test alone; leave out inner_steps and "
                "`start`, and use inner=sgd or adam"
            )
        if self.per_step_norm:
            raise ValueError("per_step_norm is for image networks, not for encoders; leave it out")
        if self.estimator == "reptile":
            raise ValueError(
                "Reptile learns what adapts, and the lower layers of an encoder never do; use "
                "estimator=backprop"
            )
        if self.mode not in (None, "eager"):
            raise ValueError("tasks of text have a new shape each; use mode=eager")


def complete(config: TextConfig) -> TextConfig:
    """Fill in what was left open."""
    config = resolve(config, SETTINGS | {"": SETTINGS[""] | {"mode": "eager"}})
    if names(config.tasks):
        return config
    known = find_tasks(config.data_root)
    unknown = [name for name in names(config.held_out) if name not in known]
    if unknown and config.held_out != HELD_OUT:
        raise ValueError(f"held_out={unknown[0]} is no task; there are {', '.join(known)}")
    found = [name for name in known if name not in names(config.held_out)]
    if not found:
        raise ValueError(f"every task is held out; held_out is {config.held_out}")
    return replace(config, tasks=",".join(found))
