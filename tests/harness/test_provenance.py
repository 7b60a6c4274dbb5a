"""Which code a measurement belongs to, also where git is missing or does not answer."""

import subprocess

import pytest

from harness import provenance
from harness.provenance import ProvenanceError

look = provenance.commit.__wrapped__
"""without the memory of an earlier answer"""


def git(folder, monkeypatch, script):
    tool = folder / "git"
    tool.write_text(f"#!/bin/sh\n{script}\n")
    tool.chmod(0o755)
    monkeypatch.setenv("PATH", f"{folder}:/usr/bin:/bin")


def test_commit_and_changes_are_those_of_git(tmp_path, monkeypatch):
    git(tmp_path, monkeypatch, 'case "$*" in *rev-parse*) echo 0123abc;; *status*) echo " M file.py";; esac')
    assert look() == ("0123abc", True)
    git(tmp_path, monkeypatch, 'case "$*" in *rev-parse*) echo 0123abc;; esac')
    assert look() == ("0123abc", False)


def test_outside_of_a_repository_there_is_no_commit(tmp_path, monkeypatch):
    git(tmp_path, monkeypatch, "exit 128")
    assert look() == ("", False)
    monkeypatch.setenv("PATH", str(tmp_path / "nothing"))
    assert look() == ("", False)


def test_a_git_that_does_not_answer_is_an_error_not_another_commit(tmp_path, monkeypatch):
    git(tmp_path, monkeypatch, "exec sleep 60")
    monkeypatch.setattr(provenance, "SECONDS", 0.2)
    with pytest.raises(ProvenanceError, match=r"git did not answer within 0\.2 s.*rev-parse HEAD"):
        look()


def test_here_it_is_the_checked_out_commit():
    head = subprocess.run(["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
    assert look()[0] == head
