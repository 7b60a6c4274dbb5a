"""``train`` one configuration and ``eval`` its policy."""

import argparse
import dataclasses
from pathlib import Path
from typing import Any

from harness.cli.options import add_results, add_set, add_trace, add_verb, not_negative_int, positive, positive_int
from harness.cli.output import print_json, show_timeline, tell
from unilab.errors import UserError

HERE = Path()
"""what ``--resume`` without a name stands for: --out"""


def add_train(verbs: Any) -> None:
    verb = add_verb(verbs, "train", train, "train one configuration, best.yaml included")
    verb.add_argument(
        "config", metavar="CONFIG",
        help="a file with trainer, env and settings; a study, whose best.yaml is meant; or the folder of a run",
    )  # fmt: skip
    add_results(verb)
    verb.add_argument(
        "--iterations", type=positive_int, metavar="N", help="iterations in total, also those before a resume"
    )
    verb.add_argument("--minutes", type=positive, metavar="M", help="minutes of training, also those before a resume")
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
    from harness.report.live import TrainDisplay, console
    from harness.runs import folder as run_folder
    from harness.runs import training
    from harness.trainers import trainer as trainers

    job = training.load(training.configuration(arguments.config, arguments.results), arguments.set)
    trainers.enter(job.trainer.interpreter(job.settings), "harness")
    out = console(stderr=arguments.json)
    for note in job.notes:
        out.print(f"note: {note}", style="yellow", soft_wrap=True)
    seconds = arguments.minutes * 60 if arguments.minutes else None
    folder = arguments.out or training.default_folder(arguments.config, job)
    resume = folder if arguments.resume is HERE else arguments.resume
    run_folder.check(folder, resume, arguments.overwrite)
    out.print(f"writing to {folder}; Ctrl-C ends it with a checkpoint", soft_wrap=True, markup=False)
    try:
        with TrainDisplay(out, arguments.iterations, seconds) as display:
            summary = training.run(
                job, folder, iterations=arguments.iterations, seconds=seconds, resume=resume,
                overwrite=arguments.overwrite, on_progress=lambda progress: display.progress(progress.scalars()),
                trace=arguments.trace,
            )  # fmt: skip
    except FloatingPointError as error:  # numbers exploded: the text says where
        raise UserError(str(error)) from error
    if arguments.json:
        print_json(dataclasses.asdict(summary) | {"folder": folder})
    out.print(training.describe(summary, folder), soft_wrap=True, markup=False)
    if arguments.trace:
        show_timeline(folder, out)
    return training.exit_code(summary)


def add_eval(verbs: Any) -> None:
    verb = add_verb(
        verbs, "eval", evaluate, "play episodes without noise and show the returns of a checkpoint's policy"
    )
    verb.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help="a file, or the folder of a run")
    verb.add_argument("--episodes", type=positive_int, default=16, metavar="N", help="number of episodes; default: 16")
    verb.add_argument(
        "--seed", type=not_negative_int, default=0, metavar="S", help="seed of the environments; default: 0"
    )
    verb.add_argument(
        "--num-envs", type=positive_int, metavar="N", help="environments; default: as many as episodes, 64 at most"
    )


def evaluate(arguments: argparse.Namespace) -> int:
    from harness.report.live import EvalDisplay, console
    from unilab.algos.torch.evaluate import evaluate as play

    with EvalDisplay(console(stderr=True), arguments.episodes) as display:
        result = play(
            arguments.checkpoint, arguments.episodes, arguments.seed, arguments.num_envs, on_step=display.step
        )
    return tell(
        arguments, result,
        f"{result['env']}: return {result['return_mean']:,.1f} ± {result['return_std']:,.1f} (standard deviation),",
        f"from {result['return_min']:,.1f} to {result['return_max']:,.1f} over {result['episodes']} episodes",
    )  # fmt: skip
