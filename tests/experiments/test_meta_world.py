"""Meta-World's evaluation protocol, compared with Meta-World's own code."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch

from metarl.core import MetaParams
from metarl.experiments import settings
from metarl.experiments.meta_rl import MetaRL, RLEvaluation
from tests.support.commands import metarl, refusal
from tests.support.pages import block, run_in_small, runs


POINT = torch.tensor([0.05, 0.85, 0.15])  # the hand moves to this point, near some of the goals
GOALS = 8


def only(run: Path) -> dict[str, Any]:
    """Return the contents of the run's single evaluation file."""
    (file,) = (run / "evaluations").glob("*.json")
    found: dict[str, Any] = json.loads(file.read_text())
    return found


class Agent:
    """The same policy for ``metaworld.evaluation``: it moves to a point, and does not adapt."""

    def init(self) -> None: ...
    def adapt(self) -> None: ...
    def step(self, timestep: Any) -> None: ...
    def reset(self, env_mask: Any) -> None: ...

    def adapt_action(self, observations: Any) -> Any:
        return self.eval_action(observations), {}

    def eval_action(self, observations: Any) -> Any:
        motion = 10 * (POINT.numpy() - observations[:, :3])
        return np.concatenate([motion, np.zeros((len(motion), 1))], 1)


def to_a_point(meta: MetaParams) -> MetaParams:
    """Return the parameters of a linear policy that moves the hand to `POINT`."""
    model = {name: torch.zeros_like(value) for name, value in meta.model.items()}
    weight, bias = (next(n for n in model if n.endswith(x)) for x in ("weight", "bias"))
    model[weight][:3, :3] = -10 * torch.eye(3)
    model[bias][:3] = 10 * POINT
    model["log_std"] = meta.model["log_std"]
    return meta._replace(model=model)


def test_success_rate_equals_that_of_metaworld() -> None:
    metaworld = pytest.importorskip("metaworld")
    from metaworld.evaluation import metalearning_evaluation

    env = "metarl/ML1-reach-v3"
    given: dict[str, Any] = {"hidden": (), "inner_lr": 0.0, "init_std": 1e-6, "device": "cpu"}
    options = RLEvaluation(Path("run"), protocol="metaworld", num_tasks=GOALS, episodes_per_task=3)
    experiment = MetaRL(settings("maml-trpo", env=env, **given)).with_options(options)
    meta = to_a_point(experiment.init().params)
    values = experiment.evaluate([meta], options).values
    # One environment: with more, Meta-World counts the first three episodes of all that end.
    sizes = {"meta_batch_size": 1, "total_tasks_per_cls": GOALS}
    theirs = metalearning_evaluation(
        Agent(),
        metaworld.make_ml_envs_test("reach-v3", seed=0, **sizes),
        num_evals=GOALS,
        adaptation_episodes=1,
    )
    assert values["success_by_class"] == theirs[2]
    assert 0 < theirs[0] < 1
    assert values["measures"]["success"]["mean"] == [theirs[0]] * 2
    assert values["physics"] == "mujoco 3.3.0"


def test_rl2_counts_the_last_three_episodes_of_a_trial(tmp_path: Path) -> None:
    pytest.importorskip("metaworld")
    words = ["--num-tasks", "1", "--episodes-per-task", "1", "--hidden", "4", "--memory", "4"]
    metarl("train", "rl2", "--env", "metarl/ML1-reach-v3", *words, "--inner-steps", "1",
           "--iterations", "1", "--out", tmp_path / "run")  # fmt: skip
    metarl("evaluate", tmp_path / "run", "--protocol", "metaworld", "--num-tasks", "1",
           "--inner-steps", "1")  # fmt: skip
    values = only(tmp_path / "run")
    assert values["adaptation_steps"] == [0, 500]
    assert np.shape(values["returns"]) == (1, 2)  # one adaptation episode, and three together


def test_other_environments_are_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["--num-tasks", "2", "--episodes-per-task", "2", "--iterations", "1"]
    metarl("train", "maml-trpo", *words, "--out", tmp_path / "run")
    error = refusal(capsys, "evaluate", tmp_path / "run", "--protocol", "metaworld")
    assert "requires an environment of Meta-World, such as metarl/ML1-reach-v3, got" in error


@runs("docs/meta-world.md", "commands")
def test_page(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    commands = block("docs/meta-world.md", "commands")
    pytest.importorskip("metaworld")
    monkeypatch.chdir(tmp_path)
    small = {"evaluate": "--num-tasks 1 --episodes-per-task 3"}
    run_in_small(commands, small)
    assert only(tmp_path / "runs/reach")["protocol"] == "metaworld"
