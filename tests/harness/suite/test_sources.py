"""A study's id covers what decides its numbers and nothing else."""

import shutil
import subprocess
import sys
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from harness.predict import ceilings
from harness.predict import plan as plans
from harness.predict.plan import Plan
from harness.suite import sources
from harness.trainers.trainer import get

SUITE = """\
name: mine
trainer: my_pkg.trainer:Mine
env: my_env:Cart
limits: {trials: 3}
"""
FILES = {
    "my_pkg/__init__.py": "",
    "my_pkg/trainer.py": "from tests.harness.fake_trainer import FakeTrainer\nfrom . import network\n"
    "class Mine(FakeTrainer):\n    def run(self, *_, **__):\n        from my_pkg.deep import later\n",
    "my_pkg/network.py": "import numpy\nLAYERS = 2\n",
    "my_pkg/deep/later.py": "import common\nDRIVER = 'my_pkg.driver:train'\n",
    "my_pkg/driver.py": "RATE = 1\n",
    "my_pkg/unused.py": "",
    "my_env.py": "import typing\nif typing.TYPE_CHECKING:\n    import for_types\nclass Cart: ...\n",
    "common.py": "STEPS = 1\n",
    "for_types.py": "",
    "unused.py": "",
}


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A user's modules beside a suite, where Python finds them."""
    for name, content in {**FILES, "mine.yaml": SUITE}.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(content)
    monkeypatch.syspath_prepend(str(tmp_path))
    yield tmp_path
    for name in [name for name in sys.modules if name.partition(".")[0] == "my_pkg"]:
        del sys.modules[name]


def study_id(folder: Path) -> str:
    """As a new process has it."""
    sources.digest.cache_clear()
    sources._find.cache_clear()
    return plans.make(folder / "mine.yaml").study_id


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("my_pkg/__init__.py", "", "import my_pkg.unused\n"),
        ("my_pkg/network.py", "2", "3"),
        ("my_pkg/deep/later.py", "import common", "import common, common"),
        ("my_pkg/driver.py", "1", "2"),
        ("my_env.py", "...", "pass"),
        ("common.py", "1", "2"),
        ("mine.yaml", "name: mine", "name: mine\nfixed: {threads: 2}"),
    ],
)
def test_what_decides_the_numbers_makes_another_study(folder: Path, name: str, old: str, new: str) -> None:
    before = study_id(folder)
    (folder / name).write_text((folder / name).read_text().replace(old, new, 1))
    assert study_id(folder) != before


@pytest.mark.parametrize(
    ("name", "old", "new"),
    [
        ("my_pkg/network.py", "LAYERS = 2", "LAYERS = (2)  # as in the paper"),
        ("my_env.py", "class Cart: ...", 'class Cart:\n    """A cart."""\n    ...'),
        ("my_pkg/unused.py", "", "USED = False\n"),
        ("unused.py", "", "USED = False\n"),
        ("for_types.py", "", "Kind = int\n"),
        ("mine.yaml", "limits: {trials: 3}", "# more of them\nlimits:\n  trials: 9\n  minutes: 3\n"),
        ("mine.yaml", "trials: 3}", "trials: 3}\nconfirm: {top: 1}"),
    ],
)
def test_what_decides_nothing_does_not(folder: Path, name: str, old: str, new: str) -> None:
    before = study_id(folder)
    (folder / name).write_text((folder / name).read_text().replace(old, new, 1))
    assert study_id(folder) == before


def test_the_versions_of_what_computes_count(make_plan: Callable[..., Plan], monkeypatch: pytest.MonkeyPatch) -> None:
    ids = []
    for version in ("2.13.0", "2.13.1"):
        sources.digest.cache_clear()
        monkeypatch.setattr(sources, "_version", lambda package, v=version: v if package == "torch" else "1")
        ids.append(make_plan().study_id)
    sources.digest.cache_clear()
    assert ids[0] != ids[1]


def test_ceilings_have_the_same_digest(make_plan: Callable[..., Plan], tmp_path: Path) -> None:
    plan = make_plan()
    code = plan.study_id.removeprefix(f"{plan.suite.study_id()}-")
    assert len(code) == 8 and ceilings.path_of(tmp_path, plan.suite.trainer, plan.code).stem.endswith(f"-{code}")


def test_of_this_project_it_is_what_a_trial_loads() -> None:
    """And so neither README, tests and reports nor the search."""
    found = sources.sources().keys()
    loaded = (
        "import sys, harness.measure.repeat, harness.trainers.costs.appo, harness.trainers.costs.offpolicy\n"
        "import unilab.tracing.timeline_file\n"
        "import unilab.algos.torch.appo.runner, unilab.algos.torch.offpolicy.runner, unilab.envs.tasks.ant\n"
        "print(*(name for name in sys.modules if name.split('.')[0] in ('harness', 'unilab')))"
    )
    done = subprocess.run([sys.executable, "-c", loaded], capture_output=True, text=True, check=True)
    assert {*done.stdout.split()} <= found
    for other in (
        "harness.report",
        "harness.compare",
        "harness.study.search",
        "harness.cli",
        "harness.stats.inference",
        "tests",
    ):
        assert not any(name.startswith(other) for name in found)


def test_a_project_in_another_folder_is_the_same_code(tmp_path: Path) -> None:
    root = Path(__file__).resolve().parents[3]
    for package in sources.PROJECT:
        shutil.copytree(root / package, tmp_path / package, ignore=shutil.ignore_patterns("*.pyc"))
    command = "from harness.suite import sources; print(sources.__file__, sources.digest())"
    done = subprocess.run([sys.executable, "-c", command], cwd=tmp_path, env={}, capture_output=True, text=True)
    file, digest = done.stdout.split()
    assert Path(file).is_relative_to(tmp_path) and digest == sources.digest()


@pytest.mark.parametrize("kept", [None, "{", "[]", "null"])
def test_what_was_read_once_is_not_parsed_again(
    folder: Path, monkeypatch: pytest.MonkeyPatch, kept: str | None
) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(folder / "cache"))
    before = study_id(folder)
    if kept is not None:  # by a process that was killed, say
        for file in (folder / "cache").rglob("*.json"):
            file.write_text(kept)
        assert study_id(folder) == before
    monkeypatch.setattr(sources, "_parsed", lambda *_: pytest.fail("parsed again"))
    assert study_id(folder) == before


def test_what_learns_is_a_digest_of_its_own_without_environments_and_machines() -> None:
    appo, sac = (sources.learning_digest(*get(name).learning_code) for name in ("appo", "sac"))
    assert len(appo) == sources.SHORT and appo != sac and sources.learning_digest(*get("appo").learning_code) == appo
    code = sources.sources((), get("appo").learning_code, sources.NOT_LEARNING)
    assert {"unilab.algos.torch.appo.learner", "unilab.algos.torch.networks.build", "unilab.run.acting"} <= code.keys()
    assert not any(name.startswith(("harness.", "unilab.envs.", "unilab.algos.torch.offpolicy")) for name in code)
    assert "unilab.algos.torch.offpolicy.config" in sources.sources((), get("appo").learning_code), (
        "it can evaluate SAC"
    )
