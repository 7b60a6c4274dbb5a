"""What a study found: the first screen of its page, and the end of what a run says. Charts come with the page."""

import math
import shlex
import statistics
from pathlib import Path

from harness.measure.record import attempts_that_count
from harness.report.finding import baseline_name, change_of, conclude, doubts, side_text, standing_claim, standings
from harness.report.page.model import MISSING, Cell, FirstScreen, Row, Section, Table
from harness.report.studies import ReportedStudy
from harness.stats.inference import BOOTSTRAPPED, POWER, change_text
from harness.suite.metrics import RETURNS, TIMES
from harness.suite.schema import Suite
from harness.suite.text import count_text, metric_text, number_text, setting_text, settings_text, value_text
from harness.trainers import trainer as trainers
from unilab.settings import SettingsError


def train_command(path: Path | str) -> str:
    """The command that trains a configuration, to be copied into a shell."""
    return f"python -m harness train {shlex.quote(str(path))}"


def first_screen(study: ReportedStudy) -> FirstScreen:
    """What a study found, whether it searched or put configurations side by side."""
    return beside_the_baseline(study) if study.suite.only_compares else headline(study)


def headline(study: ReportedStudy) -> FirstScreen:
    """The best configuration, what it gains, what limits it now, and the command that uses it."""
    found = conclude(study.suite, study.records)
    metric, best, baseline = found.metric, study.trial(found.best), study.trial(found.baseline)
    facts, settings, command, name = list[tuple[str, str]](), None, None, metric_text(metric)
    text, unit = "No result", "no trial was measured to its end within the constraints"
    if best is not None:
        if found.shown:  # a gain is named only where the measurements show one
            text, unit = change_text(found.change or 0.0, fraction=found.ratio), f"{name} against the baseline"
        else:
            said = ", the baseline" if best is baseline else "" if found.confirmed else ", unconfirmed"
            text, unit = value_text(metric, found.value), name + said
        after = side_text(metric, found.value, found.value_interval, found.points)
        after += f"; trial {best.number}, {'confirmed' if found.confirmed else 'unconfirmed'}, {best.kind}"
        if baseline in (None, best):
            facts.append(("Best", after))
        else:
            before = side_text(metric, found.baseline_value, found.baseline_interval, found.baseline_points)
            facts += [("Before", before), ("After", after)]
        facts.append(("Gain", change_of(found)))
        if found.learning:
            facts.append(("Learns as well", found.learning))
        facts.append(("Limited now by", study.limited_by(best)))
        if today := defaults_today(study.suite):
            facts.append(("Defaults today", today))
        if found.smallest_effect is not None and not found.shown:
            seen = change_text(found.smallest_effect, fraction=found.ratio, sign="")
            facts.append(("Could be seen", f"a change of {seen}, with a probability of {POWER:.0%}"))
        if care := doubts(found):
            facts.append(("With care", care))
        rows = []
        for setting in dict.fromkeys([*study.suite.search, *best.params]):
            own, before = (
                setting_text(trial.params[setting]) if trial and setting in trial.params else MISSING
                for trial in (best, baseline)
            )
            rows.append({"setting": setting, "best": own, "baseline": "same" if baseline and own == before else before})
        settings = Table.of("best-settings", "Settings of the best configuration", rows, sortable=False)
        command = train_command(study.folder / "best.yaml") if study.best else None
    unmeasured = sum(not trial.complete for trial in study.trials)
    without = f"; {unmeasured} without a result" if unmeasured else ""
    facts.append(("Looked at", f"{looked_at(study, 'trial')}{without}"))
    return FirstScreen(text, unit, found.claim, facts, command, settings)


def looked_at(study: ReportedStudy, what: str) -> str:
    """The number of its trials, and of their repeats: one that was measured again is one."""
    return f"{count_text(len(study.trials), what)}, {count_text(len(attempts_that_count(study.records)), 'repeat')}"


def defaults_today(suite: Suite) -> str:
    """The defaults of one of this project's trainers that differ from a baseline that a suite states value by value.

    Such a baseline stays as it is when defaults improve. What the suite holds fixed is not compared. Empty where none
    differs.
    """
    value_by_value = suite.baseline and suite.search.keys() <= suite.baseline.keys()
    if not value_by_value or suite.trainer not in trainers.REGISTRY:
        return ""
    try:
        defaults = trainers.get(suite.trainer).complete({"env": suite.tasks[0]} | suite.fixed)  # with those of a preset
    except SettingsError:  # the study is of a version that had other settings
        return ""
    defaults = {name: list(value) if isinstance(value, tuple) else value for name, value in defaults.items()}
    differ = [name for name, value in suite.baseline.items() if name in defaults and defaults[name] != value]
    if not differ:
        return ""
    now, stated = (settings_text({name: values[name] for name in differ}) for values in (defaults, suite.baseline))
    return f"{now}, where the baseline has {stated}"


def beside_the_baseline(study: ReportedStudy) -> FirstScreen:
    """Where configurations stand side by side: in which environments the baseline is ahead."""
    metric, found = study.suite.objectives[0].metric, standings(study.suite, study.records)
    count, claim = standing_claim(study.suite, found)
    facts = [
        (env, "; ".join(f"{one.name} {value_text(metric, one.value)}"
                        + f" ({own[0].name} {one.text})" * (one.verdict is not None) for one in own))
        for env, own in found.items()
    ]  # fmt: skip
    without = sum(not one.points for own in found.values() for one in own)
    text = looked_at(study, "configuration")
    facts.append(("Looked at", text + f"; {count_text(without, 'configuration')} without a result" * bool(without)))
    unit = f"of {len(study.suite.tasks)} environments: there {baseline_name(found)} is ahead of all others"
    return FirstScreen(str(count), unit, claim, facts)


def final_policies(study: ReportedStudy) -> Section:
    """Every configuration in each environment beside the baseline, by the first objective."""
    metric, found = study.suite.objectives[0].metric, standings(study.suite, study.records)
    episodes, baseline, name = study.suite.measure.evaluate, baseline_name(found), metric_text(metric)
    rows, judged = list[Row](), sorted({what for record in study.records for what in record.judged})
    for env, own in found.items():
        for one in own:
            low, high = one.interval or (math.nan, math.nan)
            missed = one.points and math.isnan(one.value)  # by half of the repeats or more
            rows.append({
                "environment": env, "of": one.name,
                name: Cell(value_text(metric, one.value)) if missed else Cell.metric(metric, one.value),
                "low": Cell.metric(metric, low), "high": Cell.metric(metric, high), f"{baseline} is": one.word,
                "by": one.ahead, "repeats": f"{one.reached} of {len(one.trial.counted)}",
                "env steps": one.trial.value("env_steps"),
            })  # fmt: skip
            taken = set(rows[-1])
            for what in judged:  # an environment may call a number as a column is called here
                last = [record.judged[what] for record in one.trial.complete if what in record.judged]
                column = f"{text} (judged)" if (text := metric_text(what)) in taken else text
                rows[-1][column] = statistics.median(last or [math.nan])
    text = f"{name[0].upper()}{name[1:]}: median over the repeats, with its 95 % interval. "
    if metric in RETURNS:
        text = f"{name[0].upper()}{name[1:]}: interquartile mean over the repeats, which are seeds, with its 95 % "
        text += f"bootstrap interval from {BOOTSTRAPPED} seeds on. "
    if metric == "seconds_to_return":
        text += f"The target is a mean return of {number_text(study.suite.measure.target_return)}. "
    if study.suite.measure.judge is not None:
        text += f"The environment judged kept policies in {study.suite.measure.judge.episodes} episodes each; "
        text += "what it says of the last one is a median over the repeats. "
    if metric in TIMES:
        text += f"A repeat that did not reach {TIMES[metric]} counts as the longest training, so that differences are "
        text += "at least as large. "
    if episodes is not None:
        text += f"After its training each policy played {episodes} whole episodes without noise. "
    text += f"{baseline} is ahead or behind, by the difference of the means, where a permutation test shows it."
    title = "Results" if episodes is None else "Final policies"
    return Section("standings", title, [text], (), [Table.of("standings-table", title, rows)])
