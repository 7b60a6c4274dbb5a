"""``train`` one configuration."""

import argparse
import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import add_results, add_set, add_trace, add_verb, positive, positive_int
from harness.cli.output import print_json, show_timeline
from unilab.errors import UserError

if TYPE_CHECKING:
    from rich.console import Console

    from harness.runs.training import RunConfiguration
    from unilab.run.progress import Summary

HERE = Path()
"""what ``--resume`` without a name stands for: --out"""


def add(verbs: Any) -> None:
    verb = add_verb(verbs, "train", train, "train in an environment, or one configuration, best.yaml included")
    verb.add_argument(
        "config", metavar="ENV|CONFIG",
        help="an environment, as 'env' in a suite; a file with trainer, env and settings; a study, whose best.yaml is "
        "meant; or the folder of a run",
    )  # fmt: skip
    text = "trainer for an environment: appo (the default), sac, td3, or package.module:Class"
    verb.add_argument("--trainer", metavar="TRAINER", help=text)
    add_results(verb)
    verb.add_argument(
        "--iterations", type=positive_int, metavar="N", help="iterations in total, also those before a resume"
    )
    verb.add_argument("--minutes", type=positive, metavar="M", help="minutes of training, also those before a resume")
    text = "train with N seeds, one after the other, each within the limits, and show the interval of their returns"
    verb.add_argument("--seeds", type=positive_int, metavar="N", help=text)
    text = "folder of checkpoints and metrics; default: runs/NAME, named after the configuration"
    verb.add_argument("--out", type=Path, metavar="DIR", help=text)
    verb.add_argument(
        "--resume", type=Path, nargs="?", const=HERE, metavar="CHECKPOINT",
        help="go on from this checkpoint; without a name, from the checkpoint in --out",
    )  # fmt: skip
    verb.add_argument("--overwrite", action="store_true", help="replace the run that is in --out")
    add_set(verb, "settings.num_envs=512")
    add_trace(verb)


def train(arguments: argparse.Namespace) -> int:
    from harness.report.live import console
    from harness.runs import folder as run_folder
    from harness.runs import training
    from harness.trainers import trainer as trainers

    job = training.named(arguments.config, arguments.results, arguments.trainer, arguments.set)
    if arguments.resume is not None and not job.trainer.resumes:
        raise UserError(f"--resume: {job.trainer_name} starts anew each time; leave --resume out")
    trainers.enter(job.trainer.interpreter(job.settings), "harness")
    out = console(stderr=arguments.json)
    for note in job.notes:
        out.print(f"note: {note}", style="yellow", soft_wrap=True)
    named = Path(arguments.config)  # a run that is named by its folder stays there
    folder = arguments.out or (named if run_folder.configuration_of(named) else Path("runs") / job.name)
    if arguments.seeds is not None:
        return _train_seeds(arguments, job, folder, out)
    resume = folder if arguments.resume is HERE else arguments.resume
    run_folder.check(folder, resume, arguments.overwrite, resumes=job.trainer.resumes)
    summary = _train(arguments, job, folder, resume, out)
    if arguments.json:
        print_json(dataclasses.asdict(summary) | {"folder": folder})
    out.print(training.describe(summary, folder), soft_wrap=True, markup=False)
    if arguments.trace:
        show_timeline(folder, out)
    return training.exit_code(summary)


def _train(
    arguments: argparse.Namespace, job: "RunConfiguration", folder: Path, resume: Path | None, out: "Console"
) -> "Summary":
    """Train in ``folder``, which was checked."""
    from harness.report.live import TrainDisplay
    from harness.runs import training

    seconds = arguments.minutes * 60 if arguments.minutes else None
    out.print(f"writing to {folder}; Ctrl-C ends it with a checkpoint", soft_wrap=True, markup=False)
    try:
        with TrainDisplay(out, arguments.iterations, seconds) as display:
            return training.run(
                job, folder, iterations=arguments.iterations, seconds=seconds, resume=resume,
                overwrite=arguments.overwrite, on_progress=lambda progress: display.progress(progress.scalars()),
                trace=arguments.trace,
            )  # fmt: skip
    except FloatingPointError as error:  # numbers exploded: the text says where
        raise UserError(str(error)) from error


def _train_seeds(arguments: argparse.Namespace, job: "RunConfiguration", folder: Path, out: "Console") -> int:
    """Train with each seed in a folder of its own; with ``--resume`` those that were begun go on."""
    from harness.runs import folder as run_folder
    from harness.runs import seeds, training

    if arguments.minutes is None and arguments.iterations is None:
        raise UserError("--seeds: how long is each to train? Add --minutes M or --iterations N")
    if arguments.resume not in (None, HERE):
        raise UserError("--seeds goes on from the checkpoints in --out: leave out the name behind --resume")
    jobs = seeds.jobs(job, folder, arguments.seeds)
    resumed = {own for _, own in jobs.values() if arguments.resume is HERE and run_folder.models_of(own)}
    for _, own in jobs.values():
        run_folder.check(own, own if own in resumed else None, arguments.overwrite, resumes=job.trainer.resumes)
    found, exit_code = [], 0
    for number, (seed, (one, own)) in enumerate(jobs.items(), 1):
        out.print(f"seed {seed}, {number} of {len(jobs)}:", soft_wrap=True)
        summary = _train(arguments, one, own, own if own in resumed else None, out)
        if exit_code := training.exit_code(summary):
            how = "add --resume to the same command to go on"
            if not job.trainer.resumes:
                how = f"what the seeds before it learned is in {folder}"
            out.print(f"stopped by {summary.stopped_by}; {how}", soft_wrap=True, markup=False)
            break
        found.append(seeds.evaluate(one, own))
    if found:
        out.print(seeds.describe(found), soft_wrap=True, markup=False)
    if arguments.json:
        mean, interval = seeds.together(found) if found else (None, None)
        content = {"folder": folder, "episodes": seeds.EPISODES, "seeds": list(map(dataclasses.asdict, found))}
        print_json(content | {"mean_return": mean, "interval": interval})
    if arguments.trace:
        show_timeline(folder / "seed-*", out)
    return exit_code
