"""Settings of few-shot classification of sentences."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from metarl.experiments.supervised_settings import SupervisedConfig
from metarl.experiments.text_evaluation import names
from metarl.runs import unset
from metarl.text import find_tasks
from metarl.util import Conflicts, Ranged, at_least, refuse


HELD_OUT = "airline,restaurant,conll,political_audience,political_bias,political_message"


@dataclass(frozen=True)
class TextSettings(Ranged):
    """Settings of the sentences and of the tasks sampled from them."""

    group: ClassVar[str] = "data"
    data_root: Annotated[Path | None, unset("METARL_DATA")] = None
    """Folder of the text tasks."""
    tasks: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: all but the held-out)")] = ""
    """Tasks to train on, separated by commas."""
    held_out: str = HELD_OUT
    """Test tasks, separated by commas; training excludes them unless --tasks names them."""
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 4
    """Number of support sentences of each class."""
    num_queries: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--queries"])] = 4
    """Number of query sentences of each class."""
    max_ways: Annotated[int, at_least(2)] = 6
    """Maximum number of classes of a training task; larger tasks are subsampled."""
    part_shots: Annotated[int, at_least(1)] = 2
    """Maximum number of support sentences of each class in one part of the support set. With a
    generated head, the first part generates the head and the inner steps use the other parts."""


@dataclass(frozen=True)
class EncoderSettings(Ranged):
    """Settings of the sentence encoder."""

    group: ClassVar[str] = "encoder"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hugging Face encoder: a folder or a model name."""
    encoder_lr: Annotated[float | None, at_least(0), unset("outer-lr")] = None
    """Outer step size of the encoder; it follows --outer-schedule."""
    top_layers: Annotated[int, at_least(0)] = 2
    """Number of top layers that adapt; lower layers are only meta-learned (LEOPARD's ν)."""
    pooling: Literal["mean", "cls"] = "mean"
    """Sentence feature: the mean over tokens, or the first token."""
    max_length: Annotated[int, at_least(1)] = 64
    """Maximum number of tokens of a sentence; longer sentences are truncated."""


@dataclass(frozen=True)
class TextConfig(SupervisedConfig, EncoderSettings, TextSettings):
    """Learn to classify sentences into any number of classes from K examples of each.

    --method pretrained trains one classifier of all tasks; its checkpoint 0 is the unchanged
    encoder, the baseline of plain fine-tuning. With an encoder of 23 million parameters, a
    checkpoint takes 270 MB.
    """

    method: str = "leopard"
    """Method: leopard, protonet, protomaml, zero-head or pretrained."""
    iterations: int = 1000
    checkpoint_every: int = 250
    log_every: int = 10

    defaults = {  # noqa: RUF012
        "": {"mode": "eager", "num_tasks": 4, "inner_steps": 3, "test_steps": 3, "inner_lr": 0.1,
             "outer_lr": 1e-4, "validation_tasks": 50},
        # Faster, an encoder forgets what tasks unlike those of the meta-training need.
        "leopard": {"encoder_lr": 1e-5},
        # Fine-tuned with Adam, as encoders are.
        "pretrained": {"inner": "adam", "inner_lr": 1e-3, "inner_batch": 16, "test_steps": 100,
                       "validation_tasks": 5},
    }  # fmt: skip

    def conflicts(self) -> Conflicts:
        """Return the invalid combinations of settings with their error messages."""
        joint, rate = self.method == "pretrained", self.encoder_lr
        learned = self.start == "learned" and not joint
        trained = joint and (self.inner_steps or self.start not in (None, "learned"))
        rates = joint and self.inner not in (None, "sgd", "adam")
        staged = self.mode not in (None, "eager")
        return [
            *super().conflicts(),
            (
                rate and self.outer_lr == 0,
                f"encoder_lr={rate} requires outer_lr greater than 0, got 0",
            ),
            (
                learned,
                "tasks have no fixed number of classes; use start=generated, zero or prototypes",
            ),
            (trained, "method=pretrained adapts only in tests; remove inner_steps and `start`"),
            (rates, "method=pretrained cannot learn step sizes; use inner=sgd or adam"),
            (self.per_step_norm, "text encoders do not support per_step_norm; remove it"),
            (
                self.estimator == "reptile",
                "estimator=reptile requires that all layers adapt; use estimator=backprop",
            ),
            (staged, "text tasks differ in shape; use mode=eager"),
        ]

    def complete(self) -> Any:
        """Return the complete configuration; `tasks` lists the training tasks found in the data."""
        config = super().complete()
        if names(self.tasks):
            return config
        known, held_out = find_tasks(self.data_root), names(self.held_out)
        unknown = [name for name in held_out if name not in known and self.held_out != HELD_OUT]
        found = [name for name in known if name not in held_out]
        refuse(
            (unknown, f"unknown task held_out={''.join(unknown[:1])}: expected {', '.join(known)}"),
            (not found, f"no training tasks are left; shorten held_out={self.held_out}"),
        )
        return replace(config, tasks=",".join(found))
