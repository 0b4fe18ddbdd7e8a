"""Policies with mistakes of users: failed tasks, huge numbers, and invalid arguments."""

import shutil
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium.wrappers import ClipAction

import metarl
from metarl.core import tree
from metarl.models import AdaptedPolicy, MetaPolicy
from metarl.models.episodes import Episode
from metarl.runs import Run
from metarl.util import integer_at_least
from tests.models.test_policy import trained, untrained
from tests.support.commands import metarl as command
from tests.support.own_environment import playground, register


TASK = {"angle": 0.8, "length": 1.2}


@pytest.fixture(scope="module")
def run(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    with playground(tmp_path_factory.mktemp("playground")) as folder:
        yield trained(folder / "run", env="playground:playground/Pendulum-v0")


@pytest.fixture
def policy(run: Path) -> MetaPolicy:
    loaded = metarl.load(run, episodes=2, device="cpu")
    assert isinstance(loaded, MetaPolicy)
    return loaded


def one_line(error: pytest.ExceptionInfo[Exception]) -> bool:
    return "\n" not in str(error.value)


def test_a_failed_task_does_not_affect_later_tasks(policy: MetaPolicy) -> None:
    expected = policy.adapt(TASK).returns
    before = policy.sampler
    with pytest.raises(RuntimeError, match="failed in reset: KeyError: 'length'"):
        policy.adapt({"angle": 1.0})
    assert policy.adapt(TASK).returns == expected
    assert policy.sampler is not before
    assert policy.sampler is policy.sampler


def huge(**changed: Any) -> dict[str, Any]:
    rng = np.random.default_rng(0)
    good = {"observations": rng.normal(size=(5, 3)), "actions": rng.normal(size=(5, 1))}
    return good | {"rewards": np.arange(5.0)} | changed


@pytest.mark.parametrize(
    "episode",
    [
        huge(rewards=np.full(5, 1e200)),
        huge(rewards=np.full(5, 1e38)),
        huge(actions=np.full((5, 1), 1e30)),
        huge(observations=np.arange(15.0).reshape(5, 3) * 1e30),
    ],
)
def test_huge_numbers_never_give_a_policy_with_nan(
    episode: dict[str, Any], policy: MetaPolicy
) -> None:
    with pytest.raises((FloatingPointError, ValueError), match=r"finite.*Scale") as caught:
        policy.adapt(episodes=[episode, episode])
    assert one_line(caught)


def test_actions_and_saved_parameters_are_finite(policy: MetaPolicy, tmp_path: Path) -> None:
    adapted = policy.unadapted
    for act in (adapted.act, policy.record().act):
        with pytest.raises(ValueError, match="finite"):
            act(np.full(3, 1e200))
    spoiled = tree.map_leaves(lambda x: x * torch.nan, adapted.params)
    broken = AdaptedPolicy(adapted.policy, spoiled, adapted.spaces, "x", adapted.config)
    with pytest.raises(ValueError, match="outputs of the policy must be finite"):
        broken.act(np.zeros(3))
    with pytest.raises(ValueError, match="save requires finite parameters"):
        broken.save(tmp_path / "x.safetensors")
    assert not (tmp_path / "x.safetensors").exists()


@pytest.mark.parametrize("vectorization", ["sync", "async"])
def test_the_stored_bounds_of_actions_are_those_below_clip_action(vectorization: str) -> None:
    name = register("Mark", additional_wrappers=(ClipAction.wrapper_spec(),))
    policy = untrained(env=name, vectorization=vectorization)
    wrapped = gymnasium.make(name)
    bounds = wrapped.unwrapped.action_space
    assert wrapped.action_space != bounds == policy.spaces.action
    for env in (wrapped, wrapped.unwrapped):
        assert len(policy.adapt(env, steps=1, episodes_per_step=2).returns) == 2
    actions = policy.unadapted.act(np.zeros((500, 2), np.float32), deterministic=False)
    assert np.abs(actions).max() == 1.0
    unclipped = untrained(env=register("Mark"))
    assert len(unclipped.adapt(wrapped, steps=0, episodes_per_step=2).returns) == 1


def test_a_recorder_ends_episodes_at_the_horizon_and_discards_them(policy: MetaPolicy) -> None:
    recorder = policy.record()
    ended = []
    for _ in range(50):
        recorder.act(np.zeros(3))
        ended.append(recorder.step(0.0, False))
    assert ended == [False] * 49 + [True]
    assert recorder.episodes[0].truncated
    assert not recorder.episodes[0].terminated
    recorder.act(np.zeros(3))
    recorder.reset()
    recorder.act(np.zeros(3))
    assert (recorder.length, len(recorder.episodes)) == (0, 1)
    for arguments in [
        ([1.0, 2.0], False), ("x", False), (None, False), (1e999, False),
        (0.0, [True, False]), (0.0, "yes"), (0.0, False, None),
    ]:  # fmt: skip
        with pytest.raises(ValueError, match=r"must be one (finite number|boolean)") as caught:
            recorder.step(*arguments)  # type: ignore[arg-type]
        assert one_line(caught)
    assert recorder.length == 0
    assert recorder.step(np.float32(1), np.bool_(True))
    assert len(policy.adapt(episodes=recorder).returns) == 1


def test_policies_are_printed_as_one_line_and_compared_by_identity(policy: MetaPolicy) -> None:
    adapted = policy.adapt(TASK, steps=1)
    assert repr(policy) == "<MetaPolicy maml-trpo, horizon 50>"
    assert repr(adapted).startswith("<AdaptedPolicy maml-trpo, 1 step, returns [")
    assert "\n" not in repr(adapted)
    assert adapted == adapted
    assert adapted != policy.adapt(TASK, steps=1)
    assert hash(adapted) != hash(policy)


def test_models_are_loaded_with_any_default_data_type(
    run: Path, policy: MetaPolicy, tmp_path: Path
) -> None:
    expected = policy.adapt(TASK, steps=1)
    expected.save(tmp_path / "x.safetensors")
    torch.set_default_dtype(torch.float64)
    try:
        found = metarl.load(run, episodes=2, device="cpu").adapt(TASK, steps=1)
        again = metarl.load_adapted(tmp_path / "x.safetensors", device="cpu")
        assert torch.get_default_dtype() == torch.float64
    finally:
        torch.set_default_dtype(torch.float32)
    for name, value in expected.params.items():
        assert found.params[name].equal(value)
        assert again.params[name].equal(value)


def test_arguments_of_wrong_types_are_rejected_in_one_line(run: Path, policy: MetaPolicy) -> None:
    episode = Episode(**huge())
    for arguments, message in [
        ({"task": TASK, "steps": True}, "steps must be an integer of at least 0, got True"),
        ({"task": TASK, "seed": -1}, "seed must be an integer of at least 0, got -1"),
        ({"episodes": episode}, r"must be a list, got a single episode. Pass `\[episode\]`"),
    ]:
        with pytest.raises(ValueError, match=message):
            policy.adapt(**arguments)  # type: ignore[arg-type]
    for value in (1.5, "3", np.float64(2), True, -1):
        with pytest.raises(ValueError, match=f"x must be an integer of at least 0, got {value}"):
            integer_at_least(0).check("x", value)
    for options in ({"episodes": 0}, {"num_tasks": 0}):
        with pytest.raises(ValueError, match="must be an integer of at least 1"):
            metarl.load(run, **options)
    with pytest.raises(TypeError, match=r"not supported .*: expected num_tasks or episodes"):
        metarl.load(run, encoder="x")
    with pytest.raises(ValueError, match="seed must be an integer"):
        policy.sample_task(-1)


def test_runs_without_spaces_say_so_and_resume_and_push_add_them(
    run: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    absent = Run(Path(shutil.copytree(run, tmp_path / "absent")))
    absent.write_config({n: x for n, x in absent.read_config().items() if n != "spaces"})
    with monkeypatch.context() as patched:
        patched.setitem(sys.modules, "playground", None)
        with pytest.raises(ModuleNotFoundError, match=r"no `spaces`.*run `metarl resume RUN`"):
            metarl.load(absent.folder)
    old = trained(tmp_path / "old")
    entries = Run.open(old).read_config()
    spaces = entries.pop("spaces")
    Run.open(old).write_config(entries)
    command("push", old, tmp_path / "shared")
    assert Run.open(tmp_path / "shared").read_config()["spaces"] == spaces
    command("resume", old)
    assert Run.open(old).read_config()["spaces"] == spaces
    with pytest.raises(ValueError, match="horizon must be an integer of at least 1, got 0"):
        type(untrained().spaces).read(spaces | {"horizon": 0}, "config.json")


def test_the_model_card_of_a_custom_environment_has_working_commands(
    run: Path, tmp_path: Path
) -> None:
    command("push", run, tmp_path / "shared", "--no-picture")
    text = (tmp_path / "shared/README.md").read_text()
    place = tmp_path / "shared"
    for line in (
        f"python -m metarl pull {place} --out runs/pulled",
        "python -m metarl evaluate runs/pulled --trust-env",
        "python -m metarl render runs/pulled --out runs/pulled/media/picture.png --trust-env",
        f'policy = metarl.load("{place}", trust_env=True)',
    ):
        assert f"{line}\n" in text
    assert "requires the Python module `playground`" in text
