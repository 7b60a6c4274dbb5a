"""Distributions of actions against torch.distributions and sampling."""

import math
from collections.abc import Callable

import pytest
import torch
from torch import Tensor
from torch.distributions import Categorical as TorchCategorical
from torch.distributions import Independent, Normal, TransformedDistribution
from torch.distributions.transforms import TanhTransform

from unilab.algos.torch.networks.distributions import (
    LOG_STD_MAX,
    LOG_STD_MIN,
    Categorical,
    DiagonalGaussian,
    Distribution,
    SquashedGaussian,
)

ROWS, ACTIONS, CHOICES = 7, 3, 5
MANY = 100_000


def draw(*shape: int, seed: int = 0) -> Tensor:
    return torch.randn(*shape, generator=torch.Generator().manual_seed(seed))


def gaussian(seed: int, rows: int = ROWS) -> DiagonalGaussian:
    return DiagonalGaussian(draw(rows, ACTIONS, seed=seed), 0.5 * draw(ACTIONS, seed=seed + 100))


def squashed(seed: int, rows: int = ROWS) -> SquashedGaussian:
    return SquashedGaussian.of_outputs(draw(rows, 2 * ACTIONS, seed=seed))


def categorical(seed: int, rows: int = ROWS) -> Categorical:
    return Categorical(2 * draw(rows, CHOICES, seed=seed))


def torch_gaussian(one: DiagonalGaussian) -> Independent:
    return Independent(Normal(one.mean, one.log_std.exp().expand(one.mean.shape)), 1)


def torch_squashed(one: SquashedGaussian) -> TransformedDistribution:
    return TransformedDistribution(torch_gaussian(one), [TanhTransform(cache_size=1)])


def torch_categorical(one: Categorical) -> TorchCategorical:
    return TorchCategorical(logits=one.log_probs)


KINDS: dict[str, Callable[..., Distribution]] = {
    "gaussian": gaussian, "squashed": squashed, "categorical": categorical
}  # fmt: skip


def repeated(kind: str, seed: int = 0) -> Distribution:
    """One row many times."""
    one: dict[str, Callable[[], Distribution]] = {
        "gaussian": lambda: DiagonalGaussian(draw(ACTIONS, seed=seed).expand(MANY, -1), 0.5 * draw(ACTIONS, seed=1)),
        "squashed": lambda: SquashedGaussian.of_outputs(draw(2 * ACTIONS, seed=seed).expand(MANY, -1)),
        "categorical": lambda: Categorical(draw(CHOICES, seed=seed).expand(MANY, -1)),
    }
    return one[kind]()


def test_log_probs_are_those_of_torch() -> None:
    actions = draw(ROWS, ACTIONS, seed=9)
    torch.testing.assert_close(gaussian(0).log_prob(actions), torch_gaussian(gaussian(0)).log_prob(actions))
    within = actions.tanh()
    wanted = torch_squashed(squashed(0)).log_prob(within)
    torch.testing.assert_close(squashed(0).log_prob(within), wanted, rtol=1e-4, atol=1e-4)
    choices = torch.arange(ROWS) % CHOICES
    found = categorical(0).log_prob(choices[:, None].float())
    torch.testing.assert_close(found, torch_categorical(categorical(0)).log_prob(choices))


@pytest.mark.parametrize("kind", KINDS)
def test_a_sample_has_its_log_prob_and_is_repeated_by_its_noise(kind: str) -> None:
    one = KINDS[kind](0)
    noise = one.noise(torch.Generator().manual_seed(3))
    assert torch.equal(noise, one.noise(torch.Generator().manual_seed(3)))
    actions, log_probs = one.sample_with_log_prob(noise)
    assert torch.equal(actions, one.sample(noise))
    assert actions.shape == (ROWS, 1 if kind == "categorical" else ACTIONS) and actions.dtype == torch.float32
    torch.testing.assert_close(log_probs, one.log_prob(actions), rtol=1e-3, atol=1e-3)
    assert one.mode.shape == actions.shape and one.entropy().shape == log_probs.shape == (ROWS,)


@pytest.mark.parametrize("kind", KINDS)
def test_entropy_and_kl_are_the_means_over_samples(kind: str) -> None:
    one, other = repeated(kind), repeated(kind, seed=5)
    actions, log_probs = one.sample_with_log_prob(one.noise(torch.Generator().manual_seed(0)))
    error = 5 * log_probs.std() / math.sqrt(MANY)
    assert one.entropy()[0].item() == pytest.approx(-log_probs.mean().item(), abs=error.item())
    ratios = log_probs - other.log_prob(actions)
    error = 5 * ratios.std() / math.sqrt(MANY)
    assert one.kl(other)[0].item() == pytest.approx(ratios.mean().item(), abs=error.item())
    torch.testing.assert_close(one.kl(one), torch.zeros(MANY), rtol=0, atol=1e-6)


@pytest.mark.parametrize("log_std", [LOG_STD_MIN, 0.0, LOG_STD_MAX])
@pytest.mark.parametrize("mean", [0.0, 1.5, -4.0])
def test_the_squashed_entropy_is_that_of_a_fine_sum(mean: float, log_std: float) -> None:
    found = SquashedGaussian(torch.tensor([mean]), torch.tensor([log_std])).entropy().item()
    u = torch.linspace(mean - 10 * math.exp(log_std), mean + 10 * math.exp(log_std), 200_001, dtype=torch.float64)
    density = Normal(mean, math.exp(log_std)).log_prob(u)
    log_prob = density - 2 * (math.log(2) - u - torch.nn.functional.softplus(-2 * u))
    assert found == pytest.approx(-torch.trapezoid(density.exp() * log_prob, u).item(), abs=1e-3)


def test_modes() -> None:
    assert torch.equal(gaussian(0).mode, gaussian(0).mean)
    assert torch.equal(squashed(0).mode, squashed(0).mean.tanh())
    assert torch.equal(categorical(0).mode, categorical(0).log_probs.argmax(-1, keepdim=True).float())


def test_squashed_samples_stay_finite_at_the_edges() -> None:
    far = SquashedGaussian(torch.tensor([[30.0, -30.0]]), torch.zeros(1, 2))
    actions, log_probs = far.sample_with_log_prob(torch.zeros(1, 2))
    assert actions.abs().max() <= 1
    assert torch.isfinite(log_probs).all() and torch.isfinite(far.log_prob(actions)).all()
