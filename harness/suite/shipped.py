"""The suites that come with the package: a suite is named by its file, or by the name of a shipped one."""

from pathlib import Path

from harness.files.yaml_file import InputError

FOLDER = Path(__file__).parent.parent / "suites"


def names() -> list[str]:
    """What ``run NAME`` takes from any folder."""
    return sorted(path.stem for path in FOLDER.glob("*.yaml"))


def located(suite: Path | str) -> Path:
    """The file of a suite. A file that is there goes before a shipped suite of the same name.

    Raises:
        InputError: there is neither.
    """
    path = Path(suite)
    if not path.exists() and len(path.parts) == 1 and path.name.removesuffix(".yaml") in names():
        return FOLDER / f"{path.name.removesuffix('.yaml')}.yaml"
    if not path.exists():
        raise InputError(str(path), None, "", f"is no file and no shipped suite; shipped are: {', '.join(names())}")
    return path
