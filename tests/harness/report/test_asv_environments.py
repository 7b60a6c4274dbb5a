"""The documentation's commands for ranges of commits, in a fresh clone: asv builds its own environments."""

import json
import re
import shutil
import subprocess
import sys
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[3]
MINUTES = 25


def asv(clone: Path, command: str) -> subprocess.CompletedProcess[str]:
    environment = {"PATH": "/usr/local/bin:/usr/bin:/bin", "HOME": str(clone.parent)}
    return subprocess.run(
        [sys.executable, "-m", *command.split(), "--quick", "--show-stderr"], cwd=clone, env=environment,
        capture_output=True, text=True, timeout=MINUTES * 60,
    )  # fmt: skip


@pytest.mark.slow
@pytest.mark.timeout(2 * MINUTES * 60)
def test_ranges_of_commits_from_a_fresh_clone(tmp_path: Path) -> None:
    if shutil.which("git") is None or not (ROOT / ".git").exists():
        pytest.skip("not a git checkout")
    clone = tmp_path / "clone"
    subprocess.run(["git", "clone", "--quiet", str(ROOT), str(clone)], check=True)
    subprocess.run(["git", "checkout", "--quiet", "-B", "main"], cwd=clone, check=True)
    if subprocess.run(["git", "rev-parse", "--verify", "--quiet", "HEAD~1"], cwd=clone, capture_output=True).returncode:
        pytest.skip("a clone of one commit has no range of commits")
    subprocess.run(
        [sys.executable, "-m", "asv", "machine", "--yes"], cwd=clone, check=True, env={"HOME": str(tmp_path)}
    )
    page = (ROOT / "docs" / "measured.md").read_text(encoding="utf-8")
    ranged, continuous = re.findall(r"^asv (?:run|continuous) main.*$", page, re.MULTILINE)

    done = asv(clone, ranged.replace("main~5", "main~1"))
    assert done.returncode == 0, done.stdout + done.stderr
    (result,) = (clone / "results" / "asv").glob("*/*-virtualenv-*.json")
    values = json.loads(result.read_text())["results"]["bench_learner.Vtrace.time_vtrace_advantages"][0]
    assert len(values) == 2 and all(0 < value < 60 for value in values)
    (environment,) = (clone / ".asv" / "env").iterdir()
    torch = next(environment.glob("lib/python*/site-packages/torch/version.py"))
    before = torch.stat().st_mtime_ns

    done = asv(clone, continuous)
    assert done.returncode in (0, 1) and "failed" not in done.stdout, done.stdout + done.stderr
    assert len(list((clone / "results" / "asv").glob("*/*-virtualenv-*.json"))) == 2
    assert torch.stat().st_mtime_ns == before, "the second commit reinstalls this project alone"
