"""Devices that exist, cores that may be used, and how a run divides them."""

import dataclasses
import os
import subprocess
import sys
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from unilab.algos.torch.appo.config import AlgorithmConfig, APPOConfig
from unilab.machine import cgroups, devices
from unilab.machine.devices import DeviceError, Threads, available_devices, check_device, split_threads, usable_cores


def test_cpu_exists_everywhere_and_is_first():
    assert available_devices()[0] == "cpu"
    for name in available_devices():
        assert check_device(name) == name


def test_absent_device_is_named_with_the_setting_and_what_exists():
    with pytest.raises(DeviceError, match=r"learner_device: there is no device 'cuda:97' .* use one of: cpu"):
        check_device("cuda:97", "learner_device")


def test_checking_the_cpu_loads_no_torch():
    code = "import sys; from unilab.machine import devices; devices.check_device('cpu'); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"


@pytest.mark.parametrize(("quota", "expected"), [(None, 8), (2.9, 2), (0.5, 1), (64.0, 8)])
def test_usable_cores_is_the_affinity_cut_to_the_quota(monkeypatch, quota, expected):
    monkeypatch.setattr(os, "sched_getaffinity", lambda _: set(range(8)), raising=False)
    monkeypatch.setattr(devices, "cpu_quota", lambda: quota)
    assert usable_cores() == expected


def _write(root: Path, files: dict[str, str]) -> Path:
    for name, text in files.items():
        path = root / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    return root


def test_quota_of_version_2_is_the_tightest_of_the_group_and_its_parents(tmp_path):
    files = {
        "proc/self/cgroup": "0::/pod/job\n",
        "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/pod/job/cpu.max": "max 100000\n",
    }
    assert cgroups.cpu_quota(_write(tmp_path, files)) == 1.5


def test_time_stopped_by_a_quota_is_the_longest_of_the_groups_that_have_one(tmp_path):
    files = {
        "proc/self/cgroup": "0::/pod/job\n",
        "sys/fs/cgroup/pod/cpu.max": "150000 100000\n",
        "sys/fs/cgroup/pod/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 2500000\n",
        "sys/fs/cgroup/pod/job/cpu.max": "max 100000\n",
        "sys/fs/cgroup/pod/job/cpu.stat": "usage_usec 9\nnr_throttled 3\nthrottled_usec 9000000\n",
    }
    assert cgroups.throttled_seconds(_write(tmp_path / "v2", files)) == 2.5
    files = {
        "proc/self/cgroup": "3:cpu:/job\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/job/cpu.stat": "nr_periods 7\nnr_throttled 3\nthrottled_time 1500000000\n",
    }
    assert cgroups.throttled_seconds(_write(tmp_path / "v1", files)) == 1.5


def test_quota_and_memory_of_version_1(tmp_path):
    files = {
        "proc/self/cgroup": "4:memory:/job\n3:cpu,cpuacct:/job\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_quota_us": "300000\n",
        "sys/fs/cgroup/cpu/job/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/cpu/cpu.cfs_quota_us": "-1\n",
        "sys/fs/cgroup/cpu/cpu.cfs_period_us": "100000\n",
        "sys/fs/cgroup/memory/job/memory.limit_in_bytes": "1000\n",
        "sys/fs/cgroup/memory/job/memory.usage_in_bytes": "700\n",
        "sys/fs/cgroup/memory/job/memory.stat": "cache 400\ntotal_inactive_file 300\n",
        "sys/fs/cgroup/memory/memory.limit_in_bytes": "9223372036854771712\n",
        "sys/fs/cgroup/memory/memory.usage_in_bytes": "5000\n",
    }
    _write(tmp_path, files)
    assert cgroups.cpu_quota(tmp_path) == 3.0
    assert cgroups.memory_limit(tmp_path) == cgroups.MemoryLimit(limit=1000, used=400)


def test_memory_limit_of_version_2_leaves_the_reclaimable_cache_free(tmp_path):
    files = {
        "proc/self/cgroup": "0::/job\n",
        "sys/fs/cgroup/job/memory.max": "1000\n",
        "sys/fs/cgroup/job/memory.current": "900\n",
        "sys/fs/cgroup/job/memory.stat": "anon 500\ninactive_file 250\n",
    }
    limit = cgroups.memory_limit(_write(tmp_path, files))
    assert limit is not None and limit.free == 350


def test_no_control_groups_means_no_limit(tmp_path):
    assert cgroups.cpu_quota(tmp_path) is None
    assert cgroups.throttled_seconds(tmp_path) is None
    assert cgroups.memory_limit(tmp_path) is None


def _config(**changes: object) -> APPOConfig:
    sizes = APPOConfig(num_envs=256, steps_per_env=16)  # of which 16 learner threads have enough rows each
    return dataclasses.replace(sizes, **changes)


@pytest.mark.parametrize(
    ("config", "cores", "expected"),
    [
        (_config(mode="sync"), 2, Threads(2, 1, 2)),
        (_config(mode="async"), 2, Threads(2, 1, 2)),
        (_config(mode="async"), 1, Threads(1, 1, 1)),
        # 27 us / 3 + 3 us = 12 us a step beside 60 us / 5 = 12 us
        (_config(mode="async"), 8, Threads(3, 1, 5)),
        (_config(mode="async", learner_device="cuda"), 16, Threads(15, 1, 1)),
        (_config(mode="async", learner_device="cuda"), 1, Threads(1, 1, 1)),
        (_config(mode="sync", learner_device="cuda"), 16, Threads(16, 2, 1)),
        (_config(mode="async", env_threads=6), 16, Threads(6, 1, 10)),
        (_config(mode="async", learner_threads=3), 16, Threads(13, 1, 3)),
        (_config(env_threads=7, inference_threads=5, learner_threads=9), 2, Threads(7, 5, 9)),
    ],
)
def test_split_of_known_machines(config, cores, expected):
    assert split_threads(config, cores) == expected


def test_fewer_epochs_move_cores_to_the_physics():
    two = _config(algorithm=AlgorithmConfig(num_learning_epochs=2))
    assert split_threads(two, 16).env > split_threads(_config(), 16).env


@given(
    cores=st.integers(1, 256),
    mode=st.sampled_from(["sync", "async"]),
    learner=st.sampled_from(["cpu", "cuda"]),
    stated=st.fixed_dictionaries(
        {name: st.none() | st.integers(1, 64) for name in ("env_threads", "inference_threads", "learner_threads")}
    ),
)
def test_every_split_is_positive_keeps_what_is_stated_and_fits_where_cores_are_divided(cores, mode, learner, stated):
    threads = split_threads(_config(mode=mode, learner_device=learner, **stated), cores)
    given_threads = Threads(*(stated[name] for name in ("env_threads", "inference_threads", "learner_threads")))
    for actual, wanted in zip(dataclasses.astuple(threads), dataclasses.astuple(given_threads), strict=True):
        assert actual >= 1 and wanted in (None, actual)
    if not any(stated.values()):
        assert max(dataclasses.astuple(threads)) <= cores
        if mode == "async" and cores > devices.FEW_CORES:
            assert threads.env + threads.learner == cores
