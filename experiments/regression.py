"""Few-shot regression of sinusoids (Finn et al. 2017, section 5.1) with any method.

``metarl train regression --method maml --out runs/sine``
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, Any, Literal

import tyro
from torch import nn

from metarl.core import tree
from metarl.core.seeding import torch_generator
from metarl.data.images import Splits
from metarl.drawing.curves import Fit
from metarl.experiments.supervised_evaluation import Supervised
from metarl.experiments.supervised_settings import SupervisedConfig, resolve
from metarl.experiments.supervised_setup import Parts, make_learner, make_model, make_test_loop
from metarl.nn.convolution import Classifier
from metarl.nn.dense import ACTIVATIONS, linear, mlp
from metarl.runs.card import Subject
from metarl.runs.folder import Run
from metarl.supervised.losses import squared_error
from metarl.supervised.sinusoid import Sinusoids
from metarl.util.device import resolve_device
from metarl.util.ranges import at_least


# Rates are those of a mean squared error. One step in training, ten in the test, as in the paper.
SETTINGS: dict[str, dict[str, Any]] = {
    "": {
        "mode": "traced",
        "num_tasks": 25,
        "inner_steps": 1,
        "test_steps": 10,
        "inner_lr": 0.01,
        "outer_lr": 1e-3,
    },
    "reptile": {"num_tasks": 25, "inner_steps": 5, "inner": "sgd", "inner_lr": 0.02},
    "imaml": {"inner_steps": 16, "inner_lr": 0.05, "test_steps": 16},
    "maml++": {"inner_steps": 5, "per_step_norm": False},  # an MLP has no norms
}
QUERIES = 100  # points of validation and test


@dataclass(frozen=True)
class RegressionConfig(SupervisedConfig):
    """Learn to fit a sinusoid from a few points.

    --method pretrained trains jointly on all sinusoids, and --method oracle sees amplitude and
    phase. --preset NAME starts from named settings; `metarl train` lists them.
    """

    iterations: int = 10_000
    """Meta-updates."""
    checkpoint_every: int = 1000
    """Iterations between checkpoints."""
    log_every: int = 100
    """Iterations that one line of metrics.jsonl averages."""
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 10
    """Support points of a task."""
    num_queries: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--queries"])] = 10
    """Query points of a task in training; validation and test take 100."""
    hidden: Annotated[tuple[int, ...], at_least(1)] = (40, 40)
    """Widths of the hidden layers."""
    activation: Literal["relu", "tanh"] = "relu"
    """Nonlinearity."""

    def __post_init__(self) -> None:
        """Raise a ValueError for impossible settings."""
        super().__post_init__()
        if not self.hidden:
            raise ValueError("`hidden` needs at least one width")
        for name, value in (("start", "learned"), ("inner_batch", None), ("per_step_norm", False)):
            if getattr(self, name) not in (None, value):
                raise ValueError(f"`{name}` is only supported by `train fewshot`; leave it out")
        if self.method in ("protomaml", "protonet", "zero-head"):
            raise ValueError(f"method={self.method} needs classes: use `train fewshot`")


def complete(config: RegressionConfig) -> RegressionConfig:
    """Fill in what was left open."""
    return resolve(config, SETTINGS)


def build(config: RegressionConfig) -> Parts:
    """Build the parts of a run."""
    config = complete(config)
    observed = config.method == "oracle"
    model = make_model(config, _network(config, 3 if observed else 1), squared_error)
    evaluated = Sinusoids(config.num_shots, QUERIES, observed)
    return Parts(
        model,
        make_learner(config, model),
        make_test_loop(config, model),
        Sinusoids(config.num_shots, config.num_queries, observed).sample,
        {name: evaluated.sample for name in Splits._fields},
        resolve_device(config.device),
    )


def _network(config: RegressionConfig, inputs: int) -> Classifier:
    generator = torch_generator(config.seed, 0, "parameters")
    layers = mlp((inputs, *config.hidden), activation=config.activation, generator=generator)
    body = nn.Sequential(*layers, ACTIVATIONS[config.activation]())
    return Classifier(body, linear(config.hidden[-1], 1, generator=generator))


class SinusoidRegression(Supervised[RegressionConfig]):
    """Few-shot regression of sinusoids."""

    name = "regression"
    complete = staticmethod(complete)

    @cached_property
    def parts(self) -> Parts:
        """The model, its learner, and what draws its tasks."""
        return build(self.config)

    def describe(self) -> Subject:
        """Return the method and its paper."""
        return self.subject("sinusoids", "few-shot-regression")

    def examples(self, run: Run, *, tasks: int = 2, seed: int = 1) -> list[Fit]:
        """Adapt the last checkpoint of a run to test sinusoids, for a picture."""
        params = self.read(run, run.choose_checkpoint(None))
        self.require_fitting(params)
        sinusoids = Sinusoids(self.config.num_shots, QUERIES, self.config.method == "oracle")
        drawn = sinusoids.sample(tasks, torch_generator(seed, 0, "picture"))
        found = []
        for index in range(tasks):
            (inputs, targets), *_ = one = tree.map_leaves(lambda x, i=index: x[i], drawn.support)
            points, truth = tree.map_leaves(lambda x, i=index: x[i], drawn.query)
            order = points[:, 0].argsort()
            path = self.parts.test_loop.path(params, tuple(one))
            curves = {
                step: self.parts.model.apply(path[step], points[order])[:, 0].numpy()
                for step in sorted({0, 1, len(path) - 1} & set(range(len(path))))
            }
            x, y = points[order, 0].numpy(), truth[order, 0].numpy()
            support = (inputs[:, 0].numpy(), targets[:, 0].numpy())
            found.append(Fit(f"test sinusoid {index + 1}", x, y, support, curves))
        return found
