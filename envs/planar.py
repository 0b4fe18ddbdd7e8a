"""Where the mass of a planar robot is and how it moves, in closed form for many rows at once."""

from typing import Any, NamedTuple

import numpy as np

from metarl.envs.base import Array


def center_of_mass(model: Any, qpos: Array, qvel: Array) -> tuple[Array, Array]:
    """Compute the center of mass of a robot in the x-z plane, and its velocity.

    MuJoCo knows both (``subtree_com``, ``subtree_linvel``), but a rollout would report them for the
    state before its last substep, and one more substep costs as much as the physics itself.

    Args:
        model: A model whose first joints are slides along x and z and a hinge about y, and whose
            other bodies each have one hinge about y at their origin (checked by a test).
        qpos: Positions (rows, nq).
        qvel: Velocities (rows, nv).

    Returns:
        Position (rows, 3) and velocity (rows, 3).
    """
    columns = np.ascontiguousarray(qpos.T), np.ascontiguousarray(qvel.T)
    (x, z, pitch), (dx, dz, rate) = (c[:3] for c in columns)
    height = model.body_pos[1]
    frames = {1: _frame((x + height[0], z + height[2], dx, dz), pitch, rate)}
    total = [np.zeros(len(qpos)) for _ in range(4)]
    for body in range(1, model.nbody):
        if body > 1:
            parent, joint = frames[model.body_parentid[body]], model.body_jntadr[body]
            at = _carried(parent, model.body_pos[body])
            turned = parent.pitch + columns[0][joint], parent.rate + columns[1][joint]
            frames[body] = _frame(at, *turned)
        mass = model.body_mass[body] / model.body_subtreemass[1]
        moved = _carried(frames[body], model.body_ipos[body])
        total = [t + mass * m for t, m in zip(total, moved, strict=True)]
    x, z, dx, dz = total
    still = np.zeros_like(x)
    return np.stack([x, still, z], axis=1), np.stack([dx, still, dz], axis=1)


class _Frame(NamedTuple):
    """Frames of one body: position, velocity, pitch with its sine and cosine, pitch rate."""

    at: tuple[Array, ...]
    pitch: Array
    rate: Array
    sine: Array
    cosine: Array


def _frame(at: tuple[Array, ...], pitch: Array, rate: Array) -> _Frame:
    return _Frame(at, pitch, rate, np.sin(pitch), np.cos(pitch))


def _carried(frame: _Frame, offset: Array) -> tuple[Array, ...]:
    """Return (x, z, ẋ, ż) of a point fixed to a frame; pitch turns x towards −z, as about +y."""
    x, z, dx, dz = frame.at
    along = offset[0] * frame.cosine + offset[2] * frame.sine
    up = offset[2] * frame.cosine - offset[0] * frame.sine
    return x + along, z + up, dx + frame.rate * up, dz - frame.rate * along
