from harness.stats.pareto import pareto_front


def test_the_front_is_what_nothing_else_beats() -> None:
    assert pareto_front({}) == []
    assert pareto_front({3: [1.0], 1: [2.0], 2: [2.0]}) == [1, 2]  # of equal ones none beats the other
    assert pareto_front({0: [1.0, 9.0], 1: [2.0, 2.0], 2: [1.0, 8.0], 3: [2.0, 1.0], 4: [3.0, 0.0]}) == [0, 1, 4]
