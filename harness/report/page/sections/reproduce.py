"""The machine, and how to do it again."""

from typing import Any

from harness.files.yaml_file import to_yaml
from harness.report.page.model import Code, Section, Table
from harness.report.studies import StudyFiles

UNKNOWN = "not recorded"


def machine(study: StudyFiles) -> Section:
    """What the study was measured on."""
    described = study.manifest.get("machine") or {}
    names = sorted({record.machine for record in study.records if record.machine})
    if not described:
        missing = f"The manifest does not describe the machine; the records name {', '.join(names) or 'none'}."
        return Section("machine", "The machine", (missing,))
    several = f"Repeats were measured on several machines: {', '.join(names)}. The last one is described."
    text = (several,) if len(names) > 1 else ()
    table = Table.of("machine-table", "Hardware and system", ("what", "value"), rows(described), sortable=False)
    return Section("machine", "The machine", text, (), (table,))


def rows(described: dict[str, Any]) -> list[tuple[str, str]]:
    """The description in words, absent parts left out."""

    def get(name: str) -> str:
        value = described.get(name)
        return UNKNOWN if value is None else str(value)

    gpus = "; ".join(f"{gpu.get('name')}, {size(gpu.get('memory_total'))}" for gpu in described.get("gpus") or [])
    return [
        ("name", get("name")),
        ("processor", get("cpu")),
        ("cores", f"{get('cores_physical')} physical, {get('cores_logical')} logical, {get('cores_usable')} usable"),
        ("instruction sets", " ".join(map(str, described.get("cpu_features") or [])) or UNKNOWN),
        ("memory", size(described.get("ram_total"))),
        ("shared memory", size(described.get("shm_total"))),
        ("GPUs", gpus or "none"),
        ("system", f"{get('os')}, {get('architecture')}"),
        ("Python", get("python")),
    ]


def size(value: Any) -> str:
    return f"{value / 2**30:.1f} GiB" if isinstance(value, int | float) else UNKNOWN


def reproduce(study: StudyFiles) -> Section:
    """Commands, commit and versions."""
    manifest = study.manifest
    runs = manifest.get("runs") or []
    commits = sorted(
        {record.commit for record in study.records if record.commit} | {manifest.get("commit") or ""} - {""}
    )
    dirty = bool(manifest.get("dirty")) or any(r.dirty for r in study.records) or any(run.get("dirty") for run in runs)
    facts = [
        ("commit", ", ".join(commits) or UNKNOWN),
        ("changes that the commit does not have", "yes: these numbers belong to no commit" if dirty else "none"),
        ("packages", ", ".join(f"{k} {v}" for k, v in (manifest.get("versions") or {}).items()) or UNKNOWN),
        ("threads", "; ".join(sorted({r.threads for r in study.records if r.threads})[:4]) or UNKNOWN),
        ("first seed", str(study.records[0].seed) if study.records else UNKNOWN),
        ("measured with a timeline", "yes, which costs speed" if any(r.traced for r in study.records) else "no"),
        ("nodes", ", ".join(sorted({r.node for r in study.records if r.node})) or "this machine alone"),
        ("trials shared nodes", "yes, which disturbs them" if any(r.shared for r in study.records) else "no"),
        ("left out of the search", "; ".join(map(str, manifest.get("dropped") or [])) or "nothing"),
    ]
    table = Table.of("provenance-table", "Where the numbers come from", ("what", "value"), facts, sortable=False)
    commands = [str(run.get("command", "")) for run in runs] or [str(manifest.get("command", ""))]
    commands = [command for command in dict.fromkeys(commands) if command]
    text = (
        "Run this at that commit; the same command goes on where the study stopped."
        if commands
        else "No manifest.json could be read, so the command is not known; the suite below is what was run.",
    )
    code = [Code("Command" + (f" {i + 1}" if len(commands) > 1 else ""), c) for i, c in enumerate(commands)]
    code.append(Code("The suite as it was run", to_yaml(study.suite.to_dict()), folded=True))
    if study.best:
        code.append(Code("best.yaml", study.best, folded=True))
    return Section("reproduce", "How to reproduce it", text, (), (table,), tuple(code))
