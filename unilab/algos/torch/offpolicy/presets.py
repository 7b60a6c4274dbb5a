"""Presets of SAC and TD3: settings that belong together by one name, and where each value comes from.

``fast`` is the recipe that the field shares for many environments and large batches: FastTD3 (Seo et al. 2025,
arXiv:2505.22642) and FastSAC (Seo et al. 2025, arXiv:2512.01996), with the values of their authors' implementations.
Those have a range of values for each task. Here the range is one for all tasks, because the rewards are scaled to it,
as in SimbaV2 (Lee et al. 2025, arXiv:2502.15280).

The values were compared with FastSAC's in amazon-far/holosoma at 76a52b5 (``config_values/algo.py``), FastTD3's in
younggyoseo/FastTD3 at 070415e (``fast_td3/hyperparams.py``), and SimbaV2's in its authors' code as it stands in
pkicki/SimbaV2 at 5237aaf (``configs/agent/simbaV2.yaml``). FastSAC averages its critics for the actor, and each critic
has a target of its own; here the target is their average, too.
"""

from collections.abc import Mapping
from typing import Any, NamedTuple


class Choice(NamedTuple):
    """A value, and its source in words."""

    value: Any
    source: str


BOTH = "FastTD3, FastSAC"
COMMON = {
    "num_envs": Choice(128, "FastTD3 on HumanoidBench"),
    "batch_size": Choice(4096, "ours: an update in a few tenths of a second on two cores; on a GPU they have 8,192 up"),
    "learning_starts": Choice(10, BOTH),
    "updates_per_step": Choice(2, "FastTD3"),
    "obs_normalization": Choice(True, BOTH),
    "network.layer_norm": Choice(True, "FastSAC"),
    "algorithm.gamma": Choice(0.99, "FastTD3 on HumanoidBench"),
    "algorithm.n_step": Choice(3, "FastTD3 on the DeepMind Control Suite"),
    "algorithm.actor_learning_rate": Choice(3e-4, BOTH),
    "algorithm.critic_learning_rate": Choice(3e-4, BOTH),
    "algorithm.target_reduction": Choice("mean", "FastSAC"),
    "algorithm.num_atoms": Choice(101, BOTH),
    "algorithm.value_min": Choice(-5.0, "SimbaV2"),
    "algorithm.value_max": Choice(5.0, "SimbaV2"),
    "algorithm.reward_scale": Choice("auto", "after SimbaV2"),
}
FAST_SAC = COMMON | {
    "algorithm.tau": Choice(0.125, "FastSAC"),
    "algorithm.policy_frequency": Choice(4, "FastSAC"),
    "algorithm.critic_weight_decay": Choice(0.001, "FastSAC"),
    "algorithm.alpha_learning_rate": Choice(3e-4, "FastSAC"),
    "algorithm.init_alpha": Choice(0.001, "FastSAC"),
    "algorithm.max_alpha": Choice(0.002, "ours: the entropy's share of the values stays within their range"),
    "algorithm.target_entropy_scale": Choice(0.0, "FastSAC"),
}
FAST_TD3 = COMMON | {
    "algorithm.tau": Choice(0.1, "FastTD3"),
    "algorithm.policy_frequency": Choice(2, "FastTD3"),
    "algorithm.critic_weight_decay": Choice(0.1, "FastTD3"),
    "algorithm.target_noise": Choice(0.1, "FastTD3 on the DeepMind Control Suite"),
    "algorithm.target_noise_clip": Choice(0.5, "FastTD3"),
    "algorithm.exploration_noise_min": Choice(0.1, "FastTD3 on the DeepMind Control Suite"),
    "algorithm.exploration_noise_max": Choice(0.4, "FastTD3"),
}
SAC: Mapping[str, Mapping[str, Choice]] = {"fast": FAST_SAC}
TD3: Mapping[str, Mapping[str, Choice]] = {"fast": FAST_TD3}


def values(presets: Mapping[str, Mapping[str, Choice]]) -> dict[str, dict[str, Any]]:
    """Settings of each preset by dotted names, without their sources."""
    return {preset: {name: choice.value for name, choice in chosen.items()} for preset, chosen in presets.items()}
