import json
import math
import os
import resource

import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from harness.files.writing import RecordError
from harness.measure.record import (
    Record,
    RecordFile,
    attempts_that_count,
    median,
    read_records,
    set_bad_lines_aside,
    typical,
    write_atomic,
    write_tables,
)

FIELDS = """
study trial repeat state error seed env_steps_per_second updates_per_second episode_return episodes
policy_lag_mean collector_busy_fraction learner_busy_fraction budget_host_bytes budget_shm_bytes budget_device_bytes
peak_host_bytes peak_shm_bytes peak_device_bytes wall_seconds steady_seconds started_at commit machine
"""


def record(trial: int, repeat: int = 0, **more) -> Record:
    return Record(study="s", trial=trial, repeat=repeat, **{"state": "complete", **more})


@given(
    st.dictionaries(st.text("abc.", min_size=1), st.integers() | st.text() | st.lists(st.integers()), max_size=3),
    st.floats(), st.text() | st.none(),
)  # fmt: skip
def test_a_record_survives_json(params, value, error) -> None:
    one = record(1, params=params, error=error, episode_return=value)
    again = Record.from_flat(json.loads(json.dumps(one.flat(), allow_nan=False)))
    expected = value if math.isfinite(value) else math.nan
    assert repr(again) == repr(record(1, params=params, error=error, episode_return=expected))


def test_a_record_has_the_agreed_fields() -> None:
    flat = record(0, params={"algorithm.gamma": 0.9}).flat()
    assert set(FIELDS.split()) <= set(flat)
    assert flat["params.algorithm.gamma"] == 0.9


@pytest.mark.parametrize("tail", [b'{"study": "s", "tri', b"\x00\xff\x00\n", b'{"trial": 1}', b"[1]\n"])
def test_bad_last_line_is_set_aside_and_the_rest_stays(tmp_path, tail: bytes) -> None:
    path = tmp_path / "trials.jsonl"
    file = RecordFile(path)
    file.append(record(0))
    file.append(record(1))
    good = path.read_bytes()
    path.write_bytes(good + tail)
    assert [r.trial for r in read_records(path)][:2] == [0, 1]
    opened = RecordFile(path)
    assert opened.set_aside is not None and opened.set_aside.read_bytes() == tail
    assert path.read_bytes() == good
    opened.append(record(2))
    assert [r.trial for r in RecordFile(path).records] == [0, 1, 2]
    path.write_bytes(path.read_bytes() + tail)
    second = RecordFile(path).set_aside
    assert second is not None and second != opened.set_aside and opened.set_aside.read_bytes() == tail


def test_a_bad_line_in_the_middle_costs_that_line_only_or_the_rest_of_a_log(tmp_path) -> None:
    text = b'{"a": 1}\nrubbish\n{"a": 2}\n'
    records, log = tmp_path / "r", tmp_path / "l"
    for path in (records, log):
        path.write_bytes(text)
    assert set_bad_lines_aside(records).read_bytes() == b"rubbish\n"
    assert records.read_bytes() == b'{"a": 1}\n{"a": 2}\n'
    assert set_bad_lines_aside(log, cut=True).read_bytes() == b'rubbish\n{"a": 2}\n'
    assert log.read_bytes() == b'{"a": 1}\n'
    assert set_bad_lines_aside(records) is None


def test_a_full_disk_leaves_whole_records_and_says_what_to_do(tmp_path) -> None:
    path = tmp_path / "trials.jsonl"
    file = RecordFile(path)
    file.append(record(0))
    size = path.stat().st_size
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (size + 100, before[1]))  # the next line is cut in its middle
    try:
        with pytest.raises(RecordError, match=r"cannot be written .* run the same command again"):
            file.append(record(1))
        with pytest.raises(RecordError):
            write_atomic(tmp_path / "best.yaml", "x" * (size + 1000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
    assert path.stat().st_size == size
    assert [r.trial for r in RecordFile(path).records] == [0]
    assert [left.name for left in tmp_path.iterdir()] == ["trials.jsonl"]


@pytest.mark.parametrize("umask", [0o022, 0o002, 0o077])
def test_what_is_written_is_readable_as_the_user_says(tmp_path, umask: int) -> None:
    before = os.umask(umask)
    try:
        write_atomic(tmp_path / "study" / "best.yaml", "old")
        write_atomic(tmp_path / "study" / "best.yaml", "new")
        (tmp_path / "study" / "ordinary").touch()
    finally:
        os.umask(before)
    written, ordinary = (tmp_path / "study" / name for name in ("best.yaml", "ordinary"))
    assert written.stat().st_mode == ordinary.stat().st_mode and written.read_text() == "new"
    assert len(list((tmp_path / "study").iterdir())) == 2


def test_median_counts_complete_repeats_only() -> None:
    records = [record(0, i, env_steps_per_second=v) for i, v in enumerate([1.0, 5.0, 3.0, math.nan])]
    assert median([*records, record(0, 4, state="failed", env_steps_per_second=100.0)], "env_steps_per_second") == 3.0
    assert math.isnan(median([], "episode_return"))


def test_returns_are_summed_up_by_their_interquartile_mean_all_else_by_the_median() -> None:
    values = [0.0, 10.0, 20.0, 30.0, 400.0]
    records = [record(0, i, episode_return=v, wall_seconds=v) for i, v in enumerate(values)]
    assert typical(records, "episode_return") == 20.0  # one is left out at each end
    assert typical(records[1:], "episode_return") == (20 + 30) / 2
    assert typical(records[3:], "wall_seconds") == 215.0
    assert math.isnan(typical([record(0)], "return_at_budget"))


@pytest.mark.parametrize(
    ("times", "expected"), [([3.0, math.nan, 5.0], 5.0), ([3.0, math.nan], math.nan), ([4.0], 4.0), ([], math.nan)]
)
def test_who_never_reached_the_target_was_later_than_all_who_did(times: list[float], expected: float) -> None:
    for metric in ("seconds_to_return", "seconds_to_success"):
        records = [record(0, i, **{metric: seconds}) for i, seconds in enumerate(times)]
        failed = record(0, 9, state="failed", **{metric: 1.0})
        assert typical([*records, failed], metric) == pytest.approx(expected, nan_ok=True)


def test_an_attempt_that_failed_does_not_take_the_place_of_a_disturbed_number() -> None:
    first, second = record(0, 0, disturbed="others"), record(0, 0, attempt=1, disturbed="others")
    failed = record(0, 0, attempt=2, state="timeout")
    assert attempts_that_count([first, second, failed]) == [second]
    pruned = record(0, 0, attempt=2, state="pruned")
    assert attempts_that_count([first, pruned]) == [pruned] and attempts_that_count([first, pruned, failed]) == [pruned]
    assert attempts_that_count([failed]) == [failed] and attempts_that_count([failed, second]) == [second]


def test_of_a_repeat_the_least_disturbed_attempt_counts() -> None:
    first = record(0, 0, disturbed="others", disturbance=1.2)
    second = record(0, 0, attempt=1, disturbed="others", disturbance=3.0)
    third = record(0, 0, attempt=2, disturbed="others", disturbance=1.5)
    assert attempts_that_count([first, second, third]) == [first]
    calm = record(0, 0, attempt=3, disturbance=0.4)
    assert attempts_that_count([first, second, third, calm]) == [calm]
    unknown = record(0, 0, attempt=4, disturbed="others")  # of an older version: more than any that is known
    assert attempts_that_count([second, unknown]) == [second] and attempts_that_count([unknown, second]) == [second]


def test_what_was_measured_anew_counts_alone() -> None:
    first = record(0, 0, disturbance=0.1)
    anew = record(0, 0, attempt=1, disturbance=2.0, disturbed="others", anew=True)
    again = record(0, 0, attempt=2, disturbance=1.5, disturbed="others")
    assert attempts_that_count([first, anew]) == [anew]
    assert attempts_that_count([first, anew, again]) == [again]


def test_what_is_said_of_an_attempt_later_takes_its_place(tmp_path) -> None:
    path = tmp_path / "trials.jsonl"
    file = RecordFile(path)
    for repeat in range(2):
        file.append(record(0, repeat))
    file.explain(record(0, 0, verdict="learner-bound"))
    for records in (file.records, RecordFile(path).records, read_records(path)):
        assert [(r.repeat, r.verdict) for r in records] == [(0, "learner-bound"), (1, "")]


def test_the_attempt_that_counts_has_the_curve(tmp_path) -> None:
    first = record(0, 0, disturbed="others", log="a")
    again = record(0, 0, attempt=1, log="b")
    other = record(0, 1, log="c")
    assert attempts_that_count([first, other, again]) == [again, other]
    for one in (first, again, other):
        (tmp_path / one.log).mkdir()
        (tmp_path / one.log / "curve.jsonl").write_text(json.dumps({"log": one.log}) + "\n")
    write_tables(tmp_path, [first, other, again])
    assert list(pd.read_csv(tmp_path / "trials.csv")["counts"]) == [False, True, True]
    assert (tmp_path / "curves.csv").read_text() == "trial,repeat,log\n0,0,b\n0,1,c\n"
