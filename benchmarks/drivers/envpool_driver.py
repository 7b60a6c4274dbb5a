"""Steps EnvPool for as long as it is asked to; runs in an interpreter that has envpool, and needs nothing else.

One JSON object a line on standard input: ``{"task", "num_envs", "batch_size", "threads", "seconds"}``; one a line on
standard output: ``{"steps", "seconds", "core_seconds"}``. ``batch_size`` below ``num_envs`` is EnvPool's asynchronous
mode. A pool is kept for the next question about the same setting.
"""

import json
import sys
import time

import envpool
import numpy as np


class Pool:
    """One EnvPool with random actions for its batches."""

    def __init__(self, task: str, num_envs: int, batch_size: int, threads: int) -> None:
        self.pool = envpool.make_gymnasium(task, num_envs=num_envs, batch_size=batch_size, num_threads=threads, seed=0)
        shape = (16, batch_size, *self.pool.action_space.shape)
        # float64 is what EnvPool's physics takes: it need not convert
        self.actions = np.random.default_rng(0).uniform(-1, 1, shape)
        self.pool.async_reset()
        self.env_ids = self.pool.recv()[-1]["env_id"]

    def run(self, seconds: float) -> dict[str, float]:
        """Env steps made, the seconds that they took, and the processor time of all threads."""
        calls, start, core_start = 0, time.perf_counter(), time.process_time()
        while (spent := time.perf_counter() - start) < seconds:
            self.pool.send(self.actions[calls % 16], self.env_ids)
            self.env_ids = self.pool.recv()[-1]["env_id"]
            calls += 1
        core_seconds = time.process_time() - core_start
        return {"steps": calls * self.actions.shape[1], "seconds": spent, "core_seconds": core_seconds}


def main() -> None:
    pools: dict[tuple[str, int, int, int], Pool] = {}
    for line in sys.stdin:
        asked = json.loads(line)
        setting = (asked["task"], asked["num_envs"], asked["batch_size"], asked["threads"])
        if setting not in pools:
            pools[setting] = Pool(*setting)
            pools[setting].run(0.1)
        print(json.dumps(pools[setting].run(asked["seconds"])), flush=True)


if __name__ == "__main__":
    main()
