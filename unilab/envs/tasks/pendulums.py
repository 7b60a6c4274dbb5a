"""One and two poles on a cart, to be balanced. Semantics of gymnasium's InvertedPendulum-v5 and -DoublePendulum-v5."""

from dataclasses import dataclass

from unilab.envs.mujoco_env import Array, Finite, MujocoSettings, MujocoVecEnv, NonNegative, PositiveInt, State

MAX_ANGLE = 0.2
"""radians; the single pole has fallen beyond it"""
LOWEST_TIP = 1.0
"""metres; the double pole has fallen at it and below"""
MAX_OBSERVED = 10.0
"""of the double pole's velocities and of the force on its cart"""


@dataclass(frozen=True)
class InvertedPendulumSettings(MujocoSettings):
    """Defaults of InvertedPendulum-v5."""

    frame_skip: PositiveInt = 2
    reset_noise_scale: NonNegative = 0.01


class InvertedPendulum(MujocoVecEnv):
    """Observation [N, 4]: positions, velocities. A reward of 1 for each env step until the pole falls."""

    model_file = "inverted_pendulum.xml"
    settings_class = InvertedPendulumSettings

    def observe(self, state: State) -> Array:
        return state.xp.concat([state.qpos, state.qvel], axis=1)

    def evaluate(self, before: State, actions: Array, state: State) -> tuple[Array, Array]:
        fallen = abs(state.qpos[:, 1]) > MAX_ANGLE
        return 1.0 - 1.0 * fallen, fallen


@dataclass(frozen=True)
class InvertedDoublePendulumSettings(MujocoSettings):
    """Defaults of InvertedDoublePendulum-v5."""

    healthy_reward: Finite = 10.0
    """for each env step after which the poles stand"""


@dataclass(frozen=True)
class PolesState(State):
    """What the double pole needs beside positions and velocities, one physics step behind them."""

    tip: Array
    """[N, sites, 3] where the upper pole ends"""
    constraint: Array
    """[N, nv] forces of the constraints on the joints"""


class InvertedDoublePendulum(MujocoVecEnv):
    """Observation [N, 9]: cart, sines and cosines of the angles, clipped velocities, the clipped force on the cart."""

    model_file = "inverted_double_pendulum.xml"
    settings_class = InvertedDoublePendulumSettings
    settings: InvertedDoublePendulumSettings
    velocity_noise = MujocoVecEnv.normal_noise

    def bind_state(self) -> PolesState:
        return PolesState(self.qpos, self.qvel, self.batch.bind("site_xpos"), self.batch.bind("qfrc_constraint"))

    def observe(self, state: PolesState) -> Array:
        xp, angles = state.xp, state.qpos[:, 1:]
        speeds = xp.clip(state.qvel, -MAX_OBSERVED, MAX_OBSERVED)
        force = xp.clip(state.constraint[:, :1], -MAX_OBSERVED, MAX_OBSERVED)
        return xp.concat([state.qpos[:, :1], xp.sin(angles), xp.cos(angles), speeds, force], axis=1)

    def evaluate(self, before: PolesState, actions: Array, state: PolesState) -> tuple[Array, Array]:
        x, height = state.tip[:, 0, 0], state.tip[:, 0, 2]
        fallen = height <= LOWEST_TIP
        distance = 0.01 * x**2 + (height - 2) ** 2
        speed = 1e-3 * state.qvel[:, 1] ** 2 + 5e-3 * state.qvel[:, 2] ** 2
        return self.settings.healthy_reward * ~fallen - distance - speed, fallen
