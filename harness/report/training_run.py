"""The page of one ``train`` run: from the configuration and the curve in its folder."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from harness.files.yaml_file import Document
from harness.report.page import charts
from harness.report.page.curves import POINTS, thin
from harness.report.page.model import Code, FirstScreen, Page, Rows, Section, Table
from harness.report.studies import finite
from harness.runs.folder import CONFIG_FILE, go_on_command
from harness.suite.text import minutes_text, number_text

CURVE_FILE = "curve.csv"
RETURNS = {"training": "episode_return", "evaluation": "eval_return"}


def page(folder: Path) -> Page:
    """The page of a training run.

    Raises:
        InputError: its configuration cannot be read.
    """
    content = Document.load(folder / CONFIG_FILE).content
    try:
        curve = pd.read_csv(folder / CURVE_FILE)
    except (OSError, ValueError):  # it is not there, or cut short
        curve = pd.DataFrame()
    curve = curve.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    known = {}
    for kind, column in RETURNS.items():
        frame = curve.reindex(columns=[*charts.AXES, column]).rename(columns={column: "y"}).dropna()
        # an evaluation stands where it was made
        frame = frame if kind == "training" else frame[frame["y"].diff().ne(0)]
        if len(frame):
            known[kind] = frame
    where, commands = shlex.quote(str(folder)), []
    commands += [Code("Play its policy", f"python -m harness eval {where}"), Code("Go on", go_on_command(folder))]
    if any(folder.glob("events.out.tfevents.*")):
        commands.append(Code("All metrics", f"tensorboard --logdir {where}"))
    commands.append(Code(CONFIG_FILE, (folder / CONFIG_FILE).read_text(encoding="utf-8"), folded=True))
    sections = [Section("again", "Use it, and do it again", code=commands)]
    answer = FirstScreen("No result", "no iteration was finished", "")
    if len(curve):
        last = {str(name): float(value) for name, value in curve.iloc[-1].dropna().items()}
        rows = [{"number": name, "value": value} for name, value in last.items()]
        table = Table.of("last-table", "Every number of it", rows)
        sections = [_curves(curve, known), Section("last", "The last iteration", tables=[table]), *sections]
        answer = _answer(folder, last, known)
    subtitle = f"{content.get('trainer')} on {content.get('env')}"
    return Page(folder.resolve().name, subtitle, answer, sections, str(folder))


def _answer(folder: Path, last: dict[str, float], known: dict[str, pd.DataFrame]) -> FirstScreen:
    facts = []
    for kind, frame in known.items():
        best = frame.iloc[int(frame["y"].argmax())]
        text = f"{number_text(frame['y'].iloc[-1])} at the end, at best {number_text(best['y'])} "
        facts.append((f"Return, {kind}", f"{text}after {number_text(best['env_steps'])} env steps"))
    trained, seconds = last.get("env_steps", 0.0), last.get("wall_seconds", 0.0)
    rate = f", {number_text(trained / seconds)} env steps a second" if seconds > 0 else ""
    kept = sorted(path.name for path in folder.glob("*.pt"))
    facts += [
        ("Trained", f"{number_text(trained)} env steps in {minutes_text(seconds)}{rate}"),
        ("Iterations", f"{number_text(last.get('iteration'))}, with {number_text(last.get('updates'))} updates"),
        ("Checkpoints", ", ".join(kept) or "none"),
    ]
    text, unit = "No return", "no episode was finished"
    if known:
        shown = "evaluation" if "evaluation" in known else "training"
        text, unit = number_text(known[shown]["y"].iloc[-1]), f"return at the end, {shown}"
    claim = "Returns of training are means of the last 100 episodes, with exploration noise. Evaluations have no noise."
    return FirstScreen(text, unit, claim, facts, go_on_command(folder) if kept else None)


def _curves(curve: pd.DataFrame, known: dict[str, pd.DataFrame]) -> Section:
    """Return over wall time and env steps, and the speed."""

    def rows(kind: str, frame: pd.DataFrame, axis: str) -> Rows:
        points = thin(frame[axis].to_numpy(float), frame["y"].to_numpy(float))
        return [{"name": kind, "x": finite(x), "y": finite(y)} for x, y in zip(*points, strict=True)]

    drawn = []
    for axis in charts.AXES if known else ():
        returns = [row for kind, frame in known.items() for row in rows(kind, frame, axis)]
        drawn.append(charts.lines(f"return_{axis}", axis, "return", returns))
    speed = curve.reindex(columns=list(charts.AXES))
    passed = speed.diff()
    speed["y"] = passed["env_steps"] / passed["wall_seconds"].where(passed["wall_seconds"] > 0)
    if len(speed := speed.dropna()):
        speeds = rows("training", speed, "wall_seconds")
        drawn.append(charts.lines("speed", "wall_seconds", "env steps a second", speeds))
    text = f"Each line has {POINTS} points at most; each is the mean of its neighbours. {CURVE_FILE} has all."
    return Section("curves", "Curves", [text], drawn)
