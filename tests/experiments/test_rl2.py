"""RL² and recurrent policies in all commands, and as trained models."""

import json
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch

import metarl
from tests.support.commands import history, refusal
from tests.support.commands import metarl as command


TRIALS = ("--env", "metarl/Bandit-v0", "--inner-steps", 2, "--num-tasks", 4)
SMALL = ("--episodes-per-task", 2, "--memory", 8, "--iterations", 2, "--checkpoint-every", 1)


@pytest.fixture(scope="module", params=["gru", "attention"])
def words(request: pytest.FixtureRequest) -> tuple[Any, ...]:
    return ("train", "rl2", *TRIALS, *SMALL, "--baseline", "value", "--network", request.param)


@pytest.fixture(scope="module")
def run(words: tuple[Any, ...], tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("rl2") / "run"
    command(*words, "--out", folder)
    return folder


def test_training_reports_the_return_of_every_episode(run: Path) -> None:
    for line in history(run):
        assert {f"return/step_{k}" for k in range(3)} <= set(line)
        assert line["env/steps"] == 4 * 2 * 3 * 10


def test_a_resumed_run_equals_an_uninterrupted_one(
    run: Path, words: tuple[Any, ...], tmp_path: Path
) -> None:
    first = tmp_path / "first"
    short = [1 if words[i - 1] == "--iterations" else word for i, word in enumerate(words)]
    command(*short, "--out", first)
    command("resume", first, "--iterations", 2)
    timed = lambda line: {k: x for k, x in line.items() if not k.startswith("time/")}  # noqa: E731
    assert [*map(timed, history(first))] == [*map(timed, history(run))]


def test_evaluate_counts_the_episodes_of_a_trial(
    run: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    command("evaluate", run, "--num-tasks", 3, "--inner-steps", 4)
    assert "episode" in capsys.readouterr().out
    (file,) = (run / "evaluations").glob("*.json")
    found = json.loads(file.read_text())
    assert len(found["mean"]) == 5
    assert found["adaptation_steps"] == [0, 10, 20, 30, 40]


def test_a_trained_policy_continues_its_trial(run: Path) -> None:
    policy = metarl.load(run)
    env = gymnasium.make("metarl/Bandit-v0")
    adapted = policy.adapt(env, steps=2)
    assert adapted.steps == 2
    assert len(adapted.returns) == 3
    assert len(adapted.adaptation.history) == 2
    assert policy.adapt({"means": [0.1, 0.2, 0.3, 0.4, 0.5]}, steps=1).steps == 1
    with pytest.raises(ValueError, match="`episodes_per_step` must be 1"):
        policy.adapt(env, steps=1, episodes_per_step=3)
    with pytest.raises(ValueError, match="Use the recorder"):
        adapted.act(np.ones(1, np.float32))


def test_recorded_episodes_give_the_memory_of_the_recorder(run: Path) -> None:
    policy, seen = metarl.load(run), np.ones(1, np.float32)
    recorder = policy.record(seed=1)
    for step in range(20):
        recorder.act(seen)
        assert recorder.step(float(step % 2), False) == (step in (9, 19))
    adapted = policy.adapt(episodes=recorder.episodes)
    actor = adapted.adaptation.actor()
    recorder.act(seen)  # starts the third episode
    expected = recorder._actor._next
    actor.begin()
    actor.act(actor.inputs(torch.ones(1, 1, 1)))
    torch.testing.assert_close(actor._next, expected)


def test_a_part_of_an_episode_cannot_be_discarded(run: Path) -> None:
    recorder = metarl.load(run).record()
    recorder.act(np.ones(1, np.float32))
    recorder.step(1.0, False)
    with pytest.raises(RuntimeError, match="create a new recorder"):
        recorder.reset()


def test_render_shows_the_first_and_the_last_episode(tmp_path: Path) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    words = ("--env", "metarl/SparsePoint-v0", "--inner-steps", 2, "--num-tasks", 2)
    command("train", "rl2", *words, *SMALL, "--out", tmp_path / "run")
    command("render", tmp_path / "run", "--episodes-per-task", 1, "--out", tmp_path / "a.png")
    assert (tmp_path / "a.png").stat().st_size > 0


def test_comparisons_use_environment_steps_if_methods_adapt_differently(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    pyplot: Any = pytest.importorskip("matplotlib.pyplot", reason="pip install matplotlib")
    labels: list[str] = []
    close = pyplot.close
    monkeypatch.setattr(
        pyplot, "close", lambda f: labels.extend(a.get_xlabel() for a in f.axes) or close(f)
    )
    methods = ("maml-trpo --hidden 4 --inner-steps 1 --num-tasks 2 --episodes-per-task 2",
               "rl2 --memory 4 --num-tasks 2 --episodes-per-task 2")  # fmt: skip
    flags = ("--env", "metarl/Bandit-v0", "--iterations", 1, "--seeds", 0)
    command("compare", *methods, *flags, "--evaluate=--num-tasks 2", "--out", tmp_path / "out")
    assert "environment steps used for adaptation" in labels


def test_a_policy_without_memory_is_rejected(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    error = refusal(
        capsys, "train", "rl2", "--network", "mlp", "--iterations", 1, "--out", tmp_path / "run"
    )
    assert "rl2 requires --network gru or lstm or attention, got --network mlp" in error
