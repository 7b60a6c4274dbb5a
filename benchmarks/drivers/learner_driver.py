"""Measures the update of SAC and TD3 alone: this project's learner, or plain PyTorch. One JSON argument, from
offpolicy_vs_others.py.

Both get the same random transitions of HalfCheetah's size, which are in the learner's memory before time is taken.
"""

import json
import sys
from collections.abc import Callable, Sequence
from typing import Any

import torch
from plain_offpolicy import PLAIN, Transitions
from steady_window import SteadyWindow
from torch import Tensor

OBS_DIM, ACTION_DIM = 17, 6
BATCHES = 4


def random_rows(batch_size: int, device: str) -> dict[str, Tensor]:
    """A batch as ``ReplayBuffer.sample`` returns it: views of packed rows."""
    widths = {"obs": OBS_DIM, "actions": ACTION_DIM, "rewards": 1, "dones": 1, "truncated": 1, "next_obs": OBS_DIM}
    rows = torch.randn(batch_size, sum(widths.values()))
    columns = dict(zip(widths, rows.to(device).split(list(widths.values()), -1), strict=True))
    columns["actions"].tanh_()
    columns["dones"].copy_(columns["dones"] > 2)
    columns["truncated"].copy_((columns["truncated"] > 0) * columns["dones"])
    return {name: column.squeeze(-1) if widths[name] == 1 else column for name, column in columns.items()}


def ours(job: dict[str, Any], rows: Sequence[dict[str, Tensor]], device: str) -> list[Callable[[], object]]:
    """Updates of this project's learner, one a batch."""
    from unilab.algos.torch.offpolicy.config import CONFIGS, SACConfig, TD3Config
    from unilab.algos.torch.offpolicy.sac import SAC
    from unilab.algos.torch.offpolicy.td3 import TD3
    from unilab.machine.devices import usable_cores
    from unilab.settings import parse

    config = parse(
        CONFIGS[job["algorithm"]],
        {
            "batch_size": job["batch_size"],
            "learner_device": device,
            "learner_threads": usable_cores(),
            "network.actor": job["hidden_dims"],
            "network.critic": job["hidden_dims"],
            **job["settings"],
        },
    )
    learner: SAC | TD3
    if isinstance(config, SACConfig):
        learner = SAC(config, OBS_DIM, ACTION_DIM)
    else:
        assert isinstance(config, TD3Config)
        learner = TD3(config, OBS_DIM, ACTION_DIM)
    return [lambda batch=batch: learner.update(batch) for batch in rows]  # type: ignore[misc]


def plain(job: dict[str, Any], rows: Sequence[dict[str, Tensor]], device: str) -> list[Callable[[], object]]:
    """Updates in plain PyTorch, one a batch."""
    torch.set_num_threads(job["settings"]["threads"])
    torch.set_default_device(device)
    learner = PLAIN[job["algorithm"]](OBS_DIM, ACTION_DIM, job["hidden_dims"])
    batches = [
        Transitions(
            batch["obs"].contiguous(),
            batch["actions"].contiguous(),
            batch["rewards"].contiguous(),
            batch["next_obs"].contiguous(),
            batch["dones"] * (1 - batch["truncated"]),
        )
        for batch in rows
    ]
    return [lambda batch=batch: learner.update(batch) for batch in batches]  # type: ignore[misc]


def main(job: dict[str, Any]) -> None:
    device = job["device"]
    torch.manual_seed(0)
    rows = [random_rows(job["batch_size"], device) for _ in range(BATCHES)]
    updates = {"ours": ours, "plain": plain}[job["learner"]](job, rows, device)
    window = SteadyWindow(job["warmup_seconds"], job["seconds"])
    done, over = 0, False
    while not over:
        for update in updates:
            update()
        if device != "cpu":  # what was asked for must also be done
            torch.accelerator.synchronize(device)
        done += len(updates)
        over = window.report(updates=done)
    window.print_result()


if __name__ == "__main__":
    main(json.loads(sys.argv[1]))
