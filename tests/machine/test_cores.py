"""Cores of the two sides: made-up machines of several nodes and hyperthreads, and processes on this one."""

import multiprocessing
import os
from pathlib import Path

import pytest

from unilab.algos.torch.appo.config import APPOConfig
from unilab.algos.torch.appo.runner import APPORunner
from unilab.algos.torch.offpolicy.config import SACConfig, WorkersConfig
from unilab.algos.torch.offpolicy.runner import OffPolicyRunner
from unilab.machine import cores
from unilab.machine.cores import core_sets, kept_to, physical_cores, sets
from unilab.machine.devices import DeviceError, Threads, split_threads, usable_cores
from unilab.settings import SettingsError, parse

TINY = {"num_envs": 4, "network": {"actor": [8], "critic": [8]}, "collector_cores": 1, "learner_cores": 1}
two_cores = pytest.mark.skipif(usable_cores() < 2, reason="needs two cores")


@pytest.fixture
def root(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two nodes of two physical cores with two hyperthreads each: 0 and 4, 1 and 5; 2 and 6, 3 and 7."""
    for node, text in enumerate(("0-1,4-5", "2-3,6-7")):
        folder = tmp_path / f"sys/devices/system/node/node{node}"
        folder.mkdir(parents=True)
        (folder / "cpulist").write_text(f"{text}\n")
    for number in range(8):
        folder = tmp_path / f"sys/devices/system/cpu/cpu{number}/topology"
        folder.mkdir(parents=True)
        (folder / "core_id").write_text(f"{number % 2}\n")
        (folder / "physical_package_id").write_text(f"{number % 4 // 2}\n")
    monkeypatch.setattr(os, "sched_getaffinity", lambda pid: set(range(8)))
    monkeypatch.setattr(cores, "usable_cores", lambda: 8)
    return tmp_path


def test_cores_are_in_order_of_nodes_physical_cores_and_hyperthreads(root: Path) -> None:
    assert [*physical_cores(frozenset(range(8)), root).values()] == [[0, 4], [1, 5], [2, 6], [3, 7]]
    assert [node for node, *_ in physical_cores(frozenset(range(8)), root)] == [0, 0, 1, 1]
    assert [*physical_cores(frozenset({7, 1, 3}), root).values()] == [[1], [3, 7]]
    assert physical_cores(frozenset({2, 0}), root / "nothing") == {(0, 0, 0): [0], (0, 0, 2): [2]}


@pytest.mark.parametrize(
    ("size", "expected"),
    [
        (1, [[0], [1], [2], [3]]),
        (2, [[0, 4], [1, 5], [2, 6], [3, 7]]),
        (3, [[0, 4, 1], [2, 6, 3]]),
        (8, [[0, 4, 1, 5, 2, 6, 3, 7]]),
    ],
)
def test_no_two_sets_of_cores_share_a_physical_one(root: Path, size: int, expected: list[list[int]]) -> None:
    assert core_sets(size, root) == expected


def test_there_are_as_many_sets_of_cores_as_may_be_busy(root: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    with pytest.raises(DeviceError, match="9 cores were asked for, and 8 can be used"):
        core_sets(9, root)
    monkeypatch.setattr(cores, "usable_cores", lambda: 2)  # a quota
    assert core_sets(1, root) == [[0], [1]] and core_sets(2, root) == [[0, 4]]


@pytest.mark.parametrize(
    ("collector", "learner", "expected"),
    [
        (None, None, (None, None)),
        (2, 2, ((0, 4), (3, 7))),
        (4, 4, ((0, 1, 4, 5), (2, 3, 6, 7))),
        (2, 6, ((0, 4), (1, 2, 3, 5, 6, 7))),
        (1, 4, ((0,), (2, 3, 6, 7))),
        (6, 2, ((0, 1, 2, 4, 5, 6), (3, 7))),
        (5, 5, ((0, 1, 2, 4, 5), (2, 3, 5, 6, 7))),
        (3, None, ((0, 1, 4), tuple(range(8)))),
        (None, 2, (tuple(range(8)), (3, 7))),
        ((0, 4), 4, ((0, 4), (2, 3, 6, 7))),
        (3, (0, 1), ((2, 3, 6), (0, 1))),
        ((5, 5, 1), (1,), ((1, 5), (1,))),
    ],
)
def test_counts_are_whole_cores_of_one_node_and_apart_where_there_are_enough(
    root, collector, learner, expected
) -> None:
    assert sets(APPOConfig(collector_cores=collector, learner_cores=learner), root) == expected


def test_one_process_has_no_sides(root: Path) -> None:
    assert sets(APPOConfig(mode="sync", collector_cores=2), root) == (None, None)
    workers = WorkersConfig(kind="processes", count=2)
    assert sets(SACConfig(workers=workers, learner_cores=2), root) == (None, None)
    assert "learner_cores" in APPOConfig(mode="sync").idle and "learner_cores" not in APPOConfig().idle


@pytest.mark.parametrize(
    ("stated", "words"),
    [
        ({"collector_cores": 9}, "collector_cores: 9 were asked for, and 8 can be used here"),
        ({"learner_cores": (1, 8, 64)}, r"learner_cores: this process may not run on \[8, 64\]; it may on 0, 1, 2"),
    ],
)
def test_cores_that_are_not_there_are_named(root: Path, stated: dict, words: str) -> None:
    with pytest.raises(SettingsError, match=words):
        sets(APPOConfig(**stated), root)


@pytest.mark.parametrize("value", [0, [], [-1], "all"])
def test_what_is_no_number_of_cores_is_refused(value: object) -> None:
    with pytest.raises(SettingsError, match="collector_cores"):
        parse(APPOConfig, {"collector_cores": value})


def test_threads_follow_the_cores() -> None:
    assert split_threads(APPOConfig(collector_cores=5, learner_cores=3), 8) == Threads(5, 1, 3)
    assert split_threads(APPOConfig(collector_cores=(0, 1)), 8) == Threads(2, 1, 6)
    assert split_threads(APPOConfig(learner_cores=1, env_threads=3), 2) == Threads(3, 1, 1)
    assert split_threads(APPOConfig(mode="sync", learner_cores=1), 2) == Threads(2, 1, 2)


def affinity(pid: int) -> set[int]:
    """Of all threads of a process."""
    return {core for task in Path(f"/proc/{pid}/task").iterdir() for core in os.sched_getaffinity(int(task.name))}


def test_a_process_has_its_cores_back_afterwards() -> None:
    before = os.sched_getaffinity(0)
    with kept_to((min(before),)):
        assert affinity(os.getpid()) == {min(before)}
    assert os.sched_getaffinity(0) == before


@two_cores
@pytest.mark.parametrize("algorithm", ["appo", "sac"])
def test_both_processes_keep_to_their_cores(algorithm: str) -> None:
    runner: APPORunner | OffPolicyRunner
    if algorithm == "appo":
        runner = APPORunner.from_config(parse(APPOConfig, TINY | {"steps_per_env": 4}))
    else:
        runner = OffPolicyRunner.from_config(parse(SACConfig, TINY | {"batch_size": 8, "learning_starts": 2}))
    before, seen = os.sched_getaffinity(0), []

    def look(_: object) -> bool:
        collectors = (process.pid or 0 for process in multiprocessing.active_children())
        seen.append([affinity(pid) for pid in (os.getpid(), *collectors)])
        return True

    with runner:
        runner.learn(2, 0, None, on_iteration=look)
    learner, collector = seen[-1]
    assert len(learner) == len(collector) == 1 and not learner & collector
    assert runner.config.collector_cores == tuple(collector) and runner.threads == Threads(1, 1, 1)
    assert os.sched_getaffinity(0) == before
