"""Few-shot sentence classification, with any number of classes per task.

``metarl train text --method leopard --data-root data --out runs/leopard``
"""

from collections.abc import Sequence
from functools import cache, cached_property, partial
from typing import Any

import torch

from metarl.core import Batch, MetaParams, Task, torch_generator
from metarl.experiment import Experiment, Report
from metarl.experiments.supervised import SupervisedTraining
from metarl.experiments.supervised_models import learner
from metarl.experiments.supervised_setup import (
    Parts,
    make_learner,
    make_model,
    make_test_loop,
    mapped,
    outer_factor,
)
from metarl.experiments.text_evaluation import TextEvaluation, measure, names, report
from metarl.experiments.text_settings import TextConfig
from metarl.models import (
    AdaptedTextClassifier,
    MetaTextClassifier,
    Origin,
    Saved,
    SentenceFormat,
    restored,
)
from metarl.supervised import Draw, Model, minibatches, present_cross_entropy
from metarl.text import (
    AllLabels,
    Encoder,
    Row,
    Sentences,
    TextTask,
    TextTasks,
    find_tasks,
    load_pretrained,
    read_tasks,
    support_batches,
    text_classifier,
    tokenize,
)
from metarl.text.files import PART
from metarl.util import warn


JOINT_BATCH = 16  # sentences per data set in a batch of joint training


class TextClassification(SupervisedTraining[TextConfig]):
    """The experiment ``metarl train text``: few-shot sentence classification."""

    name = "text"
    settings = TextConfig
    data = "sentences"
    family = "few-shot-classification"
    usage = "sentences"
    evaluation = TextEvaluation
    quick = ("--samples", "1", "--shots", "4", "--queries", "100")

    @cached_property
    def parts(self) -> Parts:
        """The model, the meta-learner and the task samplers."""
        return self.built(read_tasks(self.config.data_root, names(self.config.tasks)))

    def built(self, tasks: Sequence[TextTask], *, ways: int | None = None) -> Parts:
        """Build the model, the meta-learner and the samplers for text tasks.

        Sentences are tokenized on first use.

        Args:
            tasks: Text tasks to sample from.
            ways: Number of classes in the head. Default: with
                ``method="pretrained"``, the total number of classes in all
                tasks; otherwise 2.
        """
        config, joint = self.config, self.config.method == "pretrained"
        labels = sum(len(task.labels) for task in tasks) if joint else 2
        model = self._model(load_pretrained(config.encoder).model, ways or labels)

        @cache
        def pools(validation: bool) -> tuple[Sentences, ...]:
            rows = [(task.train_validation_rows()[validation], task) for task in tasks]
            # A small task may have no validation rows.
            return tuple(self.tokenized(some, task) for some, task in rows if some)

        def few_shot(steps: int, *, validation: bool = False) -> Draw:
            sizes = config.num_shots, config.num_queries, config.max_ways
            choose = partial(_validated, config) if validation else tuple

            def prepare(task: Task, generator: torch.Generator) -> Task:
                support = support_of(config, task.support[0], steps, generator)
                return task._replace(support=support)

            return mapped(lambda: TextTasks(choose(pools(validation)), *sizes).sample, prepare)

        joined = mapped(lambda: AllLabels(pools(False), JOINT_BATCH).sample, lambda task, _: task)
        test_steps = config.test_steps or 0
        return Parts(
            model,
            make_learner(config, model, factor=partial(outer_factor, config, "body.encoder.")),
            make_test_loop(config, model, start="zero" if joint else None),
            joined if joint else few_shot(config.inner_steps or 0),
            {"train": few_shot(test_steps), "validation": few_shot(test_steps, validation=True)},
        )

    def _model(self, encoder: Any, ways: int) -> Model:
        config = self.config
        options = {n: getattr(config, n) for n in ("top_layers", "pooling", "max_length")}
        module = text_classifier(
            Encoder(encoder, **options),
            encoder.config.hidden_size,
            ways=ways,
            generated=config.start == "generated",
            generator=torch_generator(config.seed, 0, "parameters"),
        )
        return make_model(config, module, present_cross_entropy)

    def model(  # type: ignore[override]
        self, params: MetaParams, *, encoder: str | None = None
    ) -> MetaTextClassifier:
        """Return the meta-trained classifier, which needs the encoder but no text tasks.

        Args:
            params: The meta-parameters.
            encoder: Folder or Hugging Face name of the encoder. Default: the encoder of the run.

        Raises:
            OSError: If the encoder cannot be loaded.
            ValueError: If the parameters do not match the configuration.
        """
        pretrained, tokenizer = load_pretrained(encoder or self.config.encoder)
        model = self._model(pretrained, len(params.model.get("head.bias", ())) or 2)

        def batches(support: Batch, steps: int, seed: int) -> tuple[Batch, ...]:
            generator = torch_generator(seed, 0, "minibatches", device=self.device)
            return support_of(self.config, support, steps, generator)

        made = learner(self.name, self.config, model, params, self.device, batches=batches)
        return MetaTextClassifier(made, SentenceFormat(tokenizer, self.config.max_length))

    def adapted(self, saved: Saved) -> AdaptedTextClassifier:
        """Restore an adapted classifier from `saved` and from the pretrained encoder of the run."""
        encoder, tokenizer = load_pretrained(self.config.encoder)
        network = restored(self._model(encoder, 2).apply.module, saved)
        classes, origin = tuple(saved.about["classes"]), Origin(self.name, self.config)
        sentences = SentenceFormat(tokenizer, self.config.max_length)
        return AdaptedTextClassifier(network, classes, sentences, origin)

    def tokenized(self, rows: Sequence[Row], task: TextTask) -> Sentences:
        """Return tokenized sentences for `rows` from `task`, on the device of the run."""
        tokenizer, length = load_pretrained(self.config.encoder).tokenizer, self.config.max_length
        return tokenize(tokenizer, rows, task, max_length=length, device=self.device)

    def prepare(self) -> dict[str, float]:
        """Check that training and validation tasks can be sampled, and warn about held-out tasks.

        Returns:
            An empty dictionary, because no metrics are logged for iteration 0.
        """
        if both := sorted({*names(self.config.tasks)} & {*names(self.config.held_out)}):
            warn(
                f"training uses the held-out task {both[0]}; do not evaluate this run on this task"
            )
        validated = [self.parts.evaluated["validation"]] if self.config.validation_tasks else []
        for draw in (self.parts.draw, *validated):
            draw(1, torch_generator(self.config.seed, 0, "trial", device=self.device))
        return super().prepare()

    def with_options(self, options: TextEvaluation) -> Experiment[TextConfig]:
        """Return a copy of the experiment with its settings overridden by the evaluation options.

        Raises:
            ValueError: If `options` sets a step size and the run has learned step sizes.
        """
        if options.inner_lr is not None and self.config.inner == "lslr":
            raise ValueError(f"{options.run} has learned step sizes (inner=lslr); remove inner_lr")
        asked = ("data_root", "encoder", "test_steps", "inner_lr")
        return self.changed(**{n: v for n in asked if (v := getattr(options, n)) is not None})

    def evaluate(self, metas: Sequence[MetaParams], options: TextEvaluation) -> Report:
        """Report the accuracy before and after adaptation to the support sets of test tasks."""
        (params,), config = metas, self.config
        tasks = chosen_tasks(config, options)
        self.parts = self.built(tasks, ways=len(params.model.get("head.bias", ())) or None)
        self.require_matching(params)

        def prepare(support: Batch, index: int) -> tuple[Batch, ...]:
            generator = torch_generator(options.seed, index, "minibatches", device=self.device)
            return support_of(config, support, config.test_steps or 0, generator)

        model, loop = self.parts.model, self.parts.test_loop
        found = measure(model, loop, params, tasks, options, self.tokenized, prepare)
        about = {"method": config.method, "test_steps": config.test_steps,
                 "inner_lr": config.inner_lr}  # fmt: skip
        return report(found, options, about)


def chosen_tasks(config: TextConfig, options: TextEvaluation) -> list[TextTask]:
    """Read the test tasks in ``options.tasks`` or, if no tasks are set, the held-out tasks.

    If the options set a data folder that contains no held-out task, all tasks
    in this folder are used. Tasks without evaluation rows are skipped, unless they are
    in ``options.tasks``. A warning is logged for tasks that were used in training.

    Raises:
        ValueError: If a task in `options`, or every held-out task, has no evaluation rows.
    """
    asked = names(options.tasks)
    known = find_tasks(config.data_root)
    kept = [name for name in names(config.held_out) if name in known]
    kept = kept or [*known] if options.data_root else kept
    tasks = read_tasks(config.data_root, asked or kept)
    if not asked:
        tasks = [task for task in tasks if task.evaluation]
    if not tasks:
        raise ValueError(
            f"no test task has evaluation rows; set `tasks` to names from {', '.join(known)}, or "
            "add a file TASK.eval.jsonl"
        )
    for task in tasks:
        task.require_evaluation()
        if task.name in names(config.tasks):
            warn(
                f"{options.run} was trained on {task.name}, so the results do not measure "
                "generalization to new tasks; use tasks that were not used in training"
            )
    return tasks


def _validated(config: TextConfig, pools: tuple[Sentences, ...]) -> tuple[Sentences, ...]:
    """Return the data sets in `pools` with enough rows per class for validation tasks.

    Raises:
        ValueError: If no data set has enough rows.
    """
    needed = config.num_shots + config.num_queries
    if not (enough := tuple(pool for pool in pools if pool.smallest_class() >= needed)):
        raise ValueError(
            "no task has enough rows for validation, which uses a tenth of the rows: expected "
            f"{PART * needed} rows per class for {config.num_shots} shots and "
            f"{config.num_queries} queries; lower num_shots or num_queries, or add a larger task"
        )
    return enough


def support_of(
    config: TextConfig, support: Batch, steps: int, generator: torch.Generator
) -> tuple[Batch, ...]:
    """Split the support set of one task into the batches for the inner steps.

    Args:
        config: The configuration.
        support: Support set with a task axis of size 1.
        steps: Number of inner steps.
        generator: Random generator for minibatches.

    Returns:
        Batches with a task axis of size 1: parts of the support set for a
        generated head, minibatches with `inner_batch`, otherwise the whole
        support set.
    """
    if config.start == "generated":
        return support_batches(support, shots=config.part_shots, steps=steps)
    if config.inner_batch and steps:
        return minibatches(support, config.inner_batch, steps=steps, generator=generator)
    return (support,)
