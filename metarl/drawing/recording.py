"""One episode of a policy as it looks: frames of the scalar environment, and the running return."""

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


MOMENTS = 40  # of a picture, to choose from
NO_FRAMES = "draws no frames: it needs the render_mode 'rgb_array'"


class Film(NamedTuple):
    """An episode.

    Attributes:
        frames: Images (height, width, 3) by time step; the last is that of the end.
        returns: Sum of the rewards up to each time step, from 0 on.
    """

    frames: dict[int, NDArray[np.uint8]]
    returns: NDArray[np.float64]

    @property
    def length(self) -> int:
        """Time steps of the episode."""
        return len(self.returns) - 1

    def at(self, time: int) -> NDArray[np.uint8]:
        """Return the latest frame; that of the end for all times after it."""
        return self.frames[max(step for step in self.frames if step <= time)]


class Pace(NamedTuple):
    """How time steps become frames: one of `every`, `fps` a second, `slowdown` times too slow."""

    every: int
    fps: float
    slowdown: int


class Recorder(gymnasium.Wrapper[Any, Any, Any, Any]):
    """Keeps the frames of the current episode: of every so many time steps, and of the end."""

    def __init__(self, env: gymnasium.Env[Any, Any]) -> None:
        """Find out whether this machine can draw `env`, before anything costs time.

        Raises:
            ValueError: If the environment draws no ``rgb_array``.
            RuntimeError: If there is no OpenGL for MuJoCo.
        """
        super().__init__(env)
        if "rgb_array" not in env.metadata.get("render_modes", ()):
            raise ValueError(f"{env.spec.id if env.spec else env} {NO_FRAMES}")
        self.every = 1
        self._scene = _scene_of(env.unwrapped)

    def reset(self, **kwargs: Any) -> tuple[Any, dict[str, Any]]:
        """Start anew."""
        started = super().reset(**kwargs)
        self._time, self.frames = 0, {0: self._draw()}
        return started

    def step(self, action: Any) -> tuple[Any, Any, bool, bool, dict[str, Any]]:
        """Go on, and draw if it is time."""
        stepped = super().step(action)
        self._time += 1
        if stepped[2] or stepped[3] or self._time % self.every == 0:
            self.frames[self._time] = self._draw()
        return stepped

    def close(self) -> None:
        """Close the scene too."""
        if self._scene:
            self._scene.close()
        self._scene = None
        super().close()

    def _draw(self) -> NDArray[np.uint8]:
        robot: Any = self.unwrapped
        drawn = self._scene.frame(robot.data) if self._scene else self.env.render()
        return np.array(drawn, np.uint8)  # a copy


def _scene_of(robot: Any) -> Any:
    """Return a scene of a MuJoCo environment whose model has a camera that follows, else None."""
    model: Any = getattr(robot, "model", None)
    if not hasattr(robot, "data") or not hasattr(model, "cam_bodyid"):
        return None
    from metarl.drawing.scene import Scene

    if "track" in {model.camera(number).name for number in range(model.ncam)}:
        return Scene(model)
    for context in reversed(opengl.contexts(model, width=16, height=16)):  # can it be drawn at all?
        context.free()
    return None


def make_recorder(env_id: str, *, device: Any = "cpu", **kwargs: Any) -> Sampler:
    """Build the scalar face of an environment, and a sampler of one episode that is filmed.

    Args:
        env_id: A Gymnasium id.
        device: Where the policy lives.
        kwargs: Arguments of the environment, such as ``observe_task=True``.

    Raises:
        ValueError: If the environment draws no ``rgb_array``.
        RuntimeError: If this machine cannot draw it.
    """
    kwargs |= {"vectorization_mode": "sync", "wrappers": [Recorder], "render_mode": "rgb_array"}
    try:
        with opengl.explained(), warnings.catch_warnings():
            warnings.filterwarnings("ignore", ".*not in the possible render_modes")  # an error here
            return make_sampler(env_id, num_tasks=1, episodes_per_task=1, device=device, **kwargs)
    except TypeError as error:
        if "render_mode" not in str(error):
            raise
        raise ValueError(f"{env_id} {NO_FRAMES}") from None


def choose_pace(recorder: Sampler, suffix: str) -> Pace:
    """Choose how often to draw, for a file of the kind `suffix`.

    A video plays in real time, at half speed where there are more than 50 time steps a second, and
    has at most 50 frames a second (a .gif 25). A picture needs few moments.
    """
    rate = float(recorder.env.call("metadata")[0].get("render_fps", 30))
    slowdown = 2 if rate > 50 else 1
    if suffix not in SUFFIXES:
        return Pace(max(1, recorder.horizon // MOMENTS), rate, 1)
    every = math.ceil(rate / slowdown / (25 if suffix == ".gif" else 50))
    return Pace(every, rate / slowdown / every, slowdown)


def adapted_path(loop: InnerLoop, meta: MetaParams, batches: list[Episodes]) -> list[Params]:
    """Return the first task's parameters after 0, 1, ..., K inner steps.

    Args:
        loop: The loop that the sampler collected with.
        meta: The meta-parameters that it started from.
        batches: What it collected: the episodes of every step, the last of them unused here.
    """
    support = tuple(tree.map_leaves(lambda x: x[0], batch) for batch in batches[:-1])
    with torch.no_grad(), chunks.one_thread_per_operator():
        return loop.path(meta, support)


def film(
    recorder: Sampler,
    policy: Policy,
    path: list[Params],
    task: TaskDescription,
    *,
    seed: int,
    every: int,
) -> list[Film]:
    """Film one episode for each of several parameters, from one start and with the same noise.

    Args:
        recorder: Of :func:`make_recorder`.
        policy: The policy; its actions are drawn as in training and evaluation.
        path: Parameters, without a task axis.
        task: The task.
        seed: Of the start and of the noise.
        every: Time steps from one frame to the next.
    """
    recorder.env.set_attr("every", every)
    films = []
    for params in path:
        generator = torch_generator(seed, 0, "film", device=recorder.device)
        rollout = recorder.rollout(policy, tree.expand(params, 1), [task], generator)
        rewards = rollout.rewards[0, rollout.mask[0, :, 0], 0].double().cpu().numpy()
        (frames,) = recorder.env.call("frames")
        films.append(Film(frames, np.append(0.0, np.cumsum(rewards))))
    return films
