"""What trying another configuration is expected to bring, from those that were tried and from what was predicted.

Efficient global optimization (Jones et al. 1998, doi:10.1023/A:1008306431147): a Gaussian process says how good each
configuration may be, and with it how much better than the best so far it is expected to be. The process is not fitted
to a handful of values: many are drawn, and each counts by how well it explains the values (Snoek et al. 2012,
arXiv:1206.2944, integrate over them in the same way).
"""

import numpy as np
from numpy.typing import NDArray
from scipy.special import ndtr

Array = NDArray[np.float64]

DRAWS = 128
"""processes that are averaged"""
LEVEL = 1.0
"""standard deviation of what all configurations have in common"""
TRUST = (1.0, 0.3)
"""by how much a value grows with its prediction, both as logarithms: mean and standard deviation"""
DEVIATION = (0.15, 0.5)
"""range of the standard deviation from the prediction that the settings explain"""
REACH = (0.02, 2.0)
"""range of how much of that deviation a setting changes, from its one end to the other"""
NOISE = (0.01, 0.06)
"""range of the standard deviation of a measurement"""


def expected_gains(distances: Array, values: Array, predicted: Array, seed: int = 0) -> Array:
    """By how much each configuration is expected to be better than the best of those that were tried.

    Args:
        distances: ``[S, N, T]``, in each of S settings between N configurations and the first T of them, which were
            tried, from 0 to 1.
        values: ``[T]``, logarithms of what was measured, more is better.
        predicted: ``[N]``, logarithms of what was predicted; equal where nothing is known.

    Returns:
        ``[N]``, differences of logarithms, 0 or more: what is measured again is expected to bring something, too.
    """
    random, tried = np.random.default_rng(seed), slice(len(values))
    predicted = predicted - predicted[tried].mean()
    residuals = values - TRUST[0] * predicted[tried]
    residuals = residuals - residuals.mean()
    common = LEVEL**2 + TRUST[1] ** 2 * np.outer(predicted, predicted[tried])
    own = LEVEL**2 + TRUST[1] ** 2 * predicted**2
    gains, evidence = np.zeros((DRAWS, len(predicted))), np.zeros(DRAWS)
    for draw in range(DRAWS):
        deviation, noise = _drawn(random, DEVIATION), _drawn(random, NOISE)
        reach = [_drawn(random, REACH) for _ in distances]
        shared = common + deviation**2 * np.exp(-np.tensordot(reach, distances, 1))
        factor = np.linalg.cholesky(shared[tried] + noise**2 * np.eye(len(values)))
        whitened = np.linalg.solve(factor, np.column_stack([residuals, shared.T]))
        evidence[draw] = -0.5 * whitened[:, 0] @ whitened[:, 0] - np.log(np.diag(factor)).sum()
        mean = TRUST[0] * predicted + whitened[:, 1:].T @ whitened[:, 0]
        spread = np.sqrt(np.maximum(own + deviation**2 - (whitened[:, 1:] ** 2).sum(0), 1e-12))
        ahead = mean - mean[tried].max()
        score = ahead / spread
        gains[draw] = ahead * ndtr(score) + spread * np.exp(-0.5 * score**2) / np.sqrt(2 * np.pi)
    weights = np.exp(evidence - evidence.max())
    return np.asarray(weights @ gains / weights.sum())


def _drawn(random: np.random.Generator, ends: tuple[float, float]) -> float:
    """From a range on a logarithmic scale."""
    low, high = np.log(ends)
    return float(np.exp(random.uniform(low, high)))
