"""The page of one ``train`` run: from the configuration and the curve in its folder."""

import shlex
from pathlib import Path

import numpy as np
import pandas as pd

from harness.files.yaml_file import Document
from harness.report.page import charts
from harness.report.page.curves import POINTS, thin
from harness.report.page.model import Code, FirstScreen, Page, Rows, Section, Table
from harness.report.studies import POLICY, finite
from harness.runs.folder import CONFIG_FILE, go_on_command, models_of
from harness.suite.text import minutes_text, number_text

CURVE_FILE = "curve.csv"
RETURNS = {"training": "episode_return", "evaluation": "eval_return"}


def page(folder: Path) -> Page:
    """The page of a training run.

    Raises:
        InputError: its configuration cannot be read.
    """
    content, where = Document.load(folder / CONFIG_FILE).content, shlex.quote(str(folder))
    try:
        curve = pd.read_csv(folder / CURVE_FILE)
    except (OSError, ValueError):  # it is not there, or cut short
        curve = pd.DataFrame()
    curve = curve.apply(pd.to_numeric, errors="coerce").replace([np.inf, -np.inf], np.nan)
    kept = [path.name for path in models_of(folder)]
    go_on = go_on_command(folder) if POLICY in kept else None  # that of another trainer is no use to these commands
    commands = [Code("Play its policy", f"python -m harness eval {where}"), Code("Go on", go_on)] if go_on else []
    if any(folder.glob("events.out.tfevents.*")):
        commands.append(Code("All metrics", f"tensorboard --logdir {where}"))
    commands.append(Code(CONFIG_FILE, (folder / CONFIG_FILE).read_text(encoding="utf-8"), folded=True))
    again = Section("again", "Use it, and do it again", code=commands)
    title, subtitle = folder.resolve().name, f"{content.get('trainer')} on {content.get('env')}"
    if not len(curve):
        return Page(title, subtitle, FirstScreen("No result", "no iteration was finished", ""), [again], str(folder))

    known, facts = {}, []
    for kind, column in RETURNS.items():
        frame = curve.reindex(columns=[*charts.AXES, column]).rename(columns={column: "y"}).dropna()
        # an evaluation stands where it was made
        frame = frame if kind == "training" else frame[frame["y"].diff().ne(0)]
        if len(frame):
            known[kind], best = frame, frame.iloc[int(frame["y"].argmax())]
            text = f"{number_text(frame['y'].iloc[-1])} at the end, at best {number_text(best['y'])} "
            facts.append((f"Return, {kind}", f"{text}after {number_text(best['env_steps'])} env steps"))
    last = {str(name): float(value) for name, value in curve.iloc[-1].dropna().items()}
    trained, seconds = last.get("env_steps", 0.0), last.get("wall_seconds", 0.0)
    rate = f", {number_text(trained / seconds)} env steps a second" if seconds > 0 else ""
    facts += [
        ("Trained", f"{number_text(trained)} env steps in {minutes_text(seconds)}{rate}"),
        ("Iterations", f"{number_text(last.get('iteration'))}, with {number_text(last.get('updates'))} updates"),
        ("Checkpoints", ", ".join(kept) or "none"),
    ]
    headline, unit = "No return", "no episode was finished"
    for kind, frame in known.items():  # an evaluation says more
        headline, unit = number_text(frame["y"].iloc[-1]), f"return at the end, {kind}"
    claim = "Returns of training are means of the last 100 episodes, with exploration noise. Evaluations have no noise."
    screen = FirstScreen(headline, unit, claim, facts, go_on)

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
    numbers = [{"number": name, "value": value} for name, value in last.items()]
    sections = [
        Section("curves", "Curves", [text], drawn),
        Section("last", "The last iteration", tables=[Table.of("last-table", "Every number of it", numbers)]),
        again,
    ]
    return Page(title, subtitle, screen, sections, str(folder))
