"""Every command supports a method that a user registers in a few lines."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any

import pytest
import torch

import metarl as package
from metarl.core import InnerLoop, MetaLearner, Metrics, Task
from metarl.experiments.meta_rl import config_class
from metarl.rl.methods import METHODS, Method
from metarl.rl.policies import Policy
from metarl.rl.policy_gradients import policy_gradient, surrogate_loss
from metarl.rl.sampler import Sampler
from metarl.util.ranges import greater_than
from tests.support.commands import FEW, TINY, history, metarl, refusal


def toy(
    policy: Policy, loop: InnerLoop, *, boldness: Annotated[float, greater_than(0)] = 0.1
) -> MetaLearner:
    """Build a learner that takes plain gradient steps.

    Args:
        policy: The policy.
        loop: The inner loop.
        boldness: Step size of the meta-update.
    """
    return policy_gradient(loop, surrogate_loss(policy), optimizer=torch.optim.SGD, lr=boldness)


@pytest.fixture(autouse=True)
def _registered() -> Iterator[None]:
    package.register_method("toy", Method("Nobody 2026", "a toy", toy, {"inner_lr": 0.3}))
    yield
    del METHODS["toy"]
    config_class.cache_clear()


def test_a_registered_method_trains_evaluates_resumes_and_is_shared(tmp_path: Path) -> None:
    run, pushed = tmp_path / "run", tmp_path / "pushed"
    metarl("train", "toy", *TINY, "--boldness", 0.2, "--iterations", 2, "--out", run)
    config = json.loads((run / "config.json").read_text())["config"]
    assert (config["boldness"], config["inner_lr"]) == (0.2, 0.3)
    metarl("evaluate", run, *FEW)
    metarl("resume", run, "--iterations", 3)
    assert len(history(run)) == 3
    (run / "media").mkdir()
    (run / "media/paths.png").write_bytes(b"a picture, so that none has to be drawn")
    metarl("push", run, pushed)
    assert "Nobody 2026" in (pushed / "README.md").read_text()


def test_a_registered_method_is_listed_and_compared(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("methods")
    assert "Nobody 2026" in capsys.readouterr().out
    flags = ("--seeds", 0, "--iterations", 1, f"--evaluate={' '.join(FEW)}")
    small = " ".join(["toy", *TINY])
    metarl("compare", small, "--out", tmp_path / "compared", *flags)
    assert "toy" in (tmp_path / "compared/table.md").read_text()


def test_a_method_can_replace_the_collection_of_episodes(tmp_path: Path) -> None:
    def collect(sampler: Sampler, *way: Any) -> tuple[dict[str, Task], Metrics]:
        task, metrics = sampler.collect(*way)
        return {"toy": task}, {"toy/return": metrics["return/step_0"]}

    def unpacking(policy: Policy, loop: InnerLoop) -> MetaLearner:
        learner = toy(policy, loop)
        return learner._replace(step=lambda state, tasks: learner.step(state, tasks["toy"]))

    METHODS["toy"] = Method("Nobody 2026", "a toy", unpacking, collect=collect)
    metarl("train", "toy", *TINY, "--iterations", 1, "--out", tmp_path / "run")
    (line,) = history(tmp_path / "run")
    assert "toy/return" in line
    assert "env/steps" not in line


def test_settings_of_a_registered_method_are_validated_and_documented(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    line = refusal(capsys, "train", "toy", "--boldness", 0, "--out", tmp_path / "run")
    assert "--boldness must be greater than 0, got 0" in line
    metarl("train", "toy", "--help")
    assert "Step size of the meta-update." in capsys.readouterr().out


def test_a_name_can_only_be_registered_once() -> None:
    with pytest.raises(ValueError, match="method 'toy' is already registered"):
        package.register_method("toy", METHODS["toy"])
