"""The machine's description."""

import json
import os
import stat

from harness.measure import host as machine

DESCRIBED = {
    "name": "Node_7.example.org",
    "cpu": "A CPU with a very long name that does not fit into what is left of a line of eighty columns",
    "cores_physical": 8,
    "cores_logical": 16,
    "cores_usable": 12,
    "cpu_features": ["avx2", "avx512f", "avx512_bf16"],
    "ram_total": 64 * 2**30,
    "ram_available": 32 * 2**30,
    "shm_total": None,
    "shm_free": None,
    "gpus": [{"index": 0, "name": "GPU X", "memory_total": 24 * 2**30, "memory_free": 2**30, "driver": "1"}],
    "os": "Linux 6",
    "architecture": "x86_64",
    "python": "3.12.0",
    "versions": {"torch": "2.13.0", "mujoco": "4.0.0"},
}


def test_this_machine_is_described_in_json():
    described = machine.describe()
    assert json.loads(json.dumps(described)) == described
    assert described.keys() == DESCRIBED.keys()
    assert 1 <= described["cores_usable"] <= described["cores_logical"] == os.cpu_count()
    assert 0 < described["ram_available"] <= described["ram_total"]
    assert {"torch", "numpy", "mujoco", "gymnasium"} <= described["versions"].keys()


def test_fingerprint_names_host_and_hardware():
    name = machine.fingerprint(DESCRIBED)
    assert name.startswith("node-7-") and len(name) == len("node-7-") + 6
    # What changes without a change of hardware must not split a history.
    assert machine.fingerprint(DESCRIBED | {"versions": {}, "python": "3.13.1", "ram_available": 1}) == name
    assert machine.fingerprint(DESCRIBED | {"ram_total": 64 * 2**30 - 2**20}) == name
    assert machine.fingerprint(DESCRIBED | {"cores_usable": 4}) != name
    assert machine.fingerprint(DESCRIBED | {"gpus": []}) != name


def test_fingerprint_of_this_machine_is_stable():
    assert machine.fingerprint() == machine.fingerprint(machine.describe())


def test_table_fits_80_columns_and_says_it_all():
    table = machine.table(DESCRIBED)
    assert max(len(line) for line in table.splitlines()) <= 80
    words = " ".join(table.split())
    for part in ("Node_7", "16 logical, 12 usable", "avx512_bf16", "64.0 GiB", "absent", "GPU X, 24.0 GiB", "mujoco"):
        assert part in words
    assert DESCRIBED["cpu"] in words


def test_gpus_are_those_that_the_driver_lists(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    lines = ("0, 143771, 143000, 570.1, NVIDIA H200, special", "1, [N/A], [N/A], 570.1, GB10")
    tool.write_text("#!/bin/sh\n" + "".join(f"echo '{line}'\n" for line in lines))
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    first, second = machine.describe()["gpus"]
    assert first == {
        "index": 0,
        "name": "NVIDIA H200, special",
        "memory_total": 143771 * 2**20,
        "memory_free": 143000 * 2**20,
        "driver": "570.1",
    }
    assert second["memory_total"] is None  # memory that it shares with the CPU
    assert "GB10, unknown size" in " ".join(machine.table(machine.describe()).split())


def test_a_driver_that_fails_means_no_gpus(tmp_path, monkeypatch):
    tool = tmp_path / "nvidia-smi"
    tool.write_text("#!/bin/sh\necho 'NVIDIA-SMI has failed'\nexit 9\n")
    tool.chmod(tool.stat().st_mode | stat.S_IXUSR)
    monkeypatch.setenv("PATH", f"{tmp_path}:{os.environ['PATH']}")
    assert machine.describe()["gpus"] == []
