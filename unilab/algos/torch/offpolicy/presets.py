"""Presets of SAC and TD3: settings that belong together by one name, and beside each value where it comes from.

``fast`` is the recipe that the field shares for many environments and large batches: FastTD3 (Seo et al. 2025,
arXiv:2505.22642) and FastSAC (Seo et al. 2025, arXiv:2512.01996), with the values of their authors' implementations.
Those have a range of values for each task. Here the range is one for all tasks, because the rewards are scaled to it,
as in SimbaV2 (Lee et al. 2025, arXiv:2502.15280).
"""

from typing import Any

COMMON: dict[str, Any] = {
    "num_envs": 128,  # FastTD3 on HumanoidBench
    "batch_size": 4096,  # ours: an update in a few tenths of a second on two cores; on a GPU they have 8,192 up
    "learning_starts": 10,  # FastTD3, FastSAC
    "updates_per_step": 2,  # FastTD3
    "obs_normalization": True,  # FastTD3, FastSAC
    "network.layer_norm": True,  # FastSAC
    "algorithm.gamma": 0.99,  # FastTD3 on HumanoidBench
    "algorithm.n_step": 3,  # FastTD3 on the DeepMind Control Suite
    "algorithm.actor_learning_rate": 3e-4,  # FastTD3, FastSAC
    "algorithm.critic_learning_rate": 3e-4,  # FastTD3, FastSAC
    "algorithm.target_reduction": "mean",  # FastSAC
    "algorithm.num_atoms": 101,  # FastTD3, FastSAC
    "algorithm.value_min": -5.0,  # SimbaV2
    "algorithm.value_max": 5.0,  # SimbaV2
    "algorithm.reward_scale": "auto",  # after SimbaV2
}
SAC = {
    "fast": COMMON
    | {
        "algorithm.tau": 0.125,  # FastSAC
        "algorithm.policy_frequency": 4,  # FastSAC
        "algorithm.critic_weight_decay": 0.001,  # FastSAC
        "algorithm.alpha_learning_rate": 3e-4,  # FastSAC
        "algorithm.init_alpha": 0.001,  # FastSAC
        "algorithm.max_alpha": 0.002,  # ours: the entropy's share of the values stays within their range
        "algorithm.target_entropy_scale": 0.0,  # FastSAC
    }
}
TD3 = {
    "fast": COMMON
    | {
        "algorithm.tau": 0.1,  # FastTD3
        "algorithm.policy_frequency": 2,  # FastTD3
        "algorithm.critic_weight_decay": 0.1,  # FastTD3
        "algorithm.target_noise": 0.1,  # FastTD3 on the DeepMind Control Suite
        "algorithm.target_noise_clip": 0.5,  # FastTD3
        "algorithm.exploration_noise_min": 0.1,  # FastTD3 on the DeepMind Control Suite
        "algorithm.exploration_noise_max": 0.4,  # FastTD3
    }
}
