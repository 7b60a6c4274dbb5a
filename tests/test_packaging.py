"""What `make` installs is what pyproject.toml asks for, in versions that are pinned."""

import os
import re
import shutil
import subprocess
import sys
import tomllib
import zipfile
from importlib import metadata
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name
from ruamel.yaml import YAML

ROOT = Path(__file__).resolve().parent.parent
PAGES = [ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md"))]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text(encoding="utf-8"))["project"]
PINS = {
    canonicalize_name(name): version
    for name, version in re.findall(
        r"^([\w.-]+)==(\S+)$", (ROOT / "constraints.txt").read_text(encoding="utf-8"), re.MULTILINE
    )
}
REQUIREMENTS = [
    Requirement(text)
    for text in (
        *PROJECT["dependencies"],
        *(text for extra in PROJECT["optional-dependencies"].values() for text in extra),
    )
]


@pytest.mark.parametrize("requirement", REQUIREMENTS, ids=str)
def test_every_requirement_has_a_pin_that_satisfies_it(requirement: Requirement) -> None:
    name = canonicalize_name(requirement.name)
    if name == PROJECT["name"]:
        return
    assert requirement.specifier.contains(PINS[name]), f"{requirement} against {PINS[name]}"


def test_nobody_is_told_to_install_from_the_package_index() -> None:
    """Until the name there is ours, somebody else's code could be what is installed."""
    name = re.compile(rf"pip install [^\n`]*{PROJECT['name']}")
    files = [*PAGES, ROOT / "constraints.txt", *(ROOT / "suites").rglob("*.yaml")]
    files += [path for package in ("unilab", "harness", "benchmarks") for path in (ROOT / package).rglob("*.py")]
    assert [str(path) for path in files if name.search(path.read_text(encoding="utf-8"))] == []


def test_pull_requests_run_on_no_machine_of_ones_own() -> None:
    pages = "\n".join(path.read_text(encoding="utf-8") for path in PAGES)
    workflows = [YAML(typ="safe").load(text) for text in re.findall(r"```yaml\n(# \.github/.*?)```", pages, re.DOTALL)]
    assert workflows
    for workflow in workflows:
        assert "pull_request_target" not in str(workflow) and workflow["permissions"] == {"contents": "read"}
        if "pull_request" in workflow["on"]:
            assert [job["runs-on"] for job in workflow["jobs"].values()] == ["ubuntu-latest"]


def test_an_ordinary_installation_finds_its_suites_from_any_folder(tmp_path: Path) -> None:
    """A wheel, unpacked where no checkout is."""
    source = tmp_path / "source"
    for name in ("harness", "unilab", "suites"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "README.md", "LICENSE"):
        shutil.copy(ROOT / name, source)
    pip = [sys.executable, "-m", "pip", "--quiet", "--disable-pip-version-check"]
    subprocess.run([*pip, "wheel", "--no-deps", "--no-build-isolation", "--wheel-dir", tmp_path, source], check=True)
    (wheel,) = tmp_path.glob("*.whl")
    with zipfile.ZipFile(wheel) as content:
        content.extractall(tmp_path / "site")
        shipped = {name for name in content.namelist() if name.startswith("harness/suites/")}
    assert shipped == {f"harness/suites/{path.name}" for path in (ROOT / "suites").glob("*.yaml")}
    (tmp_path / "elsewhere").mkdir()
    command = "import harness.__main__ as m, sys; sys.exit(m.command())"
    done = subprocess.run(
        [sys.executable, "-c", command, "validate", "appo_throughput"], cwd=tmp_path / "elsewhere",
        capture_output=True, text=True, env=os.environ | {"PYTHONPATH": str(tmp_path / "site")},
    )  # fmt: skip
    assert done.returncode == 0, done.stderr
    assert done.stdout.startswith("appo_throughput: valid; study appo_throughput/")


def test_the_console_script_and_the_licence_are_installed() -> None:
    distribution = metadata.distribution(PROJECT["name"])
    scripts = {entry.name: entry.value for entry in distribution.entry_points if entry.group == "console_scripts"}
    assert scripts["unilab-harness"] == "harness.__main__:command"
    assert distribution.metadata["License-Expression"] == "Apache-2.0"
    assert "Version 2.0, January 2004" in (ROOT / "LICENSE").read_text(encoding="utf-8")
