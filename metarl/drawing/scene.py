"""Rendering of MuJoCo robots with a side camera, which follows the robot along a ruler."""

import copy
from typing import Any

import mujoco
import numpy as np
from numpy.typing import NDArray

from metarl.drawing import opengl


WIDTH, HEIGHT = 480, 360
VIEW = mujoco.MjrRect(0, 0, WIDTH, HEIGHT)
TILES = 232, 214  # gray levels of the 1 m tiles of the floor
FLOOR = 400.0  # half the size of the floor in meters
SKY = 226, 236, 245
GRAY, RED = (0.3, 0.3, 0.3, 1.0), (0.84, 0.16, 0.16, 1.0)
MARK = np.array([0.012, 0.05, 0.003])  # half the size of a ruler mark in meters
SHADOW_SIZE = 1024  # a quarter of the default size, which is several times faster on a CPU
SHADOW_REACH = 6.0  # meters around the light; smaller values cause artifacts on the floor


class Scene:
    """A renderer for MuJoCo models with a camera named ``track``, such as Gymnasium's robots.

    Since version 1.4, Gymnasium's own renderer does not follow the robot, and
    the reflecting checkerboard floor makes small images hard to read.

    Args:
        model: The ``mujoco.MjModel``.

    Example::

        env = gymnasium.make("HalfCheetah-v5").unwrapped
        env.reset()
        scene = Scene(env.model)
        image = scene.frame(env.data)  # shape (360, 480, 3)
        scene.close()
    """

    def __init__(self, model: Any) -> None:
        """Create the OpenGL contexts for a copy of the model.

        Raises:
            RuntimeError: If OpenGL is not available.
        """
        self._track = model.camera("track").id
        self._body = int(model.cam_bodyid[self._track])
        self._model = _restyled(model)
        self._gl, self._context = opengl.contexts(self._model, width=WIDTH, height=HEIGHT)
        mujoco.mjr_setBuffer(mujoco.mjtFramebuffer.mjFB_OFFSCREEN, self._context)
        self._scene = mujoco.MjvScene(self._model, 1000)
        self._camera: Any = None

    def frame(self, data: Any) -> NDArray[np.uint8]:
        """Render the current state as an image of shape (360, 480, 3), dtype uint8.

        The first rendered state determines the distance between the camera and the robot.

        Args:
            data: The ``mujoco.MjData`` with the state.
        """
        center = data.subtree_com[self._body]
        self._camera = self._camera or self._place_camera(data)
        self._camera.lookat[:2] = center[:2]  # a fixed height keeps the image steady
        self._gl.make_current()
        option, parts = mujoco.MjvOption(), mujoco.mjtCatBit.mjCAT_ALL
        mujoco.mjv_updateScene(self._model, data, option, None, self._camera, parts, self._scene)
        for light in self._scene.lights[: self._scene.nlight]:
            if not light.headlight:
                light.pos[:] = center[0], center[1], 4.0
                light.dir[:] = 0.25, 0.2, -1.0
        self._add_ruler(center)
        pixels = np.empty((HEIGHT, WIDTH, 3), np.uint8)
        mujoco.mjr_render(VIEW, self._scene, self._context)
        mujoco.mjr_readPixels(pixels, None, VIEW, self._context)
        return pixels[::-1]

    def close(self) -> None:
        """Free the OpenGL context and the MuJoCo rendering context."""
        self._gl.make_current()  # free() deletes objects of the current context
        self._context.free()
        self._gl.free()

    def _place_camera(self, data: Any) -> Any:
        """Return a camera that looks along +y and down, at least as steeply as ``track`` does."""
        center, floors = data.subtree_com[self._body], _floors(self._model)
        parts = np.delete(data.geom_xpos, floors, axis=0)
        self._reach = max(0.75, float(np.linalg.norm(parts - center, axis=1).max()))
        self._ground = float(data.geom_xpos[floors[0], 2]) if len(floors) else 0.0
        steepness = np.arcsin(np.clip(-data.cam_xmat[self._track][8], -1, 1))
        camera = mujoco.MjvCamera()
        camera.azimuth = 90.0
        camera.elevation = min(float(np.degrees(steepness)), -15.0)
        camera.distance = 4.0 * self._reach
        camera.lookat[2] = self._ground + 0.8 * (center[2] - self._ground)
        return camera

    def _add_ruler(self, center: NDArray[np.float64]) -> None:
        """Add a labeled mark at every meter along x in front of the robot; x = 0 is red."""
        box, upright = mujoco.mjtGeom.mjGEOM_BOX, np.eye(3).ravel()
        for meter in range(round(center[0]) - 4, round(center[0]) + 5):
            geom = self._scene.geoms[self._scene.ngeom]
            position = np.array([meter, center[1] - self._reach, self._ground])
            color = np.array(GRAY if meter else RED, np.float32)
            mujoco.mjv_initGeom(geom, box, MARK, position, upright, color)
            geom.label = f"{meter} m"
            self._scene.ngeom += 1


def _floors(model: Any) -> NDArray[np.intp]:
    return np.flatnonzero(model.geom_type == mujoco.mjtGeom.mjGEOM_PLANE)


def _restyled(model: Any) -> Any:
    """Return a copy of a model with a light sky, gray 1 m tiles, soft light and no reflections."""
    model = copy.copy(model)
    model.vis.global_.offwidth, model.vis.global_.offheight = WIDTH, HEIGHT
    model.vis.quality.shadowsize = SHADOW_SIZE
    model.vis.map.shadowclip = SHADOW_REACH / model.stat.extent
    model.vis.headlight.ambient[:] = model.vis.headlight.diffuse[:] = 0.35
    model.vis.headlight.specular[:] = model.light_specular[:] = 0.1
    model.light_diffuse[:] = 0.5
    model.mat_reflectance[:] = 0.0
    model.mat_specular[:] = 0.1
    floors = _floors(model)
    model.geom_rgba[floors] = 1.0
    model.geom_size[floors, :2] = FLOOR  # "infinite" planes move with the camera
    materials = [material for material in model.geom_matid[floors] if material >= 0]
    model.mat_texuniform[materials] = True
    model.mat_texrepeat[materials] = 1.0  # tiles of 1 m
    for texture, start in enumerate(model.tex_adr):
        size = model.tex_width[texture] * model.tex_height[texture] * model.tex_nchannel[texture]
        texels = model.tex_data[start : start + size]
        if model.tex_type[texture] == mujoco.mjtTexture.mjTEXTURE_SKYBOX:
            texels.reshape(-1, 3)[:] = SKY
        elif texture in model.mat_texid[materials]:
            texels[:] = np.where(texels < 64, TILES[1], TILES[0])
    return model
