"""V-trace: off-policy corrected returns (Espeholt et al. 2018, IMPALA, arXiv:1802.01561)."""

import torch
from torch import Tensor


@torch.no_grad()
def vtrace_advantages(
    behavior_log_probs: Tensor,
    target_log_probs: Tensor,
    rewards: Tensor,
    values: Tensor,
    bootstrap_values: Tensor,
    dones: Tensor,
    gamma: float = 0.99,
    clip_rho: float = 1.0,
    clip_c: float = 1.0,
    *,
    lam: float = 1.0,
) -> tuple[Tensor, Tensor]:
    """V-trace value targets and policy-gradient advantages (Espeholt et al. 2018, section 4 and remark 2).

    With rho_t = min(clip_rho, pi/mu), c_t = lam * min(clip_c, pi/mu) and
    delta_t = rho_t (r_t + gamma V_{t+1} - V_t)::

        vs_t        = V_t + delta_t + gamma c_t (vs_{t+1} - V_{t+1})
        advantage_t = rho_t (r_t + gamma (V_{t+1} + lam (vs_{t+1} - V_{t+1})) - V_t)

    With lam = 1 both are those of the paper; when behaviour and target agree, the advantage is GAE(lam).

    Args:
        behavior_log_probs: [T, N] log probability of the actions under the policy that acted.
        target_log_probs: [T, N] the same under the target policy.
        rewards: [T, N], time-out bootstrap already added where an episode was truncated.
        values: [T, N] V(x_t).
        bootstrap_values: [N] V(x_T), of the observation behind the last step.
        dones: [T, N] 1 where the episode ended at that step, by termination or truncation.
        gamma: discount a step.
        clip_rho: bound of the importance weight of a temporal difference.
        clip_c: bound of the importance weights that carry a difference back in time.
        lam: lambda of the trace.

    Returns:
        vs [T, N] and advantages [T, N].
    """
    ratios = torch.exp(target_log_probs - behavior_log_probs)
    rhos = ratios.clamp(max=clip_rho)
    discounts = gamma * (1 - dones)
    next_values = torch.cat([values[1:], bootstrap_values[None]])
    deltas = rhos * (rewards + discounts * next_values - values)
    carries = discounts * lam * ratios.clamp(max=clip_c)
    excess = torch.zeros_like(values)  # vs_t - V_t
    following = torch.zeros_like(bootstrap_values)
    for t in reversed(range(len(rewards))):
        following = torch.addcmul(deltas[t], carries[t], following)
        excess[t] = following
    next_excess = torch.cat([excess[1:], torch.zeros_like(bootstrap_values)[None]])
    return values + excess, deltas + rhos * discounts * lam * next_excess
