"""What our learners are compared with does the very same update."""

from typing import Any

import pytest
import torch
from learner_driver import ACTION_DIM, OBS_DIM, random_rows
from offpolicy_vs_others import AS_PUBLISHED
from plain_offpolicy import PLAIN, PlainSAC, PlainTD3, Transitions
from torch import Tensor, nn

from unilab.algos.torch.offpolicy.config import CONFIGS
from unilab.algos.torch.offpolicy.networks.critics import EnsembleMLP
from unilab.algos.torch.offpolicy.sac import SAC
from unilab.algos.torch.offpolicy.td3 import TD3
from unilab.settings import parse

ROWS = 64


def linears(network: nn.Module) -> list[nn.Linear]:
    return [module for module in network.modules() if isinstance(module, nn.Linear)]


@torch.no_grad()
def copy_weights(source: nn.Module, targets: list[nn.Module]) -> None:
    for theirs, ours in zip(flattened(targets), layers(source), strict=True):
        theirs.copy_(ours)


def assert_same_weights(source: nn.Module, targets: list[nn.Module]) -> None:
    for theirs, ours in zip(flattened(targets), layers(source), strict=True):
        torch.testing.assert_close(ours, theirs.detach(), rtol=1e-4, atol=1e-5)


def flattened(networks: list[nn.Module]) -> list[Tensor]:
    """Weights and biases of each network's layers."""
    return [tensor for network in networks for linear in linears(network) for tensor in (linear.weight, linear.bias)]


def layers(source: nn.Module) -> list[Tensor]:
    """The same of ours, of which an ensemble has those of all members together."""
    if not isinstance(source, EnsembleMLP):
        return flattened([source])
    members = range(len(source.weights[0]))
    parts = [
        (weight[m].t(), bias[m, 0]) for m in members for weight, bias in zip(source.weights, source.biases, strict=True)
    ]
    return [tensor.detach() for part in parts for tensor in part]


def pairs(learner: SAC | TD3, plain: PlainSAC | PlainTD3) -> list[tuple[nn.Module, list[nn.Module]]]:
    """Our networks and theirs."""
    critics = plain.critics
    found: list[tuple[nn.Module, list[nn.Module]]] = [
        (learner.actor.body, [plain.actor]),
        (learner.critics.body, [critics.first, critics.second]),
        (learner.target_critics.body, [critics.first_target, critics.second_target]),
    ]
    if isinstance(learner, TD3) and isinstance(plain, PlainTD3):
        found.append((learner.target_actor.body, [plain.actor_target]))
    return found


def transitions(rows: dict[str, Tensor]) -> Transitions:
    terminated = rows["dones"] * (1 - rows["truncated"])
    return Transitions(rows["obs"], rows["actions"], rows["rewards"], rows["next_obs"], terminated)


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_same_update_as_our_learner(algorithm: str) -> None:
    torch.manual_seed(0)
    hidden = {"network.actor": [32, 32], "network.critic": [32, 32]}
    config: Any = parse(
        CONFIGS[algorithm], AS_PUBLISHED[algorithm] | {"batch_size": ROWS, "learner_threads": 1, **hidden}
    )
    learner: Any = {"sac": SAC, "td3": TD3}[algorithm](config, OBS_DIM, ACTION_DIM)
    plain = PLAIN[algorithm](OBS_DIM, ACTION_DIM, [32, 32])
    for ours, theirs in pairs(learner, plain):
        copy_weights(ours, theirs)
    noise_source = torch.Generator()
    for _ in range(6):
        rows = random_rows(ROWS, "cpu")
        noise_source.set_state(learner.state_dict()["generator"])
        learner.update(rows)
        plain.update(transitions(rows), torch.randn(2, ROWS, ACTION_DIM, generator=noise_source))
    for ours, theirs in pairs(learner, plain):
        assert_same_weights(ours, theirs)
    if isinstance(plain, PlainSAC):
        torch.testing.assert_close(learner.log_alpha.detach(), plain.log_alpha.detach())
        assert plain.log_alpha.item() != 0
    learner.close()


@pytest.mark.parametrize("algorithm", ["sac", "td3"])
def test_values_approach_those_of_terminated_transitions(algorithm: str) -> None:
    """Nothing follows a terminated transition: its value is its reward, here the first action."""
    torch.manual_seed(0)
    plain = PLAIN[algorithm](OBS_DIM, ACTION_DIM, [32, 32], learning_rate=3e-3)
    rows = random_rows(256, "cpu")
    batch = Transitions(rows["obs"], rows["actions"], rows["actions"][:, 0], rows["next_obs"], torch.ones(256))
    first = plain.update(batch)
    for _ in range(150):
        last = plain.update(batch)
    assert last < 0.1 * first
    mean_action = torch.tanh(plain.actor(rows["obs"])[:, 0]) if algorithm == "sac" else plain.actor(rows["obs"])[:, 0]
    assert mean_action.mean() > 0.3, "the actor follows the critic to the rewarded action"
