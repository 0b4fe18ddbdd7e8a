"""Draw a picture of each kind of environment in docs/images/environments/.

::

    MUJOCO_GL=egl python docs/gallery.py

Each picture shows an episode with random actions after a few time steps.
"""

from pathlib import Path

import gymnasium
import numpy as np
from PIL import Image

import metarl.envs  # noqa: F401 (registers the environments)
from metarl.drawing.scene import Scene


FOLDER = Path(__file__).parent / "images" / "environments"
SIZE = 240, 180  # width and height in pixels
STEPS = {  # time steps before the picture, by environment
    "Navigation2D-v0": 3,
    "SparsePoint-v0": 3,
    "HalfCheetahDir-v1": 6,
    "AntGoal-v1": 8,
    "Walker2dVel-v1": 12,
    "HopperRandParams-v1": 8,
    "SwimmerVel-v1": 20,
    "HumanoidDir-v1": 8,
}


def picture(name: str, steps: int) -> Image.Image:
    """Return the picture of an environment after some time steps."""
    with gymnasium.make(f"metarl/{name}", render_mode="rgb_array") as env:
        inner = env.unwrapped
        inner.task = inner.sample_tasks(1, np.random.default_rng(1))[0]
        env.reset(seed=0)
        env.action_space.seed(0)
        for _ in range(steps):
            env.step(env.action_space.sample())
        if not hasattr(inner, "model"):
            return Image.fromarray(env.render())
        scene = Scene(inner.model)
        frame = scene.frame(inner.data)
        scene.close()
        return Image.fromarray(frame)


def main() -> None:
    """Draw all pictures."""
    FOLDER.mkdir(exist_ok=True)
    for name, steps in STEPS.items():
        drawn = picture(name, steps).convert("RGB")
        drawn.thumbnail(SIZE)
        framed = Image.new("RGB", SIZE, "white")
        framed.paste(drawn, ((SIZE[0] - drawn.width) // 2, (SIZE[1] - drawn.height) // 2))
        kind = name.partition("-")[0].lower()
        framed.save(FOLDER / f"{kind}.png", optimize=True)


if __name__ == "__main__":
    main()
