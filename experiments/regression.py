"""Few-shot sinusoid regression (Finn et al. 2017, section 5.1).

``metarl train regression --method maml --out runs/sine``
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Annotated, ClassVar, Literal

import tyro
from torch import nn

from metarl.core import MetaParams, Task, torch_generator, tree
from metarl.data import Splits
from metarl.drawing import Fit
from metarl.experiments.supervised import Supervised
from metarl.experiments.supervised_models import learner
from metarl.experiments.supervised_settings import SupervisedConfig
from metarl.experiments.supervised_setup import Parts, make_learner, make_model, make_test_loop
from metarl.models import AdaptedRegressor, MetaRegressor, Origin, Saved, restored
from metarl.nn import ACTIVATIONS, Classifier, linear, mlp
from metarl.runs import Run, read_chosen
from metarl.supervised import Model, Sinusoids, squared_error
from metarl.util import Conflicts, Ranged, at_least


QUERIES = 100  # query points per validation and test task


@dataclass(frozen=True)
class SinusoidSettings(Ranged):
    """Settings for the sinusoid tasks and the network."""

    group: ClassVar[str] = "data and network"
    num_shots: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--shots"])] = 10
    """Number of support points per task."""
    num_queries: Annotated[int, at_least(1), tyro.conf.arg(aliases=["--queries"])] = 10
    """Number of query points per task in training; validation and test tasks have 100."""
    hidden: Annotated[tuple[int, ...], at_least(1)] = (40, 40)
    """Numbers of units in the hidden layers, one number per layer."""
    activation: Literal["relu", "tanh"] = "relu"
    """Activation function after each hidden layer."""


@dataclass(frozen=True)
class RegressionConfig(SupervisedConfig, SinusoidSettings):
    """Learn to fit a sinusoid from a few points.

    --method pretrained trains one network on all sinusoids without
    adaptation. --method oracle also trains without adaptation, but the
    network observes the amplitude and the phase. --preset NAME selects
    published settings; run `metarl train` to list all presets.
    """

    iterations: int = 10_000
    checkpoint_every: int = 1000
    log_every: int = 100

    # Step sizes apply to the mean squared error. The numbers of steps are those of the paper.
    defaults = {  # noqa: RUF012
        "": {"mode": "traced", "num_tasks": 25, "inner_steps": 1, "test_steps": 10,
             "inner_lr": 0.01, "outer_lr": 1e-3},
        "reptile": {"num_tasks": 25, "inner_steps": 5, "inner": "sgd", "inner_lr": 0.02},
        "imaml": {"inner_steps": 16, "inner_lr": 0.05, "test_steps": 16},
        "maml++": {"inner_steps": 5, "per_step_norm": False},  # an MLP has no norms
    }  # fmt: skip

    def conflicts(self) -> Conflicts:
        """Return invalid combinations of settings as pairs of a condition and an error message."""
        fewshot = self.start not in (None, "learned") or self.inner_batch or self.per_step_norm
        classes = self.method in ("protomaml", "protonet", "zero-head")
        return [
            *super().conflicts(),
            (not self.hidden, "`hidden` must contain at least one width, such as 40 40, got none"),
            (
                fewshot,
                "regression does not support `start`, inner_batch or per_step_norm; remove these "
                "settings",
            ),
            (
                classes,
                f"method={self.method} requires classification tasks; use `metarl train fewshot`",
            ),
        ]


class SinusoidRegression(Supervised[RegressionConfig]):
    """The experiment ``metarl train regression``: few-shot sinusoid regression."""

    name = "regression"
    settings = RegressionConfig
    data = "sinusoids"
    family = "few-shot-regression"
    usage = "points"

    def sinusoids(self, queries: int) -> Sinusoids:
        """Return a sampler of sinusoid tasks with `queries` query points per task."""
        return Sinusoids(self.config.num_shots, queries, self.config.method == "oracle")

    @cached_property
    def parts(self) -> Parts:
        """The model, the meta-learner and the task samplers."""
        config, model = self.config, self._model()
        return Parts(
            model,
            make_learner(config, model),
            make_test_loop(config, model),
            self.sinusoids(config.num_queries).sample,
            dict.fromkeys(Splits._fields, self.sinusoids(QUERIES).sample),
            train_chunk=config.chunk_size,
        )

    def _model(self) -> Model:
        config, inputs = self.config, 3 if self.config.method == "oracle" else 1
        generator = torch_generator(config.seed, 0, "parameters")
        layers = mlp((inputs, *config.hidden), activation=config.activation, generator=generator)
        body = nn.Sequential(*layers, ACTIVATIONS[config.activation]())
        network = Classifier(body, linear(config.hidden[-1], 1, generator=generator))
        return make_model(config, network, squared_error)

    def model(self, params: MetaParams) -> MetaRegressor:  # type: ignore[override]
        """Return the meta-trained network with the parameters `params`, ready to adapt.

        Raises:
            ValueError: If the network observes the amplitude and the phase, or the parameters do
                not match the configuration.
        """
        if self.config.method == "oracle":
            raise ValueError(
                "method=oracle observes the amplitude and the phase and does not adapt. Use a run "
                "that was trained with a different method"
            )
        made = learner(self.name, self.config, self._model(), params, self.device, joint_start=None)
        return MetaRegressor(made)

    def adapted(self, saved: Saved) -> AdaptedRegressor:
        """Restore an adapted network from `saved`, the contents of a file."""
        network = restored(self._model().apply.module, saved)
        return AdaptedRegressor(network, Origin(self.name, self.config))

    def examples(self, run: Run, *, tasks: int = 2, seed: int = 1) -> list[Fit]:
        """Sample sinusoids, and fit each sinusoid with the network in the last checkpoint of a run.

        Args:
            run: The run.
            tasks: Number of sinusoids.
            seed: Random seed for sampling the sinusoids.

        Returns:
            One fit per sinusoid, with the predictions before adaptation, after the first inner step
            and after the last inner step, for plotting.
        """
        _, params = read_chosen(run, None, self.read)
        self.require_matching(params)
        drawn = self.sinusoids(QUERIES).sample(tasks, torch_generator(seed, 0, "picture"))
        return [
            self._fit(
                params,
                f"test sinusoid {index + 1}",
                tree.map_leaves(lambda x, i=index: x[i], drawn),
            )
            for index in range(tasks)
        ]

    def _fit(self, params: MetaParams, title: str, task: Task) -> Fit:
        (inputs, targets), *_ = task.support
        points, truth = task.query
        order = points[:, 0].argsort()
        path = self.parts.test_loop.path(params, task.support)
        curves = {
            step: self.parts.model.apply(path[step], points[order])[:, 0].numpy()
            for step in sorted({0, 1, len(path) - 1} & set(range(len(path))))
        }
        x, y = points[order, 0].numpy(), truth[order, 0].numpy()
        return Fit(title, x, y, (inputs[:, 0].numpy(), targets[:, 0].numpy()), curves)
