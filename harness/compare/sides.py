"""What BASE and NEW name: a study or several, a commit, or a configuration."""

from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path

from harness.compare.revisions import CompareError, revision
from harness.files.yaml_file import InputError
from harness.study.results import find

SUFFIXES = (".yaml", ".yml")


@dataclass(frozen=True)
class Side:
    """One of the two; exactly one of ``study``, ``commit`` and ``configuration`` is there."""

    name: str
    """as it was given"""
    study: Path | None = None
    """its folder"""
    pooled: tuple[Path, ...] = ()
    """folders of further studies of the same, other sessions"""
    commit: str | None = None
    """full hash"""
    configuration: Path | None = None
    """YAML with trainer, env and settings"""

    @property
    def text(self) -> str:
        """For people."""
        if self.commit is not None:
            return f"commit {self.commit[:12]}" + (f" ({self.name})" if not self.commit.startswith(self.name) else "")
        if self.study is not None:
            return ", ".join(f"study {study}" for study in (self.study, *self.pooled))
        return f"configuration {self.configuration}"


def resolve(name: str, results: Path) -> Side:
    """A study as ``report`` takes it, a YAML file, or a commit: the first that there is.

    A study is a folder, ``<suite>/<id>`` below ``results``, or a suite, whose newest study is meant. Several studies,
    with commas between them, are sessions of one side.

    Raises:
        CompareError: none of them.
    """
    path = Path(name)
    for folder in (path, results / name):
        if (folder / "trials.jsonl").is_file():
            return Side(name, study=folder)
    with suppress(InputError):
        return Side(name, study=find(name, results))
    if path.suffix in SUFFIXES and path.is_file():
        return Side(name, configuration=path)
    if "," in name:
        parts = [resolve(part, results) for part in name.split(",")]
        studies = [part.study for part in parts if part.study is not None]
        if len(studies) < len(parts):
            other = next(part for part in parts if part.study is None)
            raise CompareError(f"{name}: the sessions of a side are studies, and {other.name} is a {other.text}")
        if len({study.resolve() for study in studies}) < len(studies):
            raise CompareError(f"{name}: a study is there twice; it is one session, however often it is named")
        return Side(name, study=studies[0], pooled=tuple(studies[1:]))
    commit = revision(name)
    if commit is not None:
        return Side(name, commit=commit)
    if path.is_dir():
        raise CompareError(f"{name}: a folder without trials.jsonl; a study is <results>/<suite>/<id>")
    raise CompareError(
        f"{name}: neither a study (a folder, or a suite or <suite>/<id> below {results}) nor a configuration (a .yaml "
        "file) nor a commit of the repository that this code lies in; `python -m harness list` names the studies"
    )
