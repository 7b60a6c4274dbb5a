"""Writes the pages of docs/reference/ from the code; ``make docs`` calls it, and a test holds them to the code."""

import argparse
from collections.abc import Iterable, Sequence
from pathlib import Path

from harness.cli import DESCRIPTION, compare, options, parser
from harness.report import reference
from harness.report.reference import Entry
from harness.suite.metrics import METRICS
from harness.trainers.trainer import REGISTRY
from unilab.algos.torch.offpolicy import presets

FOLDER = Path(__file__).parent / "reference"
MADE = "<!-- written by docs/reference.py, which reads the code: change the text there -->"
OPENING = {
    "suite": """\
A suite is a YAML file with these keys. [Write a suite](../suites.md) shows one. `python -m harness validate SUITE`
checks a suite, and `python -m harness schema` prints a JSON schema that lets an editor check it.

`NAME` is a name of your own, `SETTING` a setting of the trainer, `METRIC` one of [these metrics](#metrics).""",
    "settings": """\
A suite names these settings in `fixed`, `search`, `baseline` and `pinned`, a configuration for `train` in `settings`.
Dotted names may also be nested: `algorithm: {gamma: 0.98}`. `python -m harness settings TRAINER` prints the settings of
any trainer.

What a setting changes is *placement* (where and how the same learning is computed, but for rounding and policy lag),
*learning*, or the *output* that a run writes beside it.""",
    "presets": """\
`preset: NAME` replaces the defaults of SAC and TD3 by the values below. Settings that are stated beside it win. FastTD3
([arXiv:2505.22642](https://arxiv.org/abs/2505.22642)) and FastSAC ([arXiv:2512.01996](https://arxiv.org/abs/2512.01996))
stand for the values of their authors' implementations; SimbaV2 is
[arXiv:2502.15280](https://arxiv.org/abs/2502.15280). A value is empty where the trainer has no such setting.""",
    "record": """\
Each line of `trials.jsonl` is a record: one attempt at one repeat of one trial. `trials.csv` has the same columns, and
`counts`, which marks the attempts that count. Rates and fractions are those of the steady window. What was not measured
is empty. [Read the results](../results.md) explains the most important ones.""",
}


def pages() -> dict[str, str]:
    """The text of each page by its name."""
    made = {
        "commands": ("Commands", _commands()),
        "suite": ("Suite keys", [OPENING["suite"], _entries("Key", reference.suite_keys()), "## Metrics", _metrics()]),
        "settings": (
            "Settings of the trainers",
            [OPENING["settings"], *_settings(), "## Presets", OPENING["presets"], *_presets()],
        ),
        "record": ("Fields of a record", [OPENING["record"], _entries("Field", reference.record_fields())]),
    }
    return {name: "\n\n".join([f"# {title}", MADE, *parts]) + "\n" for name, (title, parts) in made.items()}


def _commands() -> list[str]:
    verbs = _verbs(parser())
    rows = [(f"[`{name}`](#{name})", verb.description or "") for name, verb in verbs.items()]
    intro = f"{DESCRIPTION} Type `python -m harness VERB`, or `unilab-harness VERB`, which is installed too."
    every = "Every verb also takes `--help`, and `--json`, which prints the outcome for a program."
    parts = [intro, _table(("Verb", "What it does"), rows), every, "## Exit codes", _codes(options.EXIT_CODES)]
    for name, verb in verbs.items():
        words = " ".join([f"python -m harness {name}", *(_positional(one) for one in verb._get_positional_actions())])
        rows = [(f"`{_called(one)}`", (one.help or "").replace("%%", "%")) for one in verb._actions
                if not {"--help", "--json"} & {*one.option_strings}]  # fmt: skip
        parts += [f"## {name}", f"`{words}`: {verb.description}"]
        parts += [_table(("Argument", "Meaning"), rows)] if rows else []
        parts += [_codes(compare.EXIT_CODES)] if name == "compare" else []
    return parts


def _verbs(top: argparse.ArgumentParser) -> dict[str, argparse.ArgumentParser]:
    return next(dict(one.choices) for one in top._actions if isinstance(one, argparse._SubParsersAction))


def _positional(action: argparse.Action) -> str:
    name = action.metavar
    return {"+": f"{name}...", "*": f"[{name}...]", "?": f"[{name}]"}.get(str(action.nargs), str(name))


def _called(action: argparse.Action) -> str:
    """An option with its value as the help text has it."""
    if not action.option_strings:
        return str(action.metavar)
    value = action.metavar or ("|".join(map(str, action.choices)) if action.choices else "")
    value = f"[{value}]" if action.nargs == "?" else value
    return f"{action.option_strings[-1]} {value}".strip()


def _codes(codes: dict[int, str]) -> str:
    return _table(("Exit code", "Meaning"), [(str(code), meaning) for code, meaning in codes.items()])


def _settings() -> list[str]:
    """A table for the trainers that have a setting in common, with the same default and meaning."""
    own = {trainer: {one.name: one for one in reference.settings(trainer)} for trainer in REGISTRY}
    grouped: dict[tuple[str, ...], list[Entry]] = {}
    for entry in dict.fromkeys(str(one) for known in own.values() for one in known.values()):
        having = {trainer: one for trainer, known in own.items() for one in known.values() if str(one) == entry}
        grouped.setdefault(tuple(having), []).append(next(iter(having.values())))
    titles = {group: "All trainers" if len(group) == len(own) else " and ".join(group).upper() for group in grouped}
    return [
        text
        for group, found in grouped.items()
        for text in (f"## {titles[group].replace('AND', 'and')}", _entries("Setting", found))
    ]


def _presets() -> list[str]:
    """For each preset a table of the values of both trainers, and where they come from."""
    parts = []
    for name in presets.SAC:
        sac, td3 = presets.SAC[name], presets.TD3[name]
        rows = []
        for setting in sac | td3:
            given = [one.get(setting) for one in (sac, td3)]
            values = [f"`{reference.default_text(one.value)}`" if one else "" for one in given]
            rows.append((f"`{setting}`", *values, "; ".join(dict.fromkeys(one.source for one in given if one))))
        parts += [f"### {name}", _table(("Setting", "SAC", "TD3", "Source"), rows)]
    return parts


def _metrics() -> str:
    known = {one.name: one.meaning for one in reference.record_fields()}
    rows = [(f"`{name}`", direction, known[name]) for name, direction in METRICS.items()]
    return _table(("Metric", "Default direction", "Meaning"), rows)


def _entries(what: str, entries: Sequence[Entry]) -> str:
    rows = []
    for one in entries:
        default = reference.default_text(one.default)
        shown = f"`{default}`" if default else ""
        rows.append((f"`{one.name}`", one.values, shown, one.changes, one.meaning))
    columns = (what, "Values", "Default", "Changes", "Meaning")
    filled = [place for place in range(len(columns)) if any(row[place] for row in rows)]
    return _table([columns[place] for place in filled], [[row[place] for place in filled] for row in rows])


def _table(columns: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    lines = [columns, ["---"] * len(columns), *rows]
    return "\n".join(f"| {' | '.join(cell.replace('|', chr(92) + '|') for cell in line)} |" for line in lines)


if __name__ == "__main__":
    FOLDER.mkdir(exist_ok=True)
    for name, text in pages().items():
        (FOLDER / f"{name}.md").write_text(text, encoding="utf-8")
