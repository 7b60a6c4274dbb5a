"""Exported studies of several machines in one folder.

``python -m harness.report.asv_merge THEIRS... --into results/asv``
"""

import argparse
from collections.abc import Sequence
from pathlib import Path

from harness.files.locks import locked
from harness.measure.record import write_atomic
from harness.report.asv_export import BENCHMARKS_VERSION, AsvExportError, json_text, read_benchmarks, union


def merge(theirs: Path, ours: Path) -> list[str]:
    """Add the machines, results and benchmarks of one of asv's results folders to another.

    A file of the same machine and commit replaces the one that is there, as ``cp`` does. Links are refused: what is
    copied is what lies in the folder, and it is written nowhere else than in the other one.

    Returns:
        Benchmarks that measure something else in the two folders: those of ``ours`` stay.

    Raises:
        AsvExportError: ``theirs`` is no results folder of asv, or has links.
    """
    added = read_benchmarks(theirs / "benchmarks.json")
    machines = sorted(file.parent for file in theirs.glob("*/machine.json"))
    for path in (*theirs.rglob("*"), *(ours / machine.name for machine in machines)):
        if path.is_symlink():
            raise AsvExportError(f"{path}: is a link, which may lead anywhere; replace it by what it leads to")
    with locked(ours):
        path = ours / "benchmarks.json"
        known = read_benchmarks(path) if path.exists() else {}
        added.pop("version", None)
        others = [name for name in added if name in known and known[name]["version"] != added[name]["version"]]
        for name, benchmark in added.items():
            if name not in known:
                known[name] = benchmark
            elif name not in others and known[name]["params"]:
                first = union(known[name]["params"][0], benchmark["params"][0])
                known[name]["params"] = [first, *known[name]["params"][1:]]
        for machine in machines:
            for file in machine.glob("*.json"):
                write_atomic(ours / machine.name / file.name, file.read_text(encoding="utf-8"))
        write_atomic(path, json_text(known, BENCHMARKS_VERSION))
    return others


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(prog="python -m harness.report.asv_merge", description=__doc__)
    parser.add_argument("theirs", type=Path, nargs="+", metavar="THEIRS", help="another machine's results/asv")
    parser.add_argument("--into", type=Path, default=Path("results/asv"), help="the folder that asv reads")
    options = parser.parse_args(arguments)
    for theirs in options.theirs:
        try:
            others = merge(theirs, options.into)
        except AsvExportError as error:
            parser.error(str(error))
        for name in others:
            print(f"{theirs}: {name} measures something else there; asv shows only what agrees with {options.into}")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
