"""Configuration of few-shot sentence classification."""

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Annotated, Any, ClassVar, Literal

import tyro

from metarl.experiments.supervised_settings import SupervisedConfig, encoder_place
from metarl.experiments.text_evaluation import names
from metarl.runs import unset
from metarl.text import find_tasks
from metarl.util import Conflicts, Ranged, at_least, raise_if


HELD_OUT = "airline,restaurant,conll,political_audience,political_bias,political_message"


@dataclass(frozen=True)
class TextSettings(Ranged):
    """Settings for the text data sets and for sampling few-shot tasks from the sentences."""

    group: ClassVar[str] = "data"
    data_root: Annotated[Path | None, unset("$METARL_DATA")] = None
    """Folder with the LEOPARD files or, for custom tasks, with one file TASK.jsonl per task and a
    file TASK.eval.jsonl with evaluation rows per test task."""
    tasks: Annotated[str, tyro.conf.arg(help_behavior_hint="(default: all but the held-out)")] = ""
    """Names of the training tasks, separated by commas. If not set, all tasks in --data-root are
    used, except for the tasks in --held-out."""
    held_out: str = HELD_OUT
    """Names of the test tasks, separated by commas. Training excludes the
    test tasks unless --tasks contains them."""
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 4
    """Number of support sentences per class."""
    num_queries: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--queries"])] = 4
    """Number of query sentences per class."""
    max_ways: Annotated[int, at_least(2)] = 6
    """Maximum number of classes per training task. If a data set has more
    classes, each task uses a random subset."""
    part_shots: Annotated[int, at_least(1)] = 2
    """Only for --start generated: maximum number of support sentences per
    class in one part of the support set. The first part generates the head,
    and the inner steps use the other parts."""


@dataclass(frozen=True)
class EncoderSettings(Ranged):
    """Settings for the sentence encoder."""

    group: ClassVar[str] = "encoder"
    encoder: str = "sentence-transformers/all-MiniLM-L6-v2"
    """Hugging Face encoder, given as a folder or a model name."""
    encoder_lr: Annotated[float | None, at_least(0), unset("value of --outer-lr")] = None
    """Outer step size for the encoder parameters, scheduled like --outer-lr. The
    default is 1e-5 for leopard and the value of --outer-lr otherwise."""
    top_layers: Annotated[int, at_least(0)] = 2
    """Number of top encoder layers that the inner steps adapt (LEOPARD's ν).
    The other encoder layers are only meta-learned."""
    pooling: Literal["mean", "cls"] = "mean"
    """Method of pooling token features into a sentence feature: mean averages
    all tokens, and cls uses the first token."""
    max_length: Annotated[int, at_least(1)] = 64
    """Maximum number of tokens per sentence; longer sentences are truncated."""


@dataclass(frozen=True)
class TextConfig(SupervisedConfig, EncoderSettings, TextSettings):
    """Learn to classify sentences into any number of classes from a few examples per class.

    --method pretrained trains one classifier on the classes of all tasks.
    Checkpoint 0 of such a run contains the original encoder and serves as a
    fine-tuning baseline. A checkpoint requires 270 MB for an encoder with 23
    million parameters.
    """

    method: str = "leopard"
    """Meta-learning method: leopard, protonet, protomaml, zero-head or pretrained."""
    iterations: int = 1000
    checkpoint_every: int = 250
    log_every: int = 10

    defaults = {  # noqa: RUF012
        "": {"mode": "eager", "num_tasks": 4, "inner_steps": 3, "test_steps": 3, "inner_lr": 0.1,
             "outer_lr": 1e-4, "validation_tasks": 50},
        # With larger values, the encoder loses features that tasks unlike the training tasks need.
        "leopard": {"encoder_lr": 1e-5},
        # Encoders are usually fine-tuned with Adam.
        "pretrained": {"inner": "adam", "inner_lr": 1e-3, "inner_batch": 16, "test_steps": 100,
                       "validation_tasks": 5},
    }  # fmt: skip

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        joint, rate = self.method == "pretrained", self.encoder_lr
        learned = self.start == "learned" and not joint
        trained = joint and (self.inner_steps or self.start not in (None, "learned"))
        rates = joint and self.inner not in (None, "sgd", "adam")
        staged = self.mode not in (None, "eager")
        return [
            *super().conflicts(),
            (
                rate and self.outer_lr == 0,
                f"encoder_lr={rate} requires outer_lr greater than 0, got 0; increase outer_lr",
            ),
            (
                learned,
                "text tasks have no fixed number of classes and do not support start=learned; use "
                "start=generated, zero or prototypes",
            ),
            (trained, "method=pretrained only adapts at test time; remove inner_steps and `start`"),
            (rates, "method=pretrained cannot learn step sizes; use inner=sgd or adam"),
            (
                self.per_step_norm,
                "text encoders do not support per_step_norm; remove per_step_norm",
            ),
            (
                self.estimator == "reptile",
                "text tasks do not support estimator=reptile, which requires that all layers "
                "adapt; use estimator=backprop",
            ),
            (staged, f"text tasks require mode=eager, got mode={self.mode}; remove `mode`"),
        ]

    def complete(self) -> Any:
        """Return the complete configuration, with the training tasks found in the data folder.

        The folder of an encoder becomes an absolute path.

        Raises:
            ValueError: If a held-out task does not exist, or no training tasks are left.
        """
        config = super().complete()
        config = replace(config, encoder=encoder_place(config.encoder))
        if names(self.tasks):
            return config
        known, held_out = find_tasks(self.data_root), names(self.held_out)
        unknown = [name for name in held_out if name not in known and self.held_out != HELD_OUT]
        found = [name for name in known if name not in held_out]
        raise_if(
            (
                unknown,
                f"unknown task {''.join(unknown[:1])!r} in held_out: expected one of "
                f"{', '.join(known)}. Remove the unknown task",
            ),
            (
                not found,
                f"held_out={self.held_out} leaves no training tasks; remove tasks from held_out",
            ),
        )
        return replace(config, tasks=",".join(found))
