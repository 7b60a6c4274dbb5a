"""Contact forces on the bodies of a model, exactly as gymnasium's v5 tasks have them."""

from abc import abstractmethod

import mujoco
import numpy as np

from unilab.envs.mujoco_env import MujocoVecEnv


class ContactForcesVecEnv(MujocoVecEnv):
    """Base of tasks whose observation or reward has contact forces, which settings can leave out."""

    @property
    @abstractmethod
    def uses_forces(self) -> bool:
        """Whether the settings ask for the forces; otherwise they are not computed."""

    @property
    def persistent(self) -> bool:
        return self.uses_forces

    def new_forces(self) -> np.ndarray:
        """[N, bodies, 6] zeros: torque and force on each body, the world's included. Call it in ``bind_state``."""
        self._contacts = self.batch.bind("ncon")
        self._scratch = mujoco.MjData(self.model)
        return np.zeros((self.num_envs, self.model.nbody, 6))

    def compute_forces(self, out: np.ndarray) -> None:
        """Contact forces as gymnasium has them: ``mj_rnePostConstraint`` on the state that the step left.

        Under RK4 that is the integrator's last stage, which no sensor and no batch field shows; hence the loop. It
        takes only the simulations in contact, and threads do not make it faster: the calls hold the GIL.
        """
        out.fill(0)
        for row in self._contacts.nonzero()[0].tolist():
            self.batch.get_data(row, self._scratch)
            mujoco.mj_rnePostConstraint(self.model, self._scratch)
            out[row] = self._scratch.cfrc_ext
