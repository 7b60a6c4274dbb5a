"""Which commit a measurement was made at, also where git is missing or does not answer."""

import subprocess
from pathlib import Path

import pytest

from harness.measure import provenance
from harness.measure.provenance import Revision, revision_of
from unilab.errors import UserError


@pytest.fixture
def repository(tmp_path: Path) -> Path:
    """One commit with a file of a package, and one beside."""
    for name in ("harness/code.py", "README.md", "results/kept.json"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).write_text("first\n")
    (tmp_path / ".gitignore").write_text("*.pyc\n")
    git(tmp_path, "init", "--quiet")
    git(tmp_path, "add", ".")
    git(tmp_path, "commit", "--quiet", "--message", "first")
    return tmp_path


def git(folder: Path, *arguments: str) -> str:
    identity = ("-c", "user.name=tester", "-c", "user.email=tester@example.org")
    command = ["git", "-C", str(folder), *identity, *arguments]
    return subprocess.run(command, capture_output=True, text=True, check=True).stdout.strip()


def fake_git(folder: Path, monkeypatch: pytest.MonkeyPatch, script: str) -> None:
    tool = folder / "git"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_a_clean_commit_is_not_dirty(repository: Path) -> None:
    assert revision_of(repository) == Revision(git(repository, "rev-parse", "HEAD"), dirty=False)
    (repository / "harness/code.py").touch()
    assert not revision_of(repository).dirty


@pytest.mark.parametrize("name", ["my_suite.yaml", "runs/0/curve.jsonl", "results/new.json", "harness/code.pyc"])
def test_files_beside_the_packages_are_no_change(repository: Path, name: str) -> None:
    (repository / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / name).write_text("mine\n")
    (repository / "results/kept.json").write_text("newer\n")
    assert not revision_of(repository).dirty


@pytest.mark.parametrize("name", ["harness/code.py", "harness/new.py", "unilab/deep/new.py", "README.md"])
@pytest.mark.parametrize("staged", [False, True])
def test_what_the_commit_does_not_have_makes_it_dirty(repository: Path, name: str, staged: bool) -> None:
    (repository / name).parent.mkdir(parents=True, exist_ok=True)
    (repository / name).write_text("second\n")
    if staged:
        git(repository, "add", ".")
    assert revision_of(repository) == Revision(git(repository, "rev-parse", "HEAD"), dirty=True)


def test_it_is_this_repository_where_a_caller_has_named_another(
    repository: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    expected = revision_of(repository)
    monkeypatch.setenv("GIT_DIR", str(tmp_path / "elsewhere"))
    assert expected.commit and revision_of(repository) == expected


def test_outside_of_a_repository_there_is_no_commit(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    assert revision_of(tmp_path) == Revision()
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert revision_of(tmp_path) == Revision()


def test_a_git_that_does_not_answer_is_an_error_not_another_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_git(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(provenance, "SECONDS", 0.2)
    with pytest.raises(UserError, match=r"git did not answer within 0\.2 s.*rev-parse HEAD"):
        revision_of(tmp_path)


def test_a_git_that_cannot_compare_is_an_error_not_a_clean_commit(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    fake_git(tmp_path, monkeypatch, 'case "$*" in *" diff "*) echo bad index >&2; exit 128;; esac; echo 0123abc')
    with pytest.raises(UserError, match=r"diff HEAD.* failed: bad index"):
        revision_of(tmp_path)


def test_here_it_is_the_checked_out_commit() -> None:
    here = Path(__file__).parent
    assert provenance.commit.__wrapped__().commit == git(here, "rev-parse", "HEAD")
