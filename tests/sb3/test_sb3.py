"""Stable-Baselines3: conversion of policies, environments and `metarl train sb3`."""

import contextlib
import io
import tracemalloc
import types
import zipfile
from collections.abc import Callable
from pathlib import Path
from typing import Any
from unittest.mock import Mock

import gymnasium
import numpy as np
import pytest
import torch
from gymnasium import spaces

from metarl.commands import cli
from metarl.core import InnerLoop, Params, sgd, tree
from metarl.core.speed import processes
from metarl.rl.baseline import advantages
from metarl.rl.distributions import MIN_LOG_STD
from metarl.rl.episodes import mean_return
from metarl.rl.evaluate import paper_tasks
from metarl.rl.losses import reinforce
from metarl.rl.networks import mlp_policy
from metarl.rl.policies import Policy
from metarl.rl.sampler import make_sampler
from metarl.runs.folder import Run
from metarl.sb3 import checkpoint as sb3_checkpoint
from metarl.sb3.environments import sb3_env
from metarl.sb3.models import make_model, require_spaces
from metarl.sb3.policies import NO_PARAMS, policy_of, ppo_from, sb3_policy
from tests.support.commands import history, metarl, refusal
from tests.support.pages import block, commands_of, run_in_small, runs
from tests.support.problems import seeded


SEEN = spaces.Box(-np.inf, np.inf, (3,), np.float32)
BOX, DISCRETE = spaces.Box(-1.0, 1.0, (2,), np.float32), spaces.Discrete(4)
NAVIGATION = "metarl/Navigation2D-v0"
GOAL = {"goal": [0.3, -0.4]}
PAGE = "docs/stable-baselines3.md"
TINY = ["--eval-every", "1000", "--num-envs", "2", "--episodes", "3", "--hidden", "8"]
TRAIN = ["train", "sb3", *TINY]


def policy_for(acted: Any, seed: int = 0, **options: Any) -> tuple[Policy, Params]:
    """Sample a policy with nonzero parameters."""
    policy, params = mlp_policy(SEEN, acted, generator=seeded(seed), **options)
    noise = {n: torch.randn(p.shape, generator=seeded(seed + 1)) for n, p in params.items()}
    return policy, tree.add(params, noise, scale=0.3)


@pytest.mark.parametrize(
    ("acted", "options"),
    [
        (BOX, {}),
        (BOX, {"activation": "tanh", "hidden": (8,), "scale": 0.1}),
        (BOX, {"hidden": (8, 8), "context": 3}),
        (BOX, {"hidden": ()}),
        (BOX, {"hidden": (8,), "context": 2, "normalize": True}),
        (DISCRETE, {"hidden": (8,)}),
    ],
    ids=["relu", "tanh in units of 0.1", "context", "linear", "normalized", "categorical"],
)
def test_sb3_policy_acts_like_the_original(acted: Any, options: dict[str, Any]) -> None:
    policy, params = policy_for(acted, **options)
    before = torch.get_rng_state()
    wrapped = sb3_policy(policy, params, SEEN, acted)
    assert torch.get_rng_state().equal(before)
    seen = torch.randn(50, 3, generator=seeded(2))
    mode = policy(params, seen).mode()
    expected = mode.clamp(-1, 1) if acted is BOX else mode
    actions, state = wrapped.predict(seen.numpy(), deterministic=True)
    np.testing.assert_allclose(actions, expected, rtol=1e-5, atol=1e-6)
    one, _ = wrapped.predict(seen[0].numpy(), state, np.array([True]), deterministic=True)
    np.testing.assert_allclose(one, actions[0], rtol=1e-5, atol=1e-6)
    chosen = mode if acted is BOX else torch.arange(50) % 4
    log_prob = wrapped.get_distribution(seen).log_prob(chosen)
    torch.testing.assert_close(log_prob, policy(params, seen).log_prob(chosen))


def test_sampled_actions_have_the_distribution_of_the_policy() -> None:
    wide = spaces.Box(-100.0, 100.0, (2,), np.float32)
    policy, params = policy_for(wide, init_std=0.5)
    wrapped = sb3_policy(policy, params, SEEN, wide)
    seen = torch.ones(3)
    torch.manual_seed(0)
    actions, _ = wrapped.predict(seen.expand(4000, 3).numpy())
    expected = policy(params, seen)
    std = expected.log_std.exp()
    assert (np.abs(actions.mean(0) - expected.mean.numpy()) < 4 * std.numpy() / 4000**0.5).all()
    np.testing.assert_allclose(actions.std(0), std, rtol=0.05)


def test_sb3_policy_is_saved_and_loaded_by_sb3(tmp_path: Path) -> None:
    from stable_baselines3.common.policies import ActorCriticPolicy

    wrapped = sb3_policy(*policy_for(BOX), SEEN, BOX)
    wrapped.save(str(tmp_path / "policy.zip"))
    again = ActorCriticPolicy.load(str(tmp_path / "policy.zip"), device="cpu")
    seen = torch.randn(5, 3, generator=seeded(2)).numpy()
    for deterministic in (True, False):
        torch.manual_seed(0)
        expected, _ = wrapped.predict(seen, deterministic=deterministic)
        torch.manual_seed(0)
        np.testing.assert_array_equal(again.predict(seen, deterministic=deterministic)[0], expected)


def test_policies_that_are_not_actors_of_one_task_are_rejected() -> None:
    policy, params = policy_for(BOX)
    with pytest.raises(ValueError, match="no task axis: expected weights with 2 axes, got 3"):
        sb3_policy(policy, tree.expand(params, 2), SEEN, BOX)
    with pytest.raises(ValueError, match=r"does not match the observations .* actions Discrete"):
        sb3_policy(policy, params, SEEN, DISCRETE)
    with pytest.raises(ValueError, match=r"does not match the observations Box\(-1.0, 1.0, \(2,\)"):
        sb3_policy(policy, params, BOX, BOX)
    with pytest.raises(TypeError, match=r"policies from mlp_policy .* got Linear"):
        sb3_policy(*Policy.of(torch.nn.Linear(3, 2)), SEEN, BOX)


def adapted() -> tuple[Policy, Params, Any]:
    """Adapt a random policy to a goal, and reduce its noise to the minimum."""
    sampler = make_sampler(NAVIGATION, num_tasks=1, episodes_per_task=10)
    env: Any = sampler.env
    shapes = env.single_observation_space, env.single_action_space
    policy, params = mlp_policy(*shapes, hidden=(16,), output_gain=0.1, generator=seeded(0))
    loop = InnerLoop(reinforce(policy), sgd(0.3), num_steps=1)
    meta = loop.init(params)
    batch, _ = sampler.collect(policy, loop, meta, [GOAL], seeded(1), advantages())
    after = loop.adapt(meta, tree.map_leaves(lambda x: x[0], batch.support))
    return policy, after | {"log_std": torch.full((2,), MIN_LOG_STD)}, sampler


def test_evaluate_policy_matches_the_sampler() -> None:
    from stable_baselines3.common.evaluation import evaluate_policy
    from stable_baselines3.common.monitor import Monitor

    policy, params, sampler = adapted()
    expected = mean_return(sampler.rollout(policy, tree.expand(params, 1), [GOAL], seeded(2)))
    scalar: Any = gymnasium.make(NAVIGATION)
    scalar.unwrapped.task = GOAL
    wrapped = sb3_policy(policy, params, scalar.observation_space, scalar.action_space)
    for env, episodes in ((Monitor(scalar), 1), (sb3_env(NAVIGATION, num_envs=3, task=GOAL), 6)):
        mean, std = evaluate_policy(wrapped, env, episodes, warn=False)
        assert mean == pytest.approx(expected.item(), abs=1e-2)
        assert std == pytest.approx(0, abs=1e-6)


def test_ppo_fine_tunes_the_policy() -> None:
    policy, params, _ = adapted()
    env = sb3_env(NAVIGATION, num_envs=2, task=GOAL)
    kwargs = {"optimizer_kwargs": {"eps": 1e-7}}
    model = ppo_from(
        policy, params, env, n_steps=20, batch_size=20, seed=0, device="cpu", policy_kwargs=kwargs
    )
    assert model.policy.optimizer.defaults["eps"] == 1e-7
    seen = torch.randn(20, 2, generator=seeded(2))
    expected = policy(params, seen)
    found: Any = model.policy.get_distribution(seen).distribution
    torch.testing.assert_close(found.mean, expected.mean)
    torch.testing.assert_close(found.stddev, expected.log_std.exp())
    model.learn(40)
    found = model.policy.get_distribution(seen).distribution
    assert (found.mean - expected.mean).abs().max() > 1e-4


def test_sampler_supports_sb3_models() -> None:
    policy, params, sampler = adapted()
    env = sb3_env(NAVIGATION, num_envs=2, task=GOAL)
    model = ppo_from(policy, params, env, n_steps=20, batch_size=20, device="cpu")
    theirs = sampler.rollout(policy_of(model), tree.expand(NO_PARAMS, 1), [GOAL], seeded(2))
    mine = sampler.rollout(policy, tree.expand(params, 1), [GOAL], seeded(2))
    torch.testing.assert_close(theirs.rewards, mine.rewards, rtol=0, atol=1e-3)
    loud = policy_of(model, deterministic=False)
    assert loud(NO_PARAMS, torch.zeros(2, 5, 2)).sample().shape == (2, 5, 2)


def test_vectorized_rows_end_together_and_restart_with_new_tasks() -> None:
    env: Any = sb3_env("metarl/HalfCheetahDir-v1", num_envs=6, observe_task=True)
    assert type(env).__name__ == "BatchedVecEnv"
    env.seed(1)
    first = env.reset()
    still = np.zeros((6, 6), np.float32)
    directions = [first[:, -1]]
    for step in range(1, 301):
        seen, rewards, dones, infos = env.step(still)
        assert rewards.dtype == np.float32
        assert dones.tolist() == [step % 100 == 0] * 6
        if step % 100 == 0:
            directions.append(seen[:, -1])
            assert all(info["TimeLimit.truncated"] for info in infos)
            last = np.stack([info["terminal_observation"] for info in infos])
            np.testing.assert_array_equal(last[:, -1], directions[-2])
            assert not np.isclose(last[:, :-1], seen[:, :-1]).all(1).any()
    assert len({tuple(d) for d in directions}) > 1
    assert env.get_attr("task", [0, 2]) == [{"direction": int(d)} for d in directions[-1][[0, 2]]]
    drawn = env.env_method("sample_tasks", 1, np.random.default_rng(0), indices=[0, 2])
    assert len(drawn) == 2
    assert env.env_is_wrapped(object) == [False] * 6
    with pytest.raises(AttributeError, match="'task' cannot be changed; create a new environment"):
        env.set_attr("task", {"direction": 1})
    env.seed(1)
    np.testing.assert_array_equal(env.reset(), first)


def test_a_diverged_row_truncates_the_other_rows() -> None:
    env: Any = sb3_env("metarl/HalfCheetahDir-v1", num_envs=3, task={"direction": 1})
    env.reset()
    env.env._full[1, 1:] = np.nan  # MuJoCo resets the diverged row
    _, _, dones, infos = env.step(np.zeros((3, 6), np.float32))
    assert dones.all()
    assert [info["TimeLimit.truncated"] for info in infos] == [True, False, True]


def test_rows_that_end_separately_use_dummy_vec_env_and_sample_tasks() -> None:
    from stable_baselines3.common.vec_env import DummyVecEnv

    env = sb3_env(NAVIGATION, num_envs=2, observe_task=True)
    assert isinstance(env, DummyVecEnv)
    goals = []
    for _ in range(2):
        env.seed(0)
        goals.append(np.asarray(env.reset())[:, 2:])
        for _ in range(100):
            seen, _, dones, _ = env.step(np.zeros((2, 2)))
        assert dones.all()
        goals.append(np.asarray(seen)[:, 2:])
    np.testing.assert_array_equal(goals[:2], goals[2:])
    assert len(np.unique(np.concatenate(goals[:2]), axis=0)) == 4


@pytest.mark.parametrize("algo", ["ppo", "a2c", "sac", "td3"])
def test_every_algorithm_acts(algo: str) -> None:
    env = sb3_env(NAVIGATION, num_envs=2, task=GOAL)
    model = make_model(algo, env, horizon=100, seed=0, hidden=(8,), learning_rate=1e-3)
    actions, _ = model.predict(np.zeros((2, 2), np.float32))
    assert actions.shape == (2, 2)
    assert model.learning_rate == 1e-3


def test_unsupported_spaces_are_rejected() -> None:
    with pytest.raises(ValueError, match=r"sac requires continuous actions, got Discrete\(4\)"):
        require_spaces("sac", SEEN, DISCRETE)
    with pytest.raises(ValueError, match="ppo requires a bounded Box or a Discrete action space"):
        require_spaces("ppo", SEEN, SEEN)
    with pytest.raises(ValueError, match="ppo requires flat Box observations"):
        require_spaces("ppo", DISCRETE, BOX)
    require_spaces("a2c", SEEN, DISCRETE)


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An uninterrupted run of three iterations."""
    folder = tmp_path_factory.mktemp("sb3") / "whole"
    metarl(*TRAIN, "--total-steps", 3000, "--task", '{"goal": [0.3, -0.4]}', "--out", folder)
    return folder


def test_sb3_runs_have_the_usual_run_folder(whole: Path) -> None:
    from stable_baselines3 import PPO

    assert {path.name for path in whole.iterdir()} == {
        "config.json", "metrics.jsonl", "checkpoints", "lock",
    }  # fmt: skip
    zips = sorted(path.name for path in (whole / "checkpoints").iterdir())
    assert zips == [f"{iteration:08d}.zip" for iteration in range(4)]
    lines = history(whole)
    assert [line["iteration"] for line in lines] == [0, 1, 2, 3]
    assert [line["env/steps"] for line in lines] == [0, 1000, 1000, 1000]
    assert len({line["return/step_0"] for line in lines}) == 4
    model = PPO.load(whole / "checkpoints/00000003.zip", device="cpu")
    assert model.num_timesteps == 3000


@pytest.mark.parametrize("last", [None, 0, 2])
def test_a_resumed_run_equals_an_uninterrupted_one(
    whole: Path, copied: Path, last: int | None
) -> None:
    """Recreate the files of a process killed before or during a checkpoint."""
    for path in (copied / "checkpoints").iterdir():
        if last is None or int(path.stem) > last:
            path.unlink()
    kept = (whole / "metrics.jsonl").read_text().splitlines(keepends=True)
    count = 1 if last is None else last + 2
    (copied / "metrics.jsonl").write_text("".join(kept[:count]) + '{"iterat')
    metarl("resume", copied)
    assert history(copied) == history(whole)


def test_a_complete_run_is_not_changed(whole: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = history(whole)
    metarl("resume", whole)
    assert "is complete: 3 iterations" in capsys.readouterr().out
    assert history(whole) == before


def test_a_run_without_valid_checkpoints_gives_a_one_line_error(
    whole: Path, copied: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    for path in (copied / "checkpoints").iterdir():
        path.write_bytes(b"")
    with pytest.raises(SystemExit) as stopped:
        cli.main(["resume", str(copied)])
    assert stopped.value.code == 1
    assert "the run was not changed" in capsys.readouterr().err.splitlines()[-1]
    assert history(copied) == history(whole)


@pytest.mark.parametrize(
    ("damage", "expected"),
    [
        (lambda whole: whole[:1000], "File is not a zip file"),
        (lambda whole: b"", "File is not a zip file"),
        (
            lambda whole: b"version https://git-lfs.github.com/spec/v1\noid sha256:0\nsize 4\n",
            "00000003.zip is a Git LFS pointer; run `git lfs pull`",
        ),
    ],
    ids=["truncated", "empty", "pointer"],
)
def test_a_damaged_checkpoint_is_named_and_skipped(
    damage: Callable[[bytes], bytes], expected: str, whole: Path, copied: Path, capsys: Any
) -> None:
    path = copied / "checkpoints/00000003.zip"
    path.write_bytes(damage(path.read_bytes()))
    expected = f"00000003.zip is not a valid checkpoint of this run ({expected}"
    assert expected in refusal(capsys, "evaluate", copied)
    assert expected in refusal(capsys, "pull", copied, "--out", copied.with_name("out"))
    metarl("resume", copied)
    (warning,) = capsys.readouterr().err.splitlines()
    assert expected in warning
    assert "trying an earlier checkpoint" in warning
    assert history(copied) == history(whole)


def test_commands_only_read_tensors_from_a_checkpoint(whole: Path, copied: Path) -> None:
    """The entry "data" of SB3's zip contains pickles."""
    path = copied / "checkpoints/00000003.zip"
    with (
        zipfile.ZipFile(whole / "checkpoints/00000003.zip") as old,
        zipfile.ZipFile(path, "w") as new,
    ):
        for name in old.namelist():
            new.writestr(name, b"no pickle" if name == "data" else old.read(name))
    metarl("evaluate", copied, "--episodes-per-task", 1)
    metarl("resume", copied, "--iterations", 4)
    assert history(copied)[:4] == history(whole)


@pytest.mark.parametrize("algo", ["sac", "td3"])
def test_the_replay_buffer_is_resumed(algo: str, tmp_path: Path) -> None:
    words = ["train", "sb3", "--algo", algo, "--hidden", 8, "--num-envs", 4, "--eval-every", 600]
    for name, iterations in (("whole", 3), ("half", 2)):
        metarl(*words, "--iterations", iterations, "--out", tmp_path / name)
    assert len(list((tmp_path / "half/checkpoints").glob("*.npz"))) == 2
    metarl("resume", tmp_path / "half", "--total-steps", 3 * 600)
    assert history(tmp_path / "half") == history(tmp_path / "whole")


def test_the_previous_replay_buffer_survives_a_damaged_checkpoint(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = ["train", "sb3", "--algo", "td3", "--hidden", 8, "--num-envs", 4, "--eval-every", 600]
    metarl(*words, "--iterations", 3, "--out", tmp_path / "run")
    before = history(tmp_path / "run")
    newest = tmp_path / "run/checkpoints/00000003"
    newest.with_suffix(".replay.npz").write_bytes(b"damaged")
    metarl("resume", tmp_path / "run", "--iterations", 3)
    assert "complete" not in capsys.readouterr().out
    assert history(tmp_path / "run") == before


Change = Callable[[bytes], bytes]


def rezipped(data: bytes, changes: dict[str, Change], **options: Any) -> bytes:
    """Return a zip with some entries changed."""
    with (
        zipfile.ZipFile(io.BytesIO(data)) as old,
        zipfile.ZipFile(packed := io.BytesIO(), "w", **options) as new,
    ):
        for name in old.namelist():
            entry = old.read(name)
            new.writestr(name, changes[name](entry) if name in changes else entry)
    return packed.getvalue()


def deflated(data: bytes) -> bytes:
    return rezipped(data, {}, compression=zipfile.ZIP_DEFLATED)


def saved(values: Any) -> bytes:
    torch.save(values, packed := io.BytesIO())
    return packed.getvalue()


def with_nan(data: bytes) -> bytes:
    values = torch.load(io.BytesIO(data), weights_only=True)
    return saved({name: torch.full_like(x, torch.nan) for name, x in values.items()})


def with_small_moments(data: bytes) -> bytes:
    values = torch.load(io.BytesIO(data), weights_only=True)
    for moments in values["state"].values():
        moments["exp_avg"] = torch.zeros(1)
    return saved(values)


def with_expanded_tensor(data: bytes) -> bytes:
    """Add a tensor with 10¹² elements that share the memory of one."""
    values = torch.load(io.BytesIO(data), weights_only=True)
    return saved(values | {"bomb": torch.zeros(1).expand(10**6, 10**6)})


def with_8_bit_floats(data: bytes) -> bytes:
    values = torch.load(io.BytesIO(data), weights_only=True)
    return saved({name: x.to(torch.float8_e4m3fn) for name, x in values.items()})


def with_objects(data: bytes) -> bytes:
    del data
    return saved(types.SimpleNamespace())


@pytest.mark.parametrize(
    ("verb", "entry", "change", "expected"),
    [
        ("pull", "policy", with_nan, "policy.pth contains values that are not finite"),
        ("pull", "policy", with_8_bit_floats, "policy.pth contains values of type torch.float8"),
        ("evaluate", "policy", with_8_bit_floats, "contains values of type torch.float8_e4m3fn"),
        ("pull", "policy", deflated, "is compressed; expected uncompressed entries"),
        ("pull", "policy", with_expanded_tensor, "with more elements than the file stores"),
        ("pull", "policy", with_objects, "an entry contains objects other than tensors"),
        ("evaluate", "policy", with_objects, "an entry contains objects other than tensors"),
        ("evaluate", "policy.optimizer", with_small_moments, "optimizer state exp_avg must have"),
    ],
)
def test_invalid_tensors_in_a_zip_are_rejected(
    verb: str,
    entry: str,
    change: Change,
    expected: str,
    copied: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    path = copied / "checkpoints/00000003.zip"
    path.write_bytes(rezipped(path.read_bytes(), {f"{entry}.pth": change}))
    out = ("--out", tmp_path / "out") if verb == "pull" else ()
    error = refusal(capsys, verb, copied, *out)
    assert expected in error
    assert "trust" not in error  # torch suggests to load trusted files unsafely
    assert "weights_only" not in error


def test_compressed_entries_are_rejected_before_they_are_read(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path, huge = copied / "checkpoints/00000003.zip", {"policy.pth": lambda data: bytes(10**8)}
    path.write_bytes(rezipped(path.read_bytes(), huge, compression=zipfile.ZIP_DEFLATED))
    tracemalloc.start()
    error = refusal(capsys, "pull", copied, "--out", tmp_path / "out")
    _, peak = tracemalloc.get_traced_memory()
    tracemalloc.stop()
    assert peak < 10**7
    assert "is compressed; expected uncompressed entries" in error


def stored(tmp_path: Path, variables: Any = (), **arrays: Any) -> Run:
    """Save a checkpoint of SB3 with tensors that belong to no module, and a replay buffer."""
    run = Run(tmp_path)
    (tmp_path / "checkpoints").mkdir(exist_ok=True)
    with zipfile.ZipFile(run.checkpoint_path(1, sb3_checkpoint.ZIP), "w") as archive:
        archive.writestr("pytorch_variables.pth", saved(dict(variables)))
    np.savez(run.checkpoint_path(1, sb3_checkpoint.REPLAY), **arrays)
    return run


@pytest.mark.parametrize(
    "change",
    [
        {"rewards": np.zeros((1, 1), np.float32)},
        {"pos": -1},
        {"observations": np.full((600, 1, 2), np.nan, np.float32)},
        {"full": True},
    ],
)
def test_invalid_replay_buffers_are_rejected(change: dict[str, Any], tmp_path: Path) -> None:
    buffer = types.SimpleNamespace(buffer_size=1000, pos=0, full=False)
    model = types.SimpleNamespace(replay_buffer=buffer, set_parameters=Mock(), device="cpu")
    shapes = {"observations": (1, 2), "next_observations": (1, 2), "actions": (1, 2)}
    arrays: dict[str, Any] = {"pos": 600, "full": False}
    for name in sb3_checkpoint.FIELDS:
        setattr(buffer, name, np.zeros((1000, *shapes.get(name, (1,))), np.float32))
        arrays[name] = getattr(buffer, name)[:600]
    sb3_checkpoint.restore(stored(tmp_path, **arrays), model, 1)
    assert buffer.pos == 600
    buffer.pos = 7
    with pytest.raises(ValueError, match="must be"):
        sb3_checkpoint.restore(stored(tmp_path, **arrays | change), model, 1)
    assert buffer.pos == 7


def test_an_entropy_coefficient_of_a_different_shape_is_rejected(tmp_path: Path) -> None:
    coefficient = torch.ones(1)
    model = types.SimpleNamespace(log_ent_coef=coefficient, set_parameters=Mock(), device="cpu")
    run = stored(tmp_path, {"log_ent_coef": torch.zeros(())})
    with pytest.raises(ValueError, match=r"log_ent_coef must have shape \(1,\)"):
        sb3_checkpoint.restore(run, model, 1)
    assert coefficient.item() == 1


def test_resume_under_torchrun_is_rejected_and_changes_nothing(
    whole: Path, capsys: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(cli, "_world", contextlib.nullcontext)  # no other processes
    monkeypatch.setenv("WORLD_SIZE", "2")
    before = {path.name: path.read_bytes() for path in whole.iterdir() if path.is_file()}
    error = refusal(capsys, "resume", whole, "--iterations", 4)
    assert "start them without torchrun" in error
    assert {p.name: p.read_bytes() for p in whole.iterdir() if p.is_file()} == before


def test_other_processes_do_not_delete_replay_buffers(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    run = Run(tmp_path)
    old = run.checkpoint_path(1, sb3_checkpoint.REPLAY)
    old.parent.mkdir()
    old.write_bytes(b"")
    model = types.SimpleNamespace(save=lambda data: data.write(b"zip"))
    monkeypatch.setattr(processes, "rank", lambda: 1)
    sb3_checkpoint.save(run, model, 2)
    assert list(old.parent.iterdir()) == [old]


def test_a_run_on_one_task_is_evaluated_on_this_task(
    copied: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    metarl("evaluate", copied, "--episodes-per-task", 3)
    (entry,) = evaluations(copied)
    assert entry["tasks"] == [GOAL]
    assert entry["mean"] == [pytest.approx(history(copied)[-1]["return/step_0"], rel=1e-6)]
    metarl("evaluate", copied, "--episodes-per-task", 3, "--explore", "--checkpoint", 0)
    assert len(evaluations(copied)) == 2
    assert "[0, 1, 2, 3]" in refusal(capsys, "evaluate", copied, "--checkpoint", 7)
    pytest.importorskip("matplotlib")
    metarl("plot", copied, "--out", tmp_path / "curve.png")
    metarl("render", copied, "--out", tmp_path / "episode.png")
    assert (tmp_path / "episode.png").stat().st_size > 1000


def test_oracle_is_evaluated_on_the_test_tasks(tmp_path: Path) -> None:
    run = tmp_path / "run"
    metarl(*TRAIN, "--iterations", 1, "--observe-task", "--algo", "a2c", "--out", run)
    metarl("evaluate", run, "--num-tasks", 4, "--episodes-per-task", 2)
    (entry,) = evaluations(run)
    sampler = make_sampler(NAVIGATION, num_tasks=4, episodes_per_task=1)
    assert entry["tasks"] == paper_tasks(sampler)
    assert np.shape(entry["returns"]) == (4, 1)
    assert entry["interval95"][0] > 0


def evaluations(run: Path) -> list[dict[str, Any]]:
    return Run.open(run).evaluations()


class Choice(gymnasium.Env[Any, Any]):
    """An environment in which one of four actions is correct."""

    observation_space: Any = SEEN
    action_space: Any = DISCRETE
    task: Any = {"right": 0}  # noqa: RUF012

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> Any:
        return [{"right": right} for right in rng.integers(4, size=num_tasks).tolist()]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.right = self.task["right"]
        return np.zeros(3, np.float32), {}

    def step(self, action: Any) -> Any:
        return np.zeros(3, np.float32), float(action == self.right), False, False, {}


@pytest.fixture
def choice() -> Any:
    gymnasium.register("own/Choice-v0", Choice, max_episode_steps=5)
    yield "own/Choice-v0"
    del gymnasium.registry["own/Choice-v0"]


def test_discrete_actions_train_and_unsupported_algorithms_give_errors(
    choice: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    words = [*TRAIN, "--env", choice, "--out", tmp_path / "run"]
    assert "td3 requires continuous actions, got Discrete(4)" in refusal(
        capsys, *words, "--algo", "td3"
    )
    metarl(*words, "--iterations", 1)
    assert history(tmp_path / "run")[-1]["return/step_0"] >= 0


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--task", "direction"], 'must be a JSON object such as \'{"goal": ['),
        (
            ["--task", '{"direction": 1}'],
            "a task of this environment must have the form {'goal': [0.0, 0.",
        ),
        (["--env", "CartPole-v1"], "has no tasks"),
        (["--eval-every", "0"], "--eval-every must be at least 1, got 0"),
        (["--discount", "2"], "--discount must be between 0 and 1, got 2"),
        (["--hidden", "0"], "--hidden must be at least 1"),
    ],
)
def test_invalid_settings_give_a_one_line_error_and_leave_no_folder(
    flags: list[str], expected: str, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert expected in refusal(capsys, *TRAIN, *flags, "--out", tmp_path / "run")
    assert not (tmp_path / "run").exists()


@pytest.mark.nightly
@runs(PAGE, "train", "headstart", "adapt", "wrap", "fine-tune")
def test_the_page_runs_from_top_to_bottom(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Unchanged except for the sizes, with the runs named between the blocks."""
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    monkeypatch.chdir(tmp_path)
    train = block(PAGE, "train")
    run_in_small(train)
    backwards = train.splitlines()[0]
    run_in_small(backwards.replace("-1", "1").replace("runs/backwards", "runs/forwards"))
    maml, quick = (line for line in commands_of(PAGE) if line.startswith("metarl train maml-trpo"))
    run_in_small(f"{maml} && {quick}")
    run_in_small(block(PAGE, "headstart"))
    assert Path("headstart.png").exists()
    scope: dict[str, Any] = {}
    for name in ("adapt", "wrap", "fine-tune"):
        exec(block(PAGE, name).replace("STEPS = 40_000", "STEPS = 1_000"), scope)
    seen = np.zeros((1, 2), np.float32)
    expected, _ = scope["policy"].predict(seen, deterministic=True)
    np.testing.assert_array_equal(scope["again"].predict(seen, deterministic=True)[0], expected)
    assert scope["model"].num_timesteps == 1000
