"""The Pareto front: what nothing else beats in everything at once."""

from collections.abc import Mapping, Sequence
from typing import Any


def pareto_front(scores: Mapping[int, Sequence[Any]]) -> list[int]:
    """Keys of what no other one beats, in their order.

    Scores are as many numbers of each, or tuples of numbers, none NaN; higher is better in each place. What is nowhere
    worse than another and somewhere better beats it.
    """
    different = {tuple(own) for own in scores.values()}
    best = {
        own
        for own in different
        if not any(all(a >= b for a, b in zip(other, own, strict=True)) for other in different - {own})
    }
    return [key for key, own in scores.items() if tuple(own) in best]
