"""The page of one ``train`` run: from the configuration and the curve in its folder."""

import shlex
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pandas as pd

from harness.files.yaml_file import Document
from harness.report.page import vega
from harness.report.page.model import Code, FirstScreen, Page, Section, Table, finite
from harness.report.page.sections.curves import AXES, POINTS, Floats, line_chart, thin
from harness.runs.folder import CONFIG_FILE, go_on_command
from harness.suite.text import minutes_text, number_text

CURVE_FILE = "curve.csv"
KINDS = ("training", "evaluation")
RETURNS = {"training": "episode_return", "evaluation": "eval_return"}


@dataclass(frozen=True)
class TrainingRun:
    """A run's folder."""

    folder: Path
    trainer: str
    env: str
    configuration: str
    """text of ``config.yaml``"""
    curve: pd.DataFrame
    """numbers in the order of iterations; empty when no iteration was done"""

    @classmethod
    def load(cls, folder: Path) -> "TrainingRun":
        """Read a run.

        Raises:
            InputError: its configuration cannot be read.
        """
        path = folder / CONFIG_FILE
        content = Document.load(path).content
        text = path.read_text(encoding="utf-8")
        return cls(folder, str(content.get("trainer")), str(content.get("env")), text, _curve(folder / CURVE_FILE))

    def column(self, name: str) -> Floats:
        """NaN where the curve does not have it."""
        return np.asarray(self.curve.get(name, pd.Series(np.nan, self.curve.index)), dtype=np.float64)

    def returns(self, kind: str) -> pd.DataFrame:
        """Those that are known, with ``wall_seconds`` and ``env_steps``; an evaluation stands where it was made."""
        name = RETURNS[kind]
        frame = pd.DataFrame({axis: self.column(axis) for axis in AXES} | {"return": self.column(name)}).dropna()
        return frame if kind == "training" else frame[frame["return"].diff().ne(0)]


def _curve(path: Path) -> pd.DataFrame:
    try:
        frame = pd.read_csv(path)
    except (OSError, ValueError):  # it is not there, or cut short
        return pd.DataFrame()
    return frame.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)


def page(run: TrainingRun) -> Page:
    """All that there is to say about a run."""
    sections = (_curves(run), _last_iteration(run), _again(run))
    name = run.folder.resolve().name
    return Page(name, f"{run.trainer} on {run.env}", _answer(run), sections, str(run.folder))


def _answer(run: TrainingRun) -> FirstScreen:
    if run.curve.empty:
        return FirstScreen("No result", "no iteration was finished", "", (), None, None)
    last = {name: float(run.column(name)[-1]) for name in ("iteration", "env_steps", "wall_seconds", "updates")}
    facts = []
    for kind in KINDS:
        known = run.returns(kind)
        if len(known):
            values, steps = known["return"].to_numpy(dtype=float), known["env_steps"].to_numpy(dtype=float)
            best = int(values.argmax())
            text = f"{number_text(values[-1])} at the end, at best {number_text(values[best])} "
            facts.append((f"Return, {kind}", f"{text}after {number_text(steps[best])} env steps"))
    trained, seconds = last["env_steps"], last["wall_seconds"]
    rate = f"{number_text(trained / seconds)} env steps a second" if seconds > 0 else "in no time"
    facts.append(("Trained", f"{number_text(trained)} env steps in {minutes_text(seconds)}, {rate}"))
    facts.append(("Iterations", f"{last['iteration']:,.0f}, with {last['updates']:,.0f} updates"))
    kept = sorted(path.name for path in run.folder.glob("*.pt"))
    facts.append(("Checkpoints", ", ".join(kept) or "none"))
    shown = next((kind for kind in reversed(KINDS) if len(run.returns(kind))), None)
    if shown is None:
        text, unit = "No return", "no episode was finished"
    else:
        text, unit = number_text(run.returns(shown)["return"].iloc[-1]), f"return at the end, {shown}"
    claim = "Returns of training are means of the last 100 episodes, with exploration noise. Evaluations have no noise."
    return FirstScreen(text, unit, claim, tuple(facts), go_on_command(run.folder) if kept else None, None)


def _curves(run: TrainingRun) -> Section:
    """Return over wall time and env steps, and the speed."""
    if run.curve.empty:
        return Section("curves", "Curves", ("No iteration was finished: there is nothing to draw.",))
    charts = []
    known = {kind: run.returns(kind) for kind in KINDS if len(run.returns(kind))}
    of = f", of {' and '.join(known)}"
    for axis in AXES if known else ():
        rows = [
            row for kind, one in known.items() for row in _rows(kind, one[axis].to_numpy(), one["return"].to_numpy())
        ]
        charts.append(line_chart(f"return_{axis}", axis, "return", list(known), of, rows))
    seconds, steps = run.column("wall_seconds"), run.column("env_steps")
    if len(seconds) > 1:
        passed = np.diff(seconds)
        rates = np.divide(np.diff(steps), passed, out=np.full(len(passed), np.nan), where=passed > 0)
        rows, training = _rows(KINDS[0], seconds[1:], rates), KINDS[:1]
        charts.append(line_chart("speed", "wall_seconds", "env steps a second", training, f", of {KINDS[0]}", rows))
    text = f"Each line has {POINTS} points at most; each is the mean of its neighbours. {CURVE_FILE} has all."
    return Section("curves", "Curves", (text,), tuple(charts))


def _rows(name: str, x: Floats, y: Floats) -> vega.Rows:
    known = np.isfinite(x) & np.isfinite(y)
    thinned = zip(*thin(x[known], y[known]), strict=True)
    return [{"name": name, "x": finite(a), "y": finite(b)} for a, b in thinned]


def _last_iteration(run: TrainingRun) -> Section:
    title = "The last iteration"
    if run.curve.empty:
        return Section("last", title, ("There is none.",))
    last = run.curve.iloc[-1].dropna()
    rows = [(str(name), float(value)) for name, value in last.items()]
    return Section("last", title, (), (), (Table.of("last-table", "Every number of it", ("number", "value"), rows),))


def _again(run: TrainingRun) -> Section:
    where = shlex.quote(str(run.folder))
    commands = [Code("Play its policy", f"python -m harness eval {where}"), Code("Go on", go_on_command(run.folder))]
    if any(run.folder.glob("events.out.tfevents.*")):
        commands.append(Code("All metrics", f"tensorboard --logdir {where}"))
    commands.append(Code(CONFIG_FILE, run.configuration, folded=True))
    return Section("again", "Use it, and do it again", (), (), (), tuple(commands))
