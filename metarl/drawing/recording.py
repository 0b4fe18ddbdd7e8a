"""Recording of rendered frames and cumulative rewards in scalar environments."""

import math
import warnings
from typing import Any, NamedTuple

import gymnasium
import numpy as np
import torch
from numpy.typing import NDArray

from metarl.core import InnerLoop, MetaParams, Params, torch_generator, tree
from metarl.core.speed import chunks
from metarl.drawing import opengl
from metarl.drawing.video import SUFFIXES
from metarl.rl import Episodes, Policy, Sampler, TaskDescription, make_sampler


MOMENTS = 40  # approximate number of recorded frames for an image strip
NO_FRAMES = (
    "{} does not render frames: it must support render_mode='rgb_array'. List 'rgb_array' in the "
    "render modes of its metadata, and accept the argument `render_mode`"
)
"""Error for an environment that cannot be recorded."""


class Recording(NamedTuple):
    """A recorded episode.

    Attributes:
        frames: Images of shape (height, width, 3) by time step, including the
            first and last time step.
        returns: Cumulative rewards after 0, 1, ... time steps, of shape
            (length + 1,).
    """

    frames: dict[int, NDArray[np.uint8]]
    returns: NDArray[np.float64]

    @property
    def length(self) -> int:
        """The number of time steps in the episode."""
        return len(self.returns) - 1

    def at(self, time: int) -> NDArray[np.uint8]:
        """Return the last image recorded up to time step `time`, of shape (height, width, 3)."""
        return self.frames[max(step for step in self.frames if step <= time)]


class Pace(NamedTuple):
    """The frame rate of a recording and its video.

    Attributes:
        every: Number of time steps between two frames.
        fps: Frames per second of the video.
        slowdown: Factor by which the video is slower than real time.
    """

    every: int
    fps: float
    slowdown: int


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """A wrapper that records frames of the current episode.

    Attributes:
        every: Number of time steps between two frames, initially 1. The last
            time step is always recorded.
        frames: Images of shape (height, width, 3) by time step.
    """

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Wrap an environment, and check that the environment can be rendered.

        Args:
            env: A scalar environment, created with ``render_mode="rgb_array"``.

        Raises:
            ValueError: If the environment does not support ``render_mode="rgb_array"``.
            RuntimeError: If MuJoCo finds no OpenGL library.
        """
        super().__init__(env)
        if "rgb_array" not in env.metadata.get("render_modes", ()):
            name = env.spec.id if env.spec else env
            raise ValueError(NO_FRAMES.format(name))
        self.every = 1
        self._scene = _scene_of(env.unwrapped)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Reset the environment and record the first frame."""
        started = super().reset(**kwargs)
        self._time, self.frames = 0, {0: self._draw()}
        return started

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Take a step; record a frame every :attr:`every` steps and at the end of the episode."""
        stepped = super().step(action)
        self._time += 1
        if stepped[2] or stepped[3] or self._time % self.every == 0:
            self.frames[self._time] = self._draw()
        return stepped

    def close(self) -> None:
        """Close the environment and the rendering context."""
        if self._scene:
            self._scene.close()
        self._scene = None
        super().close()

    def _draw(self) -> NDArray[np.uint8]:
        robot: Any = self.unwrapped
        drawn = self._scene.frame(robot.data) if self._scene else self.env.render()
        return np.array(drawn, np.uint8)  # environments may reuse the array


def _scene_of(robot: Any) -> Any:
    """Return a scene if `robot` is a MuJoCo environment with a camera ``track``, else None."""
    model: Any = getattr(robot, "model", None)
    if not hasattr(robot, "data") or not hasattr(model, "cam_bodyid"):
        return None
    from metarl.drawing.scene import Scene

    if "track" in {model.camera(number).name for number in range(model.ncam)}:
        return Scene(model)
    for context in reversed(opengl.contexts(model, width=16, height=16)):  # raises without OpenGL
        context.free()
    return None


def make_recorder(env_id: str, *, device: Any = "cpu", **kwargs: Any) -> Sampler:
    """Create a sampler that runs single episodes in a scalar environment and records frames.

    Args:
        env_id: Gymnasium ID of the environment.
        device: Device of the policy.
        kwargs: Additional arguments of the environment, such as ``observe_task=True``.

    Raises:
        ValueError: If the environment does not support ``render_mode="rgb_array"``.
        RuntimeError: If MuJoCo finds no OpenGL library.

    Example::

        recorder = make_recorder("metarl/RllabHalfCheetahDir-v0")
        pace = choose_pace(recorder, ".mp4")
    """
    kwargs |= {"vectorization_mode": "sync", "wrappers": [Recorder], "render_mode": "rgb_array"}
    try:  # Recorder raises an error instead of Gymnasium's warning
        with opengl.explain_missing_opengl(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not in the possible render_modes")
            return make_sampler(env_id, num_tasks=1, episodes_per_task=1, device=device, **kwargs)
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise ValueError(NO_FRAMES.format(env_id)) from None


def choose_pace(recorder: Sampler, suffix: str) -> Pace:
    """Return the frame rate for recording an environment, which depends on the type of file.

    A video plays in real time, or at half speed if the environment has more
    than 50 time steps per second. A .mp4 file has at most 50 and a .gif file
    at most 25 frames per second. For an image strip, about 40 frames are
    recorded.

    Args:
        recorder: A sampler from :func:`make_recorder`.
        suffix: Suffix of the file to write. The suffixes ``".mp4"`` and
            ``".gif"`` select a video, all others an image strip.

    Example::

        recorder = make_recorder("metarl/RllabHalfCheetahDir-v0")
        choose_pace(recorder, ".mp4")  # Pace(every=1, fps=50.0, slowdown=2)
    """
    rate = float(recorder.env.call("metadata")[0].get("render_fps", 30))
    slowdown = 2 if rate > 50 else 1
    if suffix not in SUFFIXES:
        return Pace(max(1, recorder.horizon // MOMENTS), rate, 1)
    every = math.ceil(rate / slowdown / (25 if suffix == ".gif" else 50))
    return Pace(every, rate / slowdown / every, slowdown)


def adapted_path(loop: InnerLoop, meta: MetaParams, batches: list[Episodes]) -> list[Params]:
    """Return the adapted parameters of the first task after 0, 1, ..., K inner steps.

    Args:
        loop: Inner loop with which the episodes were collected.
        meta: Meta-parameters before adaptation.
        batches: Episodes collected after 0, 1, ..., K inner steps. The last batch is not used.

    Returns:
        K + 1 sets of policy parameters, without a task axis.

    Example::

        policy, generator = metarl.load("runs/quick"), torch.Generator().manual_seed(0)
        loop, task = policy.loop(1), policy.sample_task(seed=0)
        batches = policy.play(loop, [task], generator)
        before, after = adapted_path(loop, policy.params, batches)
    """
    support = tuple(tree.map_leaves(lambda x: x[0], batch) for batch in batches[:-1])
    with torch.no_grad(), chunks.one_thread_per_operator():
        return loop.path(meta, support)


def record_episodes(
    recorder: Sampler,
    policy: Policy,
    path: list[Params],
    task: TaskDescription,
    *,
    seed: int,
    every: int,
) -> list[Recording]:
    """Record one episode per set of policy parameters.

    Actions are sampled from the policy, as in training and evaluation. All
    episodes use the same random seed, and therefore start in the same state. The
    episodes of an RL² policy form one trial.

    Args:
        recorder: A sampler from :func:`make_recorder`.
        policy: The policy.
        path: Policy parameters without a task axis, one item per episode,
            such as the result of :func:`adapted_path`.
        task: Description of the task in which all episodes are recorded.
        seed: Random seed for the initial state and the actions.
        every: Number of time steps between two frames.

    Returns:
        One recording per item of `path`.

    Example::

        policy = metarl.load("runs/quick")
        recorder, task = make_recorder(policy.config.env), policy.sample_task(seed=0)
        path = [policy.params.model]  # before adaptation
        recordings = record_episodes(recorder, policy.policy, path, task, seed=0, every=1)
    """
    recorder.env.set_attr("every", every)
    recordings = []
    actor = policy.actor(tree.expand(path[0], 1), (1,)) if policy.trials else None
    for params in path:
        generator = torch_generator(seed, 0, "film", device=recorder.device)
        rollout = recorder.rollout(policy, tree.expand(params, 1), [task], generator, actor=actor)
        rewards = rollout.rewards[0, rollout.mask[0, :, 0], 0].double().cpu().numpy()
        (frames,) = recorder.env.call("frames")
        recordings.append(Recording(frames, np.append(0.0, np.cumsum(rewards))))
    return recordings
