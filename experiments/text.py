"""Few-shot classification of sentences: tasks with any number of classes.

``metarl train text --method leopard --data-root data --out runs/leopard``
"""

from collections.abc import Sequence
from functools import cache, cached_property, partial

import torch

from metarl.core.seeding import torch_generator
from metarl.core.types import Batch, MetaParams, Params, Task
from metarl.experiment import Experiment, Report
from metarl.experiments.supervised import SupervisedTraining
from metarl.experiments.supervised_setup import (
    Parts,
    make_learner,
    make_model,
    make_test_loop,
    mapped,
)
from metarl.experiments.text_evaluation import TextEvaluation, measure, names, report
from metarl.experiments.text_settings import JOINT_BATCH
from metarl.experiments.text_settings import TextConfig as TextConfig
from metarl.experiments.text_settings import complete as complete
from metarl.runs.card import Subject
from metarl.supervised.few_shot import minibatches
from metarl.supervised.losses import present_cross_entropy
from metarl.supervised.model import Draw
from metarl.text.encoders import Encoder, load_pretrained
from metarl.text.files import PART, TextTask, find_tasks, read_tasks
from metarl.text.leopard import text_classifier
from metarl.text.tasks import AllLabels, Sentences, TextTasks, support_batches, tokenize
from metarl.util.console import warn
from metarl.util.device import resolve_device


def build(config: TextConfig, *, sources: Sequence[TextTask] = (), ways: int = 0) -> Parts:
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
            top_layers=config.top_layers,
            pooling=config.pooling,
            max_length=config.max_length,
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
        sizes = config.num_shots, config.num_queries, config.max_ways
        choose = partial(_validated, config) if validation else tuple
        source = cache(lambda: TextTasks(choose(pools(validation)), *sizes))

        def prepare(task: Task, generator: torch.Generator) -> Task:
            support = support_of(config, task.support[0], steps, generator)
            return task._replace(support=support)

        return mapped(lambda count, generator: source().sample(count, generator), prepare)

    joined = cache(lambda: AllLabels(pools(False), JOINT_BATCH))
    test_steps = config.test_steps or 0
    return Parts(
        model,
        make_learner(config, model, factor=partial(_outer_factor, config)),
        make_test_loop(config, model, start="zero" if joint else None),
        (lambda count, generator: joined().sample(count, generator))
        if joint
        else few_shot(config.inner_steps or 0),
        {"train": few_shot(test_steps), "validation": few_shot(test_steps, validation=True)},
        device,
    )


class TextClassification(SupervisedTraining[TextConfig]):
    """Few-shot classification of sentences."""

    name = "text"
    evaluation = TextEvaluation
    quick = ("--samples", "1", "--shots", "4", "--queries", "100")
    complete = staticmethod(complete)

    @cached_property
    def parts(self) -> Parts:
        """The model, its learner, and what draws its tasks."""
        return build(self.config)

    def prepare(self) -> dict[str, float]:
        """Draw a task to train on and one to validate with."""
        if both := sorted({*names(self.config.tasks)} & {*names(self.config.held_out)}):
            warn(f"trained on held-out task {both[0]}: no test of this run should be on it")
        for draw in (self.parts.draw, self.parts.evaluated["validation"]):
            draw(1, torch_generator(self.config.seed, 0, "trial", device=self.device))
        return super().prepare()

    def describe(self) -> Subject:
        """Return the method and its paper."""
        return self.subject("sentences", "few-shot-classification")

    def asked(self, options: TextEvaluation) -> Experiment[TextConfig]:
        """Put what was asked for in place of the run's settings."""
        if options.inner_lr is not None and self.config.inner == "lslr":
            raise ValueError(f"{options.run} learned its rates (inner=lslr); leave out inner_lr")
        asked = ("data_root", "encoder", "test_steps", "inner_lr")
        return self.changed(**{n: v for n in asked if (v := getattr(options, n)) is not None})

    def evaluate(self, metas: Sequence[MetaParams], options: TextEvaluation) -> Report:
        """Return the accuracy before and after adaptation to each fixed support sample."""
        (params,), config = metas, self.config
        tasks = chosen_tasks(config, options)
        self.parts = build(config, sources=tasks, ways=ways_of(params.model))
        self.require_fitting(params)

        def prepare(support: Batch, index: int) -> tuple[Batch, ...]:
            generator = torch_generator(options.seed, index, "minibatches", device=self.device)
            return support_of(config, support, config.test_steps or 0, generator)

        tokenizer = partial(
            tokenize,
            load_pretrained(config.encoder).tokenizer,
            max_length=config.max_length,
            device=self.device,
        )
        model, loop = self.parts.model, self.parts.test_loop
        found = measure(model, loop, params, tasks, options, tokenizer, prepare)
        about = {"method": config.method, "test_steps": config.test_steps,
                 "inner_lr": config.inner_lr}  # fmt: skip
        return report(found, options, about)


def ways_of(params: Params) -> int:
    """Return the classes of the head that was trained; 0 if each task has one of its own."""
    return len(params["head.bias"]) if "head.bias" in params else 0


def chosen_tasks(config: TextConfig, options: TextEvaluation) -> list[TextTask]:
    """Read the test tasks, and make sure that they have what the evaluation needs."""
    asked = names(options.tasks)
    known = find_tasks(config.data_root)
    kept = [name for name in names(config.held_out) if name in known]
    tasks = read_tasks(config.data_root, asked or kept)
    if not asked:
        tasks = [task for task in tasks if task.evaluation]
    if not tasks:
        raise ValueError(
            f"no task that was held out has evaluation rows; choose `tasks` of {', '.join(known)}"
        )
    for task in tasks:
        task.require_evaluation()
        if task.name in names(config.tasks):
            warn(f"{options.run} was trained on {task.name}: this is no test of new tasks")
    return tasks


def _validated(config: TextConfig, pools: tuple[Sentences, ...]) -> tuple[Sentences, ...]:
    """Return the tasks to validate with: a tenth of a small one is not always enough."""
    needed = config.num_shots + config.num_queries
    if not (enough := tuple(pool for pool in pools if pool.fewest() >= needed)):
        raise ValueError(
            f"validation takes a tenth of the rows, and no task has {PART * needed} of each class: "
            f"{config.num_shots} shots and {config.num_queries} queries of that tenth; lower "
            "num_shots or num_queries, or add a larger task"
        )
    return enough


def _outer_factor(config: TextConfig, name: str) -> float:
    """Return what the outer step size of a parameter is multiplied by."""
    own = config.encoder_lr if name.startswith("body.encoder.") else None
    return own / config.outer_lr if own is not None and config.outer_lr else 1.0


def support_of(
    config: TextConfig, support: Batch, steps: int, generator: torch.Generator
) -> tuple[Batch, ...]:
    """Return what `steps` inner steps take of one task's support set, with a task axis of 1."""
    if config.start == "generated":
        return support_batches(support, shots=config.part_shots, steps=steps)
    if config.inner_batch and steps:
        return minibatches(support, config.inner_batch, steps=steps, generator=generator)
    return (support,)
