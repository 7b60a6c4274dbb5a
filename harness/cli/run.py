"""``run``: measure what a suite says, or go on with its study. ``tune``: the same, with a suite made from a goal."""

import argparse
import sys
import time
from contextlib import AbstractContextManager, ExitStack
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import FAILURE, add_limits, add_set, add_suite, add_trace, add_verb, overrides, study_name
from harness.cli.output import print_json, show_timeline
from unilab.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.measure.engines.blocks import Engine
    from harness.measure.engines.cluster import Cluster
    from harness.predict.plan import Plan
    from harness.study.folder import Study


def add(verbs: Any) -> None:
    suite = add_verb(verbs, "run", run, "measure what a suite says, or go on with its study")
    add_suite(suite)
    goal = add_verb(verbs, "tune", tune, "find the best configuration for an environment, without a suite file")
    text = "a task of this project, a gymnasium id, or module:Class"
    goal.add_argument("env", metavar="ENV", help=f"environment to train in: {text}")
    text = "appo (the default), sac, td3, or package.module:Class"
    goal.add_argument("--trainer", default="appo", metavar="TRAINER", help=text)
    text = "throughput (the default); time-to-return=RETURN, such as 3000; or memory=SIZE, such as 8GB"
    goal.add_argument("--goal", default="throughput", metavar="GOAL", help=text)
    add_set(goal, "fixed.num_envs=512")
    for verb in (suite, goal):  # how a study is measured, and where its files go
        add_limits(verb)
        add_trace(verb)
        text = "name of the study, by which report, show, best, train and the like find it"
        verb.add_argument("--name", type=study_name, metavar="NAME", help=text)
        text = "database that keeps the study, so that several runs can share it; default: files"
        verb.add_argument("--storage", metavar="URL", help=text)
        verb.add_argument("--watch", action="store_true", help="keep report.html current while the study runs")
        text = "where trials run: on this machine (the default) or on the nodes of a Ray cluster"
        verb.add_argument("--engine", choices=("local", "ray"), default="local", help=text)
        verb.add_argument(
            "--address", metavar="HOST:PORT", help="address of the cluster's head; default: the cluster of this machine"
        )
        verb.add_argument(
            "--insecure-cluster", action="store_true",
            help="use a cluster that asks for no token, so that anybody in its network can run code there",
        )  # fmt: skip
        text = "run as many trials on a node as fit, which is quicker and disturbs their numbers"
        verb.add_argument("--share-nodes", action="store_true", help=text)


def run(arguments: argparse.Namespace, made: "Plan | None" = None) -> int:
    """Measure a suite, or go on with its study; ``made`` is the plan where there is no suite file."""
    from harness.predict import plan
    from harness.study import timelines

    began = time.monotonic()
    if arguments.name and (arguments.results / arguments.name).exists():
        raise UserError(f"--name {arguments.name}: a suite of that name has studies; choose another name")
    # before anything slow is imported
    made = made or plan.make(arguments.suite, overrides(arguments), arguments.results)
    if arguments.trace:
        timelines.check_trainer(made.trainer)
    with ExitStack() as opened:
        cluster = None
        if arguments.engine == "ray":
            if made.suite.measure.cores is not None:
                raise UserError("measure.cores keeps repeats apart on one machine: leave it out with --engine ray")
            from harness.measure.engines.cluster import connected

            cluster = opened.enter_context(connected(arguments.address, insecure=arguments.insecure_cluster))
        elif arguments.address or arguments.share_nodes or arguments.insecure_cluster:
            raise UserError("--address, --share-nodes and --insecure-cluster go with --engine ray")
        study = _open(arguments, made, opened)
        study.machine = cluster.machine if cluster else study.machine
        known = study.records.records
        timelines.check_study(known, arguments.trace)
        if others := study.strangers():
            raise UserError(
                f"this study was measured on another machine or with other cores ({', '.join(others)}; this is "
                f"{study.machine}). Numbers of both do not compare: take another --results DIR for a new study"
            )
        if any(record.shared != arguments.share_nodes for record in known if record.state == "complete"):
            how, remedy = ("without", "leave it out") if arguments.share_nodes else ("with", "add it")
            raise UserError(
                f"this study was measured {how} --share-nodes: {remedy} to go on with it, or take another "
                "--results DIR for a study of its own"
            )
        return _run(arguments, made, study, cluster, began)


def tune(arguments: argparse.Namespace) -> int:
    """As ``run``, with a suite that is made from a goal."""
    from harness.files.yaml_file import to_yaml
    from harness.predict import plan
    from harness.predict.memory import host_limit
    from harness.suite import recipes, schema

    suite = recipes.recipe(arguments.env, arguments.trainer, arguments.goal, arguments.minutes, host_limit(1.0))
    source = schema.parse(to_yaml(suite), "tune", overrides(arguments))
    return run(arguments, plan.complete(source, arguments.results))


def _open(arguments: argparse.Namespace, made: "Plan", opened: ExitStack) -> "Study":
    """The study in its folder, or in a database with a copy in its folder; ``opened`` closes it."""
    folder = made.folder(arguments.results)
    if arguments.storage is not None:
        from harness.report.live import console
        from harness.study.database.database import Database
        from harness.study.database.shared_study import SharedStudy

        database = opened.enter_context(Database(arguments.storage))
        options = {"--trace": arguments.trace, "--share-nodes": arguments.share_nodes}
        given = " ".join(name for name, is_given in options.items() if is_given)
        say = partial(console(stderr=arguments.json).print, soft_wrap=True)
        return opened.enter_context(SharedStudy(folder, made, database, given, say))
    from harness.study.folder import Study
    from harness.study.results import RecordedStudy

    study = opened.enter_context(Study(folder))
    if kept_in := RecordedStudy(folder).manifest.get("storage"):
        raise UserError(f"{folder}: this study is kept in {kept_in}: add --storage, or take another --results DIR")
    return study


def _run(arguments: argparse.Namespace, made: "Plan", study: "Study", cluster: "Cluster | None", began: float) -> int:
    """Measure the study and write its files."""
    from harness.measure.engines.local import LocalEngine
    from harness.measure.stop import Stopped, StopSignal
    from harness.predict import ranking
    from harness.report.live import StudyDisplay, console
    from harness.study.search import Sweep
    from unilab.ipc import remove_leftovers

    out = console(stderr=arguments.json)
    say = partial(out.print, soft_wrap=True)
    said = sys.argv[1:]
    if arguments.storage is not None:  # without a password
        from harness.study.database.database import masked

        said = [word.replace(arguments.storage, masked(arguments.storage)) for word in said]
    with StopSignal() as stop:
        for aside in study.set_aside:
            out.print(f"warning: unreadable lines were moved to {aside}", style="yellow")
        for name in remove_leftovers():
            out.print(f"removed {name}, left in shared memory by a crashed run")
        for note in made.notes:
            out.print(f"note: {note}", style="yellow", soft_wrap=True)
        exit_code = 0
        try:
            with study.locked(stop):  # drivers may have a folder in common
                study.describe(made, [Path(sys.executable).name, "-m", "harness", *said], arguments.name)
            opened: AbstractContextManager[Engine] = LocalEngine(study.machine, stop, cores=made.suite.measure.cores)
            if cluster is not None:
                from harness.measure.engines.ray_engine import RayEngine

                use = "shared" if arguments.share_nodes else "one trial each"
                say(f"cluster:    {len(cluster.nodes)} nodes, {use}")
                for left_out in cluster.left_out:
                    say(f"not used:   {left_out}")
                opened = RayEngine(cluster, stop, share_nodes=arguments.share_nodes, say=say)
            with opened as engine:
                known = ranking.prepare(made, arguments.results, study.folder, stop, say, engine.reserved_here)
                watched = study.folder if arguments.watch else None
                with StudyDisplay(made, out, began, watched) as display:
                    display.note_existing(study.records.records)
                    sweep = Sweep(
                        made, study, stop, display, engine, trace=arguments.trace, say=say, prediction=known,
                        began=began,
                    )  # fmt: skip
                    sweep.run()
                if sweep.ending and made.suite.confirm is not None:  # once more, after what followed the search
                    say(sweep.ending)
                for what in [f"{count} {name} are missing" for name, count in sweep.missing.items() if count]:
                    when = f"limits.minutes = {made.suite.limits.minutes:g}"
                    say(f"time is up ({when}): {what}; run the same command again to measure them")
        except Stopped as stopped:
            exit_code = stopped.exit_code
            out.print(f"{stopped}; run the same command again to go on from here")
        if study.records.records:
            _leave(arguments, made, study, out, ended=exit_code == 0)
            if exit_code == 0 and not study.ranking(made.suite):
                exit_code = FAILURE
        elif arguments.watch:  # stopped before anything was measured: the page must not go on waiting
            _report(study.folder, out)
    return exit_code


def _leave(arguments: argparse.Namespace, made: "Plan", study: "Study", out: "Console", *, ended: bool) -> None:
    """Write what is made from the complete records: tables, ``best.yaml``, the report and asv's history."""
    from harness.measure.record import write_tables
    from harness.report import terminal
    from harness.report.page.write import film
    from harness.report.studies import ReportedStudy

    write_tables(study.folder, study.records.records)
    terminal.write_best(made, study)
    reported = ReportedStudy(study.folder)
    terminal.show_measured(reported, out)
    if arguments.trace:
        show_timeline(study.folder / "logs" / "*", out)
    if ended and (filmed := film(study.folder)):
        out.print(filmed, soft_wrap=True, markup=False)
    _report(study.folder, out)
    if ended:
        from harness.report.asv_export import AsvExportError, export

        asv = arguments.results / "asv"
        try:
            export(study.folder, asv)
        except AsvExportError as error:
            out.print(f"not added to asv's history: {error}", style="yellow", soft_wrap=True)
        else:
            out.print(f"asv:        {asv} (asv publish, asv show)", soft_wrap=True)
    terminal.show_answer(reported, out)
    if arguments.json:
        print_json(terminal.summary(reported))


def _report(study: Path, out: "Console") -> None:
    from harness.report.page.write import write_report

    written = write_report(study)
    out.print(f"report:     {written.html} (open it in a browser)", soft_wrap=True)
