"""Which pipeline is built."""

from typing import Any

import pytest
import torch

from tests.ipc.replay_pipelines.rows import BATCH, MakeReplay
from unilab.ipc.replay_pipelines import build_pipeline
from unilab.ipc.replay_pipelines.choose import choose_kind


def test_the_kind_follows_from_device_and_budget(monkeypatch: pytest.MonkeyPatch) -> None:
    cases: list[tuple[Any, str, int | None, str]] = [
        ("auto", "cpu", None, "direct"),
        ("auto", "cpu", 10**12, "direct"),
        ("auto", "cuda", 1000, "device"),
        ("auto", "cuda:1", 999, "prefetch"),
        ("direct", "cuda", 1000, "direct"),
        ("prefetch", "cpu", None, "prefetch"),
        ("prefetch", "cuda", 1000, "prefetch"),
        ("device", "cuda", 0, "device"),
    ]
    for kind, device, budget, expected in cases:
        assert choose_kind(kind, 1000, device, device_budget_bytes=budget) == expected, (kind, device, budget)
    for free, expected in ((2000, "device"), (1999, "prefetch")):  # by default half of the free memory
        monkeypatch.setattr(torch.cuda, "mem_get_info", lambda device, free=free: (free, 10**9))
        assert choose_kind("auto", 1000, "cuda") == expected


def test_a_kind_that_cannot_be_is_refused(make_replay: MakeReplay) -> None:
    replay = make_replay(4)
    with pytest.raises(ValueError, match=r"keeps the rows on an accelerator, .* is cpu; use 'auto', 'direct'"):
        build_pipeline("device", replay, BATCH, "cpu")
    with pytest.raises(ValueError, match="unknown kind 'pinned'; use one of: auto, direct, prefetch, device"):
        build_pipeline("pinned", replay, BATCH, "cpu")  # type: ignore[arg-type]
