"""Videos of an episode before and after adaptation: recording, layout, writing and errors."""

import gc
import os
import shutil
import subprocess
import sys
from ctypes.util import find_library
from pathlib import Path
from typing import Any, ClassVar

import gymnasium
import numpy as np
import pytest
import torch

from metarl.core import tree
from metarl.core.seeding import torch_generator
from metarl.drawing import opengl
from metarl.drawing.montage import (
    MARGIN,
    Shot,
    headline,
    label,
    panel_frames,
    state_text,
    strip_moments,
)
from metarl.drawing.recording import (
    Pace,
    Recording,
    adapted_path,
    choose_pace,
    make_recorder,
    record_episodes,
)
from metarl.drawing.scene import Scene
from metarl.experiments.meta_rl import build, config_class
from tests.support.commands import metarl, refusal
from tests.support.problems import at_once


MAMLTRPO = config_class("maml-trpo")


CHEETAH = "metarl/RllabHalfCheetahDir-v0"
HORIZON = 12
# imageio-ffmpeg leaves its pipes to the garbage collector.
PIPES = pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")


class Marcher(gymnasium.Env[Any, Any]):
    """A walk on a line that ends after ``task["length"]`` steps and renders the time step."""

    metadata: ClassVar[dict[str, Any]] = {"render_modes": ["rgb_array"], "render_fps": 100}

    def __init__(self, render_mode: str | None = None) -> None:
        self.render_mode = render_mode
        self.observation_space = gymnasium.spaces.Box(-np.inf, np.inf, (1,), np.float32)
        self.action_space = gymnasium.spaces.Box(-1.0, 1.0, (1,), np.float32)
        self.task: dict[str, Any] = {"length": 5}
        self.time = 0
        self.place = 0.0

    def sample_tasks(self, num_tasks: int, rng: np.random.Generator) -> list[dict[str, Any]]:
        return [{"length": int(n)} for n in rng.integers(4, 9, num_tasks)]

    def reset(self, *, seed: int | None = None, options: Any = None) -> Any:
        super().reset(seed=seed)
        self.time, self.place = 0, float(self.np_random.uniform())
        return self._observe(), {}

    def step(self, action: Any) -> Any:
        self.time += 1
        self.place += float(action[0])
        return self._observe(), float(action[0]), self.time >= self.task["length"], False, {}

    def _observe(self) -> Any:
        return np.array([self.place], np.float32)

    def render(self) -> Any:
        return np.full((30, 40, 3), 10 * self.time, np.uint8)


class Blind(Marcher):
    metadata: ClassVar[dict[str, Any]] = {"render_modes": []}


class Deaf(Blind):
    def __init__(self) -> None:
        super().__init__()


for name, entry_point in (("Marcher", Marcher), ("Blind", Blind), ("Deaf", Deaf)):
    gymnasium.register(f"tests/{name}-v0", entry_point=entry_point, max_episode_steps=HORIZON)


def tiny_run(folder: Path, env: str) -> Path:
    size = ["--num-tasks", 2, "--episodes-per-task", 3, "--iterations", 1, "--hidden", 4]
    metarl("train", "maml-trpo", "--env", env, *size, "--out", folder)
    return folder


@pytest.fixture(scope="module")
def march(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "march", "tests/Marcher-v0")


@pytest.fixture(scope="module")
def cheetah(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tiny_run(tmp_path_factory.mktemp("runs") / "cheetah", CHEETAH)


def recordings_of(lengths: list[int], *, every: int) -> list[Recording]:
    config = MAMLTRPO(env="tests/Marcher-v0", hidden=(4,))
    parts = build(config, num_tasks=1, episodes=1)
    recorder = make_recorder(config.env)
    return [
        record_episodes(recorder, parts.policy, [parts.params], {"length": n}, seed=0, every=every)[
            0
        ]
        for n in lengths
    ]


def test_a_recording_has_evenly_spaced_frames_and_the_last_one() -> None:
    short, long = recordings_of([5, 8], every=3)
    assert sorted(short.frames) == [0, 3, 5]
    assert sorted(long.frames) == [0, 3, 6, 8]
    assert (short.length, long.length) == (5, 8)
    assert [int(short.at(time).max()) for time in range(7)] == [0, 0, 0, 30, 30, 50, 50]
    assert short.returns[0] == 0


def test_episodes_with_one_seed_share_initial_state_and_noise() -> None:
    config = MAMLTRPO(env="tests/Marcher-v0", hidden=(4,))
    parts = build(config, num_tasks=1, episodes=1)
    recorder = make_recorder(config.env)
    path, task = [parts.params, parts.params], {"length": 6}
    first, again = record_episodes(recorder, parts.policy, path, task, seed=3, every=1)
    assert np.array_equal(first.returns, again.returns)
    (other,) = record_episodes(recorder, parts.policy, path[:1], task, seed=4, every=1)
    assert not np.array_equal(first.returns, other.returns)


@pytest.mark.parametrize("inner", ["sgd", "meta-sgd"])
def test_the_recorded_policies_are_those_of_the_rollout(inner: Any) -> None:
    config = MAMLTRPO(env="tests/Marcher-v0", hidden=(4,), inner_steps=2, inner=inner)
    parts = build(config, num_tasks=1, episodes=5)
    meta = parts.loop.init(parts.params)
    done, _ = parts.sampler.collect(
        parts.policy, parts.loop, meta, [{"length": 7}], torch_generator(0, 0, "x"), parts.process
    )
    batches = [*done.support, done.query]
    path = adapted_path(parts.loop, meta, batches)
    for params, batch in zip(path, batches, strict=True):
        behavior = at_once(parts.policy, tree.expand(params, 1), batch.observations)
        valid = batch.mask[..., None]
        assert torch.equal(behavior.mean * valid, batch.behavior.mean * valid)


@pytest.mark.parametrize(
    ("rate", "suffix", "expected"),
    [
        (20, ".mp4", Pace(1, 20.0, 1)),  # dt 0.05: real time
        (50, ".mp4", Pace(1, 50.0, 1)),
        (100, ".mp4", Pace(1, 50.0, 2)),  # dt 0.01: half speed
        (100, ".gif", Pace(2, 25.0, 2)),
        (125, ".mp4", Pace(2, 31.25, 2)),
        (500, ".mp4", Pace(5, 50.0, 2)),
        (100, ".png", Pace(1, 100.0, 1)),
    ],
)
def test_videos_play_in_real_time_or_at_half_speed(
    rate: int, suffix: str, expected: Pace, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(Marcher.metadata, "render_fps", rate)
    assert choose_pace(make_recorder("tests/Marcher-v0"), suffix) == expected


def test_panels_keep_their_last_frame_after_the_episode() -> None:
    pytest.importorskip("PIL", reason="pip install 'metarl-torch[video]'")
    short, long = recordings_of([4, 8], every=1)
    rows = [[Shot("before adaptation", 0.0, short), Shot("after 1 step", 0.0, long)]]
    frames = list(panel_frames(rows, "a task", every=2))
    assert len(frames) == 5
    assert len({frame.shape for frame in frames}) == 1
    left, right = MARGIN + 20, frames[0].shape[1] - MARGIN - 20
    assert [int(frame[100, left, 0]) for frame in frames] == [0, 20, 40, 40, 40]
    assert [int(frame[100, right, 0]) for frame in frames] == [0, 20, 40, 60, 80]
    assert np.array_equal(frames[3][:46], frames[4][:46])  # the heading
    captions = [frame[-36:, : frame.shape[1] // 2] for frame in frames]
    assert not np.array_equal(captions[1], captions[2])
    assert np.array_equal(captions[3], captions[4])


def test_captions_contain_the_state_the_steps_and_the_task() -> None:
    shown = Recording({}, np.array([0.0, -1.25, -2.5]))
    assert state_text(shown, 1) == ("step 1", "return -1.2")
    assert state_text(shown, 2) == ("step 2", "return -2.5")
    assert state_text(shown, 9) == ("ended at step 2", "return -2.5")
    assert [label(n) for n in range(3)] == ["before adaptation", "after 1 step", "after 2 steps"]
    assert headline("metarl/RllabHalfCheetahDir-v0", {"direction": -1}) == (
        "RllabHalfCheetahDir-v0, direction -1"
    )
    assert headline("Nav-v0", {"goal": [0.30001, -0.4]}) == "Nav-v0, goal (0.3, -0.4)"
    assert headline("Long-v0", {"x": list(range(9))}) == ("Long-v0, x (0, 1, 2, 3, 4, 5, 6, 7, 8)")
    scales = {"body_mass": [0.8, 1.7], "dof_damping": [1.1]}
    assert headline("Params-v1", {"scales": scales}) == (
        "Params-v1, scales body mass (0.8, 1.7), dof damping (1.1)"
    )
    assert len(headline("Many-v0", {str(n): n for n in range(99)})) < 80


def test_a_strip_shows_evenly_spaced_frames_of_the_longest_recording() -> None:
    def still(times: range) -> Recording:
        return Recording(
            dict.fromkeys(times, np.zeros((2, 2, 3), np.uint8)), np.zeros(times[-1] + 1)
        )

    shots = [Shot("", 0.0, still(range(0, 31, 5))), Shot("", 0.0, still(range(0, 201, 5)))]
    assert strip_moments(shots) == [0, 50, 100, 150, 200]
    assert strip_moments([Shot("", 0.0, still(range(3)))]) == [0, 1, 2]


@PIPES
def test_render_supports_any_environment_with_rgb_frames(march: Path, tmp_path: Path) -> None:
    iio = pytest.importorskip("imageio.v3", reason="pip install 'metarl-torch[video]'")
    pytest.importorskip("imageio_ffmpeg", reason="pip install 'metarl-torch[video]'")
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    few = ["--task", '{"length": 8}', "--episodes-per-task", 3]
    for name in ("strip.png", "video.mp4", "video.gif"):
        metarl("render", march, *few, "--out", tmp_path / "new" / name)
    assert (tmp_path / "new/strip.png").read_bytes().startswith(b"\x89PNG")
    video, gif = (iio.imread(tmp_path / "new" / name) for name in ("video.mp4", "video.gif"))
    assert len(video) == 9 + 75  # and the end for 1.5 seconds
    assert iio.immeta(tmp_path / "new/video.mp4")["fps"] == 50
    assert video[0].shape == (*gif[0].shape[:2], 3)
    gc.collect()  # while the filter above is active


def test_several_runs_are_rows_of_one_environment(
    march: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    out = tmp_path / "strip.png"
    metarl("render", march, march, "--inner-steps", 0, "--episodes-per-task", 2, "--out", out)
    assert out.exists()
    other = shutil.copytree(march, tmp_path / "other")
    config = (other / "config.json").read_text()
    (other / "config.json").write_text(config.replace("tests/Marcher-v0", CHEETAH))
    message = refusal(capsys, "render", march, other, "--out", out)
    assert "must have the same environment" in message


@pytest.mark.parametrize(
    ("flags", "expected"),
    [
        (["--task", "{bad"], 'must be a JSON object such as \'{"length": '),
        (["--task", "3"], "is not a mapping"),
        (["--out", "video.avi"], "--out must end in one of .png, .pdf, .svg, .mp4, .gif"),
        (["--inner-lr", "nan"], "--inner-lr must be finite"),
    ],
    ids=lambda value: " ".join(value) if isinstance(value, list) else "",
)
def test_invalid_arguments_of_render_give_one_line_errors(
    flags: list[str],
    expected: str,
    march: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    words = ["render", march, "--out", tmp_path / "a.png", *flags]
    assert expected in refusal(capsys, *words)


@pytest.mark.parametrize("name", ["Blind", "Deaf"])
def test_an_environment_without_rgb_frames_is_rejected(name: str) -> None:
    with pytest.raises(ValueError, match=f"tests/{name}-v0 does not render frames"):
        make_recorder(f"tests/{name}-v0")


@pytest.mark.parametrize(
    ("system", "cause"),
    [("linux", "egl: its library is missing"), ("darwin", "glfw: no screen")],
)
def test_missing_opengl_gives_a_one_line_error_before_any_work(
    system: str,
    cause: str,
    cheetah: Path,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")

    def fail(name: str) -> Any:
        raise {"mujoco.glfw": RuntimeError("no screen"), "mujoco.egl": AttributeError("x")}[name]

    monkeypatch.setattr(opengl, "importlib", type("", (), {"import_module": fail}))
    monkeypatch.delenv("MUJOCO_GL", raising=False)
    monkeypatch.setattr("sys.platform", system)
    monkeypatch.chdir(tmp_path)
    message = refusal(capsys, "render", cheetah, "--out", "a.png")
    assert f"({cause})" in message
    assert "apt-get install libegl1 libgl1-mesa-dri libgles2" in message
    assert "MUJOCO_GL" not in os.environ
    assert list(tmp_path.iterdir()) == []


@pytest.mark.skipif(find_library("OSMesa") is not None, reason="this machine has OSMesa")
def test_a_failed_import_of_mujoco_is_explained(tmp_path: Path) -> None:
    code = """from metarl.drawing.opengl import explain_missing_opengl
with explain_missing_opengl():
    import mujoco"""
    done = subprocess.run(
        [sys.executable, "-c", code],
        env={**os.environ, "MUJOCO_GL": "osmesa", "PYOPENGL_PLATFORM": "osmesa"},
        capture_output=True,
        text=True,
        cwd=tmp_path,
    )
    last = done.stderr.splitlines()[-1]
    assert last.startswith("RuntimeError: rendering with OpenGL failed (osmesa: its library")
    assert list(tmp_path.iterdir()) == []


def test_the_camera_follows_the_robot(egl: None) -> None:
    import mujoco

    robot: Any = gymnasium.make("metarl/HalfCheetahDir-v1").unwrapped
    robot.reset(seed=0)
    scene = Scene(robot.model)
    frames = []
    for moved in (0.0, 90.0):  # complete pairs of tiles, so that only the ruler differs
        robot.data.qpos[0] += moved
        mujoco.mj_forward(robot.model, robot.data)
        frames.append(scene.frame(robot.data).astype(int))
    scene.close()
    assert np.ptp(frames[0]) > 100
    changed = np.abs(frames[0] - frames[1]).max(axis=-1) > 10
    ruler = np.flatnonzero(changed.any(axis=1))
    assert changed.mean() < 0.02
    assert ruler.min() > 200  # below the robot
    assert robot.model.vis.quality.shadowsize == 4096  # the environment's own model is untouched


def test_render_draws_a_robot_without_a_display(
    egl: None,
    cheetah: Path,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
) -> None:
    pytest.importorskip("matplotlib", reason="pip install 'metarl-torch[plot]'")
    monkeypatch.chdir(tmp_path)
    monkeypatch.delenv("DISPLAY", raising=False)
    monkeypatch.delenv("WAYLAND_DISPLAY", raising=False)
    monkeypatch.delenv("MUJOCO_GL")
    monkeypatch.setattr("metarl.drawing.recording.MOMENTS", 4)
    capfd.readouterr()
    few = ["--task", '{"direction": -1}', "--episodes-per-task", 2]
    metarl("render", cheetah, *few, "--out", "a.png")
    written = capfd.readouterr()
    assert (written.out, written.err) == ("written to a.png\n", "")
    assert (tmp_path / "a.png").read_bytes().startswith(b"\x89PNG")
    assert {path.name for path in tmp_path.iterdir()} == {"a.png"}
