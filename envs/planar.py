"""The center of mass of a planar robot, computed in closed form for many states at once."""

from typing import Any

import numpy as np

from metarl.envs.base import Array


class PlanarMass:
    """The center of mass of a robot in the x-z plane, as a function of the state.

    MuJoCo also computes the center of mass and the velocity of this point
    (``subtree_com``, ``subtree_linvel``). However, a rollout reports both for
    the state before the last substep, and an additional substep would double
    the simulation time of environments with one substep.

    The rotation of a body also rotates all attached bodies. The center of
    mass is therefore the position of the root plus a sum of one vector per
    body, rotated by the pitch of the body. The vector is the mass moment of
    the body and of the attached joints, divided by the total mass.
    """

    def __init__(self, model: Any) -> None:
        """Read masses and lengths from a MuJoCo model.

        Args:
            model: A model with a root that slides along x and z and rotates
                about y. Every other body must have one hinge about y at the
                origin of the body. These requirements are not checked.
        """
        self._parents = model.body_parentid[2:] - 1
        self._joints = model.body_jntadr[2:].copy()
        self._root = model.body_pos[1].copy()
        moments = model.body_mass[:, None] * model.body_ipos
        for body in range(2, model.nbody):
            parent = model.body_parentid[body]
            moments[parent] += model.body_subtreemass[body] * model.body_pos[body]
        self._along, _, self._up = (moments[1:] / model.body_subtreemass[1]).T[..., None]

    def center(self, qpos: Array, qvel: Array) -> tuple[Array, Array]:
        """Compute the position and the velocity of the center of mass.

        Args:
            qpos: Generalized positions, of shape (batch, nq).
            qvel: Generalized velocities, of shape (batch, nv).

        Returns:
            Positions in m and velocities in m/s, both of shape (batch, 3).
        """
        # Bodies on the first axis: contiguous memory, and the same sums for any number of rows.
        positions, velocities = np.ascontiguousarray(qpos.T), np.ascontiguousarray(qvel.T)
        pitch, rate = self._accumulated(positions), self._accumulated(velocities)
        sine, cosine = np.sin(pitch), np.cos(pitch)  # rotation about +y, from x towards -z
        along = self._along * cosine + self._up * sine
        up = self._up * cosine - self._along * sine
        still = np.zeros(len(qpos))
        x, z = positions[0] + self._root[0], positions[1] + self._root[2]
        center = np.stack([x + along.sum(0), still, z + up.sum(0)], axis=1)
        dx, dz = velocities[0] + (rate * up).sum(0), velocities[1] - (rate * along).sum(0)
        return center, np.stack([dx, still, dz], axis=1)

    def _accumulated(self, joints: Array) -> Array:
        """Sum joint values along the path from the root to each body.

        Args:
            joints: Joint values, of shape (joints, batch).

        Returns:
            The sum for each body, of shape (bodies, batch).
        """
        total = np.empty((1 + len(self._joints), joints.shape[1]))
        total[0] = joints[2]
        for body, (parent, joint) in enumerate(zip(self._parents, self._joints, strict=True), 1):
            np.add(total[parent], joints[joint], out=total[body])
        return total
