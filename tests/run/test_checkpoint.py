"""Checkpoints survive what disks and processes do."""

import pickle
import resource
import signal
import zipfile

import numpy as np
import pytest
import torch

from unilab.run.checkpoint import CheckpointError, load_checkpoint, save_checkpoint


def test_round_trip_with_arrays(tmp_path):
    path = tmp_path / "deep/er/checkpoint.pt"
    save_checkpoint(path, {"a": torch.arange(3), "b": [1, "x", None], "c": {"d": np.arange(4.0)}})
    content = load_checkpoint(path)
    assert content["a"].tolist() == [0, 1, 2]
    assert content["b"] == [1, "x", None]
    assert content["c"]["d"].tolist() == [0, 1, 2, 3]


@pytest.mark.parametrize("keep", [0, 1, 100, 0.5, 0.99])
def test_truncation_is_detected(keep, tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"a": torch.zeros(1000)})
    data = path.read_bytes()
    path.write_bytes(data[: int(keep * len(data)) if isinstance(keep, float) else keep])
    with pytest.raises(CheckpointError, match="truncated or corrupted"):
        load_checkpoint(path)


def sb3_model(path):
    with zipfile.ZipFile(path, "w") as archive:
        archive.writestr("data", "{}")


@pytest.mark.parametrize(
    "write",
    [
        lambda path: path.write_text("trainer: appo\nenv: Hopper\n"),
        lambda path: path.write_bytes(pickle.dumps({"weights": [1.0]})),
        lambda path: torch.save(torch.nn.Linear(2, 2), path),
        lambda path: torch.save(torch.nn.Linear(2, 2).state_dict(), path),
        lambda path: torch.save([1, 2, 3], path),
        sb3_model,
    ],
    ids=["YAML", "pickle", "a module", "a state dict", "a list", "a zip file"],
)
def test_what_another_program_wrote_is_told_from_a_broken_checkpoint(write, tmp_path):
    write(tmp_path / "file")
    with pytest.raises(CheckpointError, match="not a checkpoint of this program") as raised:
        load_checkpoint(tmp_path / "file")
    assert len(str(raised.value).splitlines()) == 1


def test_a_folder_means_its_newest_checkpoint(tmp_path):
    with pytest.raises(CheckpointError, match=r"checkpoint\.pt: no such checkpoint"):
        load_checkpoint(tmp_path)
    save_checkpoint(tmp_path / "checkpoint.pt", {"a": 1})
    assert load_checkpoint(tmp_path)["a"] == 1


def test_code_is_not_executed(tmp_path):
    class Evil:
        def __reduce__(self):
            return (print, ("executed",))

    path = tmp_path / "evil.pt"
    torch.save({"format": 1, "evil": Evil()}, path)
    with pytest.raises(CheckpointError):
        load_checkpoint(path)


def test_a_failing_write_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"version": 1})
    with pytest.raises(Exception, match="pickle"):
        save_checkpoint(path, {"version": 2, "unpicklable": lambda: 0})
    assert load_checkpoint(path)["version"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_a_write_that_fails_half_way_leaves_the_old_checkpoint(tmp_path):
    path = tmp_path / "checkpoint.pt"
    save_checkpoint(path, {"version": 1})
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    previous = signal.signal(signal.SIGXFSZ, signal.SIG_IGN)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(OSError, match=f"cannot be written: File too large: '{path}'"):
            save_checkpoint(path, {"version": 2, "large": torch.zeros(1_000_000)})
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
        signal.signal(signal.SIGXFSZ, previous)
    assert load_checkpoint(path)["version"] == 1
    assert [p.name for p in tmp_path.iterdir()] == ["checkpoint.pt"]


def test_numbers_of_numpy_are_read_back(tmp_path):
    save_checkpoint(tmp_path / "checkpoint.pt", {"a": [np.float32(0.5), {"b": np.int64(3)}, np.bool_(True)]})
    assert load_checkpoint(tmp_path / "checkpoint.pt")["a"] == [0.5, {"b": 3}, True]


def test_one_flipped_bit_is_detected(tmp_path):
    path = tmp_path / "checkpoint.pt"
    numbers = torch.arange(1000)
    save_checkpoint(path, {"a": numbers})
    data = bytearray(path.read_bytes())
    data[data.index(numbers.numpy().tobytes()) + 100] ^= 1
    path.write_bytes(data)
    with pytest.raises(CheckpointError, match=r"truncated or corrupted \(.*data/0\); use an earlier checkpoint"):
        load_checkpoint(path)
