"""Memory of past runs: what is learned from it, and that the check stays on the safe side."""

import dataclasses
import json
from concurrent.futures import ThreadPoolExecutor

import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.measure.record import Record
from harness.predict import calibration
from harness.predict import memory as budget
from harness.predict import plan as plans
from harness.predict.calibration import BOUNDS, KEPT, SAFE_BOUNDS, Factor, Ratio, factor
from harness.predict.plan import Plan

TRAINER = "tests.harness.fake_trainer:FakeTrainer"
RECORD = Record("s", 0, 0, "complete", budget_host_bytes=1000, peak_host_bytes=1100)


def peak(size: int) -> Record:
    return dataclasses.replace(RECORD, peak_host_bytes=size)


def past(*sizes: int, code: str = "") -> list[Ratio]:
    """Runs for which 1,000 bytes were predicted."""
    return [Ratio(size / 1000, code) for size in sizes]


def test_from_three_runs_on_the_median_is_expected_and_the_upper_quantile_is_safe() -> None:
    assert factor(past(1100, 1100)) == factor([]) == Factor()
    assert factor(past(1060, 1100, 1300)) == pytest.approx((1.1, 1.3))
    assert factor(past(*range(1001, 1101))) == pytest.approx((1.0505, 1.095))
    assert factor(past(*range(801, 901))) == pytest.approx((0.8505, 1.0)), "never less than predicted"


@given(st.lists(st.integers(1, 10_000), min_size=3))
def test_the_factor_stays_within_its_bounds(sizes: list[int]) -> None:
    expected, safe = factor(past(*sizes))
    assert BOUNDS[0] <= expected <= BOUNDS[1] and SAFE_BOUNDS[0] <= safe <= SAFE_BOUNDS[1]
    assert expected <= safe


def test_what_was_learned_of_other_code_counts_until_enough_is_known_of_this() -> None:
    known = past(1200, 1200, 1200) + past(1000, 1000, code="c")
    assert factor(known, "c").expected == pytest.approx(1.2)
    known += past(1000, code="c")
    assert factor(known, "c") == Factor() and factor(known, "d").expected == pytest.approx(1.1)


def test_studies_that_learn_at_the_same_time_lose_nothing(tmp_path) -> None:
    with ThreadPoolExecutor(8) as pool:
        list(pool.map(lambda size: calibration.add(tmp_path, "appo", peak(size), "c"), range(1000, 1040)))
    assert sorted(calibration.load(tmp_path)["appo"]) == past(*range(1000, 1040), code="c")


def test_trainers_side_by_side_have_a_factor_each(tmp_path) -> None:
    path = tmp_path / "duel.yaml"
    path.write_text(DUEL)
    plan = dataclasses.replace(plans.make(path), calibration={TRAINER: Factor(1.2, 1.2)})
    fits = [plan.fit({"trainer": name}) for name in ("ours", "theirs")]
    assert [fit.expected_host_bytes for fit in fits] == [1200, 1000]


DUEL = """\
name: duel
env: Fake
trainers:
  ours: {trainer: "tests.harness.fake_trainer:FakeTrainer"}
  theirs: {trainer: "tests.harness.described_trainer:DescribedTrainer"}
"""


def test_old_runs_are_forgotten(tmp_path) -> None:
    calibration.save({"appo": past(*range(1, KEPT + 1))}, tmp_path)
    calibration.add(tmp_path, "appo", peak(1100), "c")
    assert calibration.load(tmp_path) == {"appo": past(*range(2, KEPT + 1)) + past(1100, code="c")}


@pytest.mark.parametrize(
    "change", [{"state": "failed"}, {"memory_accounting": "rss"}, {"budget_host_bytes": 0}, {"peak_host_bytes": 0}]
)
def test_what_is_no_measurement_of_the_whole_run_teaches_nothing(tmp_path, change: dict) -> None:
    calibration.add(tmp_path, "appo", dataclasses.replace(RECORD, **change), "c")
    assert calibration.load(tmp_path) == {}


def test_it_is_kept_beside_the_ceilings_and_a_damaged_file_is_no_error(tmp_path) -> None:
    calibration.save({"appo": past(1100)}, tmp_path)
    assert calibration.load(tmp_path) == {"appo": past(1100)}
    path = calibration.path_of(tmp_path)
    assert path.parent == tmp_path / "ceilings" and json.loads(path.read_text())["machine"]
    for damaged in ("", "{}", "[1]", '{"ratios": {"appo": [1.1]}}', '{"ratios": {"appo": ["x"]}}', '{"ratios": 3}'):
        path.write_text(damaged)
        assert calibration.load(tmp_path) == {}
    assert calibration.load(tmp_path / "nowhere") == {}


def test_what_some_runs_took_makes_the_check_stricter_and_less_than_predicted_leaves_it(make_plan) -> None:
    limit = budget.host_limit(0.02)

    def planned(part: float) -> Plan:
        return make_plan("constraints.host_memory_fraction=0.02", f"fixed.host_bytes={round(part * limit)}")

    almost, over = planned(0.9), planned(1.05)
    assert almost.fit({}).fits and not over.fit({}).fits
    strict = dataclasses.replace(almost, calibration={TRAINER: Factor(1.0, 1.2)}).fit({})
    assert not strict.fits and "some past runs took 20% more than predicted" in " ".join(str(strict.reason).split())
    assert strict.host_bytes == almost.fit({}).host_bytes  # the prediction stays the itemised one
    lax = dataclasses.replace(over, calibration={TRAINER: Factor(0.8, 1.0)}).fit({})
    assert not lax.fits and lax.expected_host_bytes == pytest.approx(0.84 * limit, rel=1e-6)


def test_items_and_expectation_are_in_the_fit(make_plan) -> None:
    fit = dataclasses.replace(make_plan(), calibration={TRAINER: Factor(1.1, 1.3)}).fit({})
    assert fit.items == {"ring": 1000} and fit.expected_host_bytes == 1100
