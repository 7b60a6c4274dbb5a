"""The command line: ``python -m harness VERB``.

Exit codes: 0 success, 1 failure, 2 wrong usage, 130 and 143 stopped by SIGINT and SIGTERM. ``compare`` has codes of its
own: 0 no regression, 1 regression, 2 error, 3 nothing comparable was measured.
"""

import argparse
import json
import math
import os
import sys
import traceback
from collections.abc import Callable, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from rich.console import Console

    from harness.display import StudyDisplay
    from harness.plan import Plan
    from harness.study import Study
    from harness.sweep import Display

FAILURE = 1
COMPARE_ERROR = 2
"""where 1 is a regression"""

DESCRIPTION = "Finds, proves and remembers the best way to train asynchronously on this machine."


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run one command; errors that the user can mend are one line on stderr."""
    arguments = parser().parse_args(argv)
    errors = _user_errors()
    try:
        return int(arguments.verb(arguments))
    except errors as error:
        return _fail(arguments, error)
    except BrokenPipeError:  # the reader, such as `head`, has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return int(arguments.error_code)
    except KeyboardInterrupt:
        return 130
    except Exception:
        if arguments.error_code == FAILURE:
            raise
        traceback.print_exc()  # Python's own exit code would say that there is a regression
        return int(arguments.error_code)


def _user_errors() -> tuple[type[Exception], ...]:
    """Errors that say what to do; all others keep their traceback."""
    from harness.compare.revisions import CompareError
    from harness.document import InputError
    from harness.provenance import ProvenanceError
    from harness.record import RecordError
    from harness.timelines import TraceError
    from harness.trainers import TrainerError
    from unilab.training.settings import SettingsError

    return (InputError, TrainerError, SettingsError, RecordError, ProvenanceError, TraceError, CompareError, _Refused)


class _Refused(Exception):
    """A command that cannot be carried out, with its reason."""


def _fail(arguments: argparse.Namespace, error: Exception) -> int:
    if getattr(arguments, "json", False):
        print(json.dumps({"error": str(error), "kind": type(error).__name__}))
    print(f"error: {error}", file=sys.stderr)
    return int(arguments.error_code)


def _print_json(content: Any) -> None:
    print(json.dumps(_finite(content), indent=2, default=str))


def _finite(value: Any) -> Any:
    """NaN and infinity, which JSON lacks, as null."""
    if isinstance(value, dict):
        return {key: _finite(inner) for key, inner in value.items()}
    if isinstance(value, list | tuple):
        return [_finite(inner) for inner in value]
    return None if isinstance(value, float) and not math.isfinite(value) else value


# -- verbs


def validate(arguments: argparse.Namespace) -> int:
    from harness import plan

    made = plan.make(arguments.suite, arguments.set)
    if arguments.json:
        _print_json({"suite": made.suite.name, "study": made.study_id, "valid": True, "dropped": made.dropped})
        return 0
    print(f"{arguments.suite}: valid; study {made.suite.name}/{made.study_id}")
    for dropped in made.dropped:
        print(f"left out of the search: {dropped}")
    return 0


def show_plan(arguments: argparse.Namespace) -> int:
    from harness import outlook, plan, tables
    from harness.display import console

    made = plan.make(arguments.suite, _overrides(arguments), arguments.results)
    known, missing = outlook.kept(made, arguments.results)
    folder = made.folder(arguments.results)
    if arguments.json:
        _print_json(tables.plan_dict(made, folder, known, missing))
    else:
        tables.show_plan(made, folder, console(), known, missing)
    return 0


def run(arguments: argparse.Namespace) -> int:
    from harness import plan, timelines

    # before anything slow is imported
    made = plan.make(arguments.suite, _overrides(arguments), arguments.results)
    if arguments.trace:
        timelines.check_trainer(made.trainer)

    from harness.study import Study, StudyLocked

    try:
        study = Study(made.folder(arguments.results))
    except StudyLocked as error:
        raise _Refused(str(error)) from None
    with study:
        timelines.check_study(study.records.records, arguments.trace)
        _check_machine(study)
        return _run(arguments, made, study)


def _check_machine(study: "Study") -> None:
    """Numbers of two machines in one study would be compared as if they were of one."""
    others = sorted({record.machine for record in study.records.records} - {study.machine})
    if others:
        raise _Refused(
            f"this study was measured on another machine or with other cores ({', '.join(others)}; this is "
            f"{study.machine}), which does not compare: take another --results DIR for a study of its own"
        )


def _run(arguments: argparse.Namespace, made: "Plan", study: "Study") -> int:
    from harness import outlook, tables
    from harness.display import StudyDisplay, console
    from harness.stop import Stopped, StopSignal
    from harness.sweep import Sweep
    from unilab.ipc import segments

    out = console(stderr=arguments.json)
    with StopSignal() as stop:
        for aside in study.set_aside:
            out.print(f"warning: unreadable lines were moved to {aside}", style="yellow")
        for name in segments.remove_leftovers():
            out.print(f"removed {name}, left in shared memory by a crashed run")
        study.describe(made, [Path(sys.executable).name, "-m", "harness", *sys.argv[1:]])
        exit_code = 0
        try:
            known = outlook.prepare(made, arguments.results, study.folder, stop, partial(out.print, soft_wrap=True))
            with StudyDisplay(made, out) as display:
                display.note_existing(study.records.records)
                watched = _watched(display, study, out) if arguments.watch else display
                Sweep(made, study, stop, watched, trace=arguments.trace, outlook=known).run()
        except Stopped as stopped:
            exit_code = stopped.exit_code
            out.print(f"{stopped}; run the same command again to go on from here")
        if study.records.records:
            study.write_tables()
            tables.write_best(made, study)
            tables.show(made, study, out)
            if arguments.trace:
                _show_timeline(study.folder / "logs" / "*", out)
            _report(study.folder, out)
            if exit_code == 0:
                _export(study.folder, arguments.results / "asv", out)
            if arguments.json:
                _print_json(tables.summary(made, study))
            if exit_code == 0 and not study.ranking(made.suite):
                exit_code = FAILURE
        elif arguments.watch:  # stopped before anything was measured: the page must not go on waiting
            _report(study.folder, out)
    return exit_code


def _watched(display: "StudyDisplay", study: "Study", out: "Console") -> "Display":
    from harness.report.watch import ReportingDisplay

    watched = ReportingDisplay(display, study.folder)
    out.print(f"report:     {watched.path} (open it in a browser; it keeps itself current)", soft_wrap=True)
    return watched


def _report(study: Path, out: "Console") -> None:
    from harness.report.write import write_report

    written = write_report(study)
    out.print(f"report:     {written.html} (open it in a browser)", soft_wrap=True)


def _export(study: Path, asv: Path, out: "Console") -> None:
    from harness.asv_export import ExportError, export

    try:
        export(study, asv)
    except ExportError as error:
        out.print(f"not added to asv's history: {error}", style="yellow", soft_wrap=True)
    else:
        out.print(f"asv:        {asv} (asv publish, asv show)", soft_wrap=True)


def _show_timeline(folder: Path, out: "Console") -> None:
    from harness.timelines import TRACE_FILE, VIEWER

    out.print(f"timeline: {folder / TRACE_FILE} (open it in {VIEWER})", soft_wrap=True)


def _overrides(arguments: argparse.Namespace) -> list[str]:
    """Options that stand for keys of the suite file."""
    options = {"limits.trials": arguments.trials, "limits.minutes": arguments.minutes, "sampler.seed": arguments.seed}
    return [*arguments.set, *(f"{key}={value}" for key, value in options.items() if value is not None)]


def report(arguments: argparse.Namespace) -> int:
    from harness.report.write import write_named

    written = write_named(arguments.study, arguments.results, arguments.out, side_by_side=arguments.compare)
    if arguments.json:
        _print_json(vars(written))
    else:
        print(f"{written.html} ({written.bytes / 1e6:.1f} MB, open it in a browser), {written.markdown}")
    return 0


def train(arguments: argparse.Namespace) -> int:
    from harness import training
    from harness.display import TrainDisplay, console

    job = training.load(training.configuration(arguments.config, arguments.results), arguments.set)
    out = console(stderr=arguments.json)
    seconds = arguments.minutes * 60 if arguments.minutes else None
    folder = arguments.out or Path("runs") / job.name
    try:
        with TrainDisplay(out, arguments.iterations, seconds) as display:
            summary = training.run(
                job, folder, iterations=arguments.iterations, seconds=seconds,
                resume=arguments.resume, on_progress=lambda progress: display.progress(progress.scalars()),
                trace=arguments.trace,
            )  # fmt: skip
    except training.expected_errors() as error:
        raise _Refused(str(error)) from error
    if arguments.json:
        _print_json(training.as_dict(summary))
    out.print(training.describe(summary), soft_wrap=True)
    if arguments.trace:
        _show_timeline(folder, out)
    return training.exit_code(summary)


def evaluate(arguments: argparse.Namespace) -> int:
    from unilab.algos.torch.evaluate import evaluate as play
    from unilab.training.checkpoint import CheckpointError

    if arguments.episodes < 1:
        raise _Refused(f"--episodes must be at least 1, got {arguments.episodes}")
    try:
        result = play(arguments.checkpoint, arguments.episodes, arguments.seed, arguments.num_envs)
    except CheckpointError as error:
        raise _Refused(str(error)) from None
    if arguments.json:
        _print_json(result)
        return 0
    print(f"{result['env']}: return {result['return_mean']:,.1f} ± {result['return_std']:,.1f} (standard deviation),")
    print(f"from {result['return_min']:,.1f} to {result['return_max']:,.1f} over {result['episodes']} episodes")
    return 0


def compare(arguments: argparse.Namespace) -> int:
    from harness.compare import command
    from harness.display import console
    from harness.stop import Stopped

    try:
        comparison, content = command.run(arguments, console(stderr=arguments.json))
    except Stopped as stopped:
        print(stopped, file=sys.stderr)
        return stopped.exit_code
    if arguments.json:
        _print_json(content)
    return comparison.exit_code


def list_all(arguments: argparse.Namespace) -> int:
    from harness import listing

    content = listing.collect(arguments.results, Path("suites"))
    if arguments.json:
        _print_json(content)
    else:
        print(listing.text(content))
    return 0


def show_machine(arguments: argparse.Namespace) -> int:
    from harness import machine

    description = machine.describe()
    if arguments.json:
        _print_json(description)
    else:
        print(machine.table(description))
    return 0


def clean(arguments: argparse.Namespace) -> int:
    from unilab.ipc import segments

    removed = segments.remove_leftovers()
    if arguments.json:
        _print_json({"removed": removed})
        return 0
    for name in removed:
        print(f"removed {name}")
    print(f"{len(removed)} left-over segments of shared memory removed" if removed else "nothing was left over")
    return 0


# -- the parser


def parser() -> argparse.ArgumentParser:
    """Verbs and their options."""
    top = argparse.ArgumentParser(prog="python -m harness", description=DESCRIPTION)
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    _run_verb(_suite_verb(verbs, "run", run, "measure what a suite says, or go on with its study", limits=True))
    _suite_verb(verbs, "plan", show_plan, "trials, time and memory of a suite; nothing is started", limits=True)
    _suite_verb(verbs, "validate", validate, "check a suite file; nothing is started", limits=False)
    _report_verb(_verb(verbs, "report", report, "a page for people, of one study or of several side by side"))
    _train_verb(_verb(verbs, "train", train, "train one configuration, best.yaml included"))
    _evaluate_verb(_verb(verbs, "eval", evaluate, "returns of a checkpoint's policy, without noise"))
    _compare_verb(_verb(verbs, "compare", compare, "is NEW worse than BASE: two studies, commits or configurations"))
    _results(_verb(verbs, "list", list_all, "studies, suites and environments there are"))
    _verb(verbs, "machine", show_machine, "describe this machine")
    _verb(verbs, "clean", clean, "remove shared memory that crashed runs left")
    return top


def _verb(verbs: Any, name: str, function: Callable[[argparse.Namespace], int], text: str) -> argparse.ArgumentParser:
    verb = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(verb=function, error_code=FAILURE)
    verb.add_argument("--json", action="store_true", help="print the outcome as JSON")
    return verb


def _results(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--results", type=Path, default=Path("results"), metavar="DIR", help="default: results")


def _set(verb: argparse.ArgumentParser, example: str) -> None:
    verb.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE", help=f"over the file, as {example}; may be repeated"
    )


def _trace(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--trace", action="store_true", help="keep a timeline, which costs a little speed")


def _suite_verb(
    verbs: Any, name: str, function: Callable[[argparse.Namespace], int], text: str, *, limits: bool
) -> argparse.ArgumentParser:
    verb = _verb(verbs, name, function, text)
    verb.add_argument("suite", type=Path, metavar="SUITE", help="a suite file")
    _set(verb, "fixed.num_envs=512")
    if limits:
        _results(verb)
        verb.add_argument("--trials", type=int, metavar="N", help="trials of the study in total")
        verb.add_argument("--minutes", type=float, metavar="M", help="wall time of this run")
        verb.add_argument("--seed", type=int, metavar="S", help="of the sampler and of the first repeat")
    return verb


def _run_verb(verb: argparse.ArgumentParser) -> None:
    _trace(verb)
    verb.add_argument("--watch", action="store_true", help="keep report.html current while the study runs")


def _report_verb(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "study", nargs="+", metavar="STUDY", help="a study's folder, <suite>/<study id>, or a suite: its newest study"
    )
    _results(verb)
    verb.add_argument("--compare", action="store_true", help="side by side; of a suite all its studies")
    verb.add_argument(
        "--out", type=Path, metavar="FILE", help="default: report.html in the study, comparison.html in --results"
    )


def _train_verb(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "config", metavar="CONFIG", help="YAML with trainer, env and settings, or a study, whose best.yaml is meant"
    )
    _results(verb)
    verb.add_argument("--iterations", type=_positive_int, metavar="N", help="in total, those before a resume included")
    verb.add_argument("--minutes", type=_positive, metavar="M", help="of training, those before a resume included")
    verb.add_argument("--out", type=Path, metavar="DIR", help="checkpoints and metrics; default: runs/<config name>")
    verb.add_argument("--resume", type=Path, metavar="CHECKPOINT", help="go on from here")
    _set(verb, "settings.num_envs=512")
    _trace(verb)


def _evaluate_verb(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("checkpoint", type=Path, metavar="CHECKPOINT")
    verb.add_argument("--episodes", type=int, default=16, metavar="N", help="default: 16")
    verb.add_argument("--seed", type=int, default=0, metavar="S", help="of the environments; default: 0")
    verb.add_argument("--num-envs", type=_positive_int, metavar="N", help="default: as many as episodes")


def _compare_verb(verb: argparse.ArgumentParser) -> None:
    verb.set_defaults(error_code=COMPARE_ERROR)
    verb.epilog = "Exit code: 0 no regression, 1 regression, 2 error, 3 nothing comparable was measured."
    what = "a study (folder, or SUITE/ID below --results), a commit, or a configuration such as best.yaml"
    verb.add_argument("base", metavar="BASE", help=what)
    verb.add_argument("new", metavar="NEW", help="likewise")
    _results(verb)
    verb.add_argument(
        "--metric", action="append", default=[], metavar="NAME",
        help="decides about the exit code; may be repeated; default: the suite's objectives",
    )  # fmt: skip
    verb.add_argument("--across-machines", action="store_true", help="pair records of different machines, too")
    now = verb.add_argument_group("measuring now")
    now.add_argument("--measure", action="store_true", help="measure both sides now, in turns, in fresh processes")
    configuration = now.add_mutually_exclusive_group()
    configuration.add_argument("--suite", type=Path, metavar="SUITE", help="measure its baseline at the commits")
    configuration.add_argument("--config", type=Path, metavar="FILE", help="measure this configuration at the commits")
    now.add_argument("--pairs", type=_positive_int, metavar="N", help="at least 6; default: 8")
    now.add_argument("--seconds", type=_positive, metavar="S", help="steady window; default: the suite's")
    now.add_argument(
        "--warmup", type=_not_negative, metavar="S", help="left out before the window; default: the suite's"
    )


def _positive(text: str) -> float:
    value = float(text)
    if not value > 0 or math.isinf(value):
        raise argparse.ArgumentTypeError(f"expected a number above 0, got {text}")
    return value


def _not_negative(text: str) -> float:
    value = float(text)
    if not 0 <= value < math.inf:
        raise argparse.ArgumentTypeError(f"expected 0 or more, got {text}")
    return value


def _positive_int(text: str) -> int:
    value = int(text)
    if value < 1:
        raise argparse.ArgumentTypeError(f"expected a whole number above 0, got {text}")
    return value
