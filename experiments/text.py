"""Few-shot classification of sentences: tasks with any number of classes.

``metarl train text --method leopard --data-root data --out runs/leopard``
"""

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from typing import Annotated, Any, Literal, cast

import torch
import tyro

from metarl.core.seeding import torch_generator
from metarl.core.types import Batch, Task
from metarl.experiments.launch import launch
from metarl.experiments.supervised import train as train
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.supervised_setup import Parts, make_learner, make_model, make_test_loop
from metarl.runs.config import require
from metarl.supervised.few_shot import minibatches
from metarl.supervised.losses import present_cross_entropy
from metarl.supervised.model import Draw
from metarl.text.encoders import Encoder, load_pretrained
from metarl.text.files import PART, TextTask, find_tasks, read_tasks
from metarl.text.leopard import text_classifier
from metarl.text.tasks import AllLabels, Sentences, TextTasks, support_batches, tokenize
from metarl.util.console import warn
from metarl.util.device import resolve_device
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
class Text(SupervisedConfig):
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
    encoder_lr: float | None = None
    """Outer step size of the encoder, where it is not that of what is new: with leopard 1e-5, as in
    the paper's code. It falls with --outer-schedule as --outer-lr does."""
    top_layers: int = 2
    """Layers of the encoder that adapt; those below are meta-learned alone (the paper's ν)."""
    pooling: Literal["mean", "cls"] = "mean"
    """Feature of a sentence: the mean over its tokens, or the first token."""
    max_length: int = 64
    """Tokens after which a sentence is cut."""
    num_shots: Annotated[int, tyro.conf.arg(aliases=["--shots"])] = 4
    """Support sentences of each class."""
    num_queries: Annotated[int, tyro.conf.arg(aliases=["--queries"])] = 4
    """Query sentences of each class."""
    max_ways: int = 6
    """The most classes of a task in training; of one that has more, some are drawn."""
    part_shots: int = 2
    """Support sentences of each class in a part of the support set, at most, where a head is
    generated: from the first part; the steps take the others, and then all in turn."""

    def __post_init__(self) -> None:
        """Refuse impossible settings, naming the flag."""
        super().__post_init__()
        require(self, at_least(1), "num_shots", "num_queries", "part_shots", "max_length")
        require(self, at_least(0), "top_layers", "encoder_lr")
        require(self, at_least(2), "max_ways")
        if self.encoder_lr and self.outer_lr == 0:
            raise ValueError(
                f"--encoder-lr {self.encoder_lr:g} is a part of --outer-lr, which is 0: give that "
                "a value, or use --encoder-lr 0 as well"
            )
        if self.start == "learned" and self.method != "pretrained":
            raise ValueError(
                "tasks of text have no fixed number of classes; use --start generated, zero or "
                "prototypes (--method leopard, zero-head, protomaml or protonet)"
            )
        fixed = (None, 0), (None, "learned"), (None, "sgd", "adam")
        asked = self.inner_steps, self.start, self.inner
        if self.method == "pretrained" and not all(
            x in y for x, y in zip(asked, fixed, strict=True)
        ):
            raise ValueError(
                "--method pretrained adapts in the test alone; leave out --inner-steps and "
                "--start, and use --inner sgd or adam"
            )
        if self.per_step_norm:
            raise ValueError(
                "--per-step-norm is for image networks, not for encoders; leave it out"
            )
        if self.estimator == "reptile":
            raise ValueError(
                "Reptile learns what adapts, and the lower layers of an encoder never do; use "
                "--estimator backprop"
            )
        if self.mode not in (None, "eager"):
            raise ValueError("tasks of text have a new shape each; use --mode eager")


def build(config: Text, *, sources: Sequence[TextTask] = (), ways: int = 0) -> Parts:
    """Build the parts of a run; sentences are tokenized when they are first needed.

    Args:
        config: The settings.
        sources: What to draw tasks from, instead of reading --tasks.
        ways: Classes of the head of joint training; by default all labels of the tasks.
    """
    config = complete(config)
    device = resolve_device(config.device)
    tasks = sources or read_tasks(config.data_root, names(config.tasks))
    pretrained = load_pretrained(config.encoder)
    joint = config.method == "pretrained"
    module = text_classifier(
        Encoder(
            pretrained.model,
            top=config.top_layers,
            pooling=config.pooling,
            length=config.max_length,
        ),
        pretrained.model.config.hidden_size,
        ways=ways or (sum(len(task.labels) for task in tasks) if joint else 2),
        generated=config.start == "generated",
        generator=torch_generator(config.seed, 0, "parameters"),
    )
    model = make_model(config, module, present_cross_entropy)

    @cache
    def pools(validation: bool) -> tuple[Sentences, ...]:
        rows = [(task, task.parted()[validation]) for task in tasks]
        return tuple(
            tokenize(pretrained.tokenizer, some, task, max_length=config.max_length, device=device)
            for task, some in rows
            if some  # a small task has none to validate with
        )

    def few_shot(steps: int, *, validation: bool = False) -> Draw:
        def make() -> TextTasks:
            few = _validated(config, pools(True)) if validation else pools(False)
            return TextTasks(few, config.num_shots, config.num_queries, config.max_ways)

        return _prepared(config, _lazily(make), steps)

    all_labels = _lazily(lambda: AllLabels(pools(False), JOINT_BATCH))
    test_steps = config.test_steps or 0
    return Parts(
        model,
        make_learner(config, model, factor=partial(_outer_factor, config)),
        make_test_loop(config, model, start="zero" if joint else None),
        all_labels if joint else few_shot(config.inner_steps or 0),
        {"train": few_shot(test_steps), "validation": few_shot(test_steps, validation=True)},
        device,
    )


def complete(config: Text) -> Text:
    """Fill in what was left open."""
    config = resolve(config, SETTINGS | {"": SETTINGS[""] | {"mode": "eager"}})
    if names(config.tasks):
        return config
    known = find_tasks(config.data_root)
    unknown = [name for name in names(config.held_out) if name not in known]
    if unknown and config.held_out != HELD_OUT:
        raise ValueError(f"--held-out {unknown[0]} is no task; there are {', '.join(known)}")
    found = [name for name in known if name not in names(config.held_out)]
    if not found:
        raise ValueError(f"every task is held out; --held-out is {config.held_out}")
    return replace(config, tasks=",".join(found))


def main(config: Text) -> None:
    """Start a run."""
    config = complete(config)
    if both := sorted({*names(config.tasks)} & {*names(config.held_out)}):
        warn(f"trained on held-out task {both[0]}: no test of this run should be on it")
    parts = build(config)
    for draw in (parts.draw, parts.evaluated["validation"]):  # what they lack shows now
        draw(1, torch_generator(config.seed, 0, "trial", device=parts.device))
    launch("text", config, parts, sys.modules[__name__])


def names(listed: str) -> list[str]:
    """Return the names in a list separated by commas, each once."""
    return list(dict.fromkeys(name.strip() for name in listed.split(",") if name.strip()))


def _validated(config: Text, pools: tuple[Sentences, ...]) -> tuple[Sentences, ...]:
    """Return the tasks to validate with: a tenth of a small one is not always enough."""
    needed = config.num_shots + config.num_queries
    if not (enough := tuple(pool for pool in pools if pool.fewest() >= needed)):
        raise ValueError(
            f"validation takes a tenth of the rows, and no task has {PART * needed} of each class: "
            f"{config.num_shots} shots and {config.num_queries} queries of that tenth; lower "
            "--shots or --queries, or add a larger task"
        )
    return enough


def _outer_factor(config: Text, name: str) -> float:
    """Return what the outer step size of a parameter is multiplied by."""
    own = config.encoder_lr if name.startswith("body.encoder.") else None
    return own / config.outer_lr if own is not None and config.outer_lr else 1.0


def _lazily(make: Callable[[], Any]) -> Draw:
    made = cache(make)
    return lambda num_tasks, generator: made().sample(num_tasks, generator)


def _prepared(config: Text, draw: Draw, steps: int) -> Draw:
    """Cut the support sets of tasks into what the inner steps take."""

    def prepared(num_tasks: int, generator: torch.Generator) -> list[Task]:
        return [
            task._replace(support=support_of(config, task.support[0], steps, generator))
            for task in cast(list[Task], draw(num_tasks, generator))
        ]

    return prepared


def support_of(
    config: Text, support: Batch, steps: int, generator: torch.Generator
) -> tuple[Batch, ...]:
    """Return what `steps` inner steps take of one task's support set, with a task axis of 1."""
    if config.start == "generated":
        return support_batches(support, shots=config.part_shots, steps=steps)
    if config.inner_batch and steps:
        return minibatches(support, config.inner_batch, steps=steps, generator=generator)
    return (support,)
