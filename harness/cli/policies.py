"""A trained policy: ``eval`` plays it, ``export`` writes it for programs without PyTorch."""

import argparse
from contextlib import AbstractContextManager, nullcontext
from pathlib import Path
from typing import TYPE_CHECKING, Any

from harness.cli.options import add_verb, not_negative_int, positive_int
from harness.cli.output import tell

if TYPE_CHECKING:
    from unilab.algos.torch.evaluate import Watch

CHECKPOINT = "a file, or the folder of a run"


def add(verbs: Any) -> None:
    verb = add_verb(
        verbs, "eval", evaluate, "play episodes without noise and show the returns of a checkpoint's policy"
    )
    verb.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    verb.add_argument("--episodes", type=positive_int, default=16, metavar="N", help="number of episodes; default: 16")
    verb.add_argument(
        "--seed", type=not_negative_int, default=0, metavar="S", help="seed of the environments; default: 0"
    )
    verb.add_argument(
        "--num-envs", type=positive_int, metavar="N", help="environments; default: as many as episodes, at most 64"
    )
    looking = verb.add_mutually_exclusive_group()
    text = "also write a video of the first 10 seconds in the first four environments, drawn without a window"
    looking.add_argument("--video", type=Path, metavar="FILE.mp4", help=text)
    looking.add_argument("--view", action="store_true", help="also show the first environment in MuJoCo's viewer")
    verb = add_verb(verbs, "export", export, "write a checkpoint's policy as an ONNX file, checked against PyTorch")
    verb.add_argument("checkpoint", type=Path, metavar="CHECKPOINT", help=CHECKPOINT)
    verb.add_argument("--onnx", type=Path, required=True, metavar="FILE", help="the file that is written, or replaced")


def evaluate(arguments: argparse.Namespace) -> int:
    # what looks at the environments is made before MuJoCo is loaded
    watching: AbstractContextManager[Watch | None] = nullcontext()
    if arguments.video:
        from unilab.envs.rendering.video import Video

        watching = Video(arguments.video)
    elif arguments.view:
        from unilab.envs.rendering.window import Window

        watching = Window()
    with watching as watch:
        from harness.report.live import EvalDisplay, console
        from unilab.algos.torch.evaluate import evaluate as play

        with EvalDisplay(console(stderr=True), arguments.episodes) as display:
            result = play(
                arguments.checkpoint, arguments.episodes, arguments.seed, arguments.num_envs, on_step=display.step,
                watch=watch,
            )  # fmt: skip
    mean = f"{result['env']}: return {result['return_mean']:,.1f}"
    if result["episodes"] == 1:
        lines = [f"{mean} in 1 episode"]
    else:
        lines = [
            f"{mean} ± {result['return_std']:,.1f} (standard deviation),",
            f"from {result['return_min']:,.1f} to {result['return_max']:,.1f} over {result['episodes']} episodes",
        ]
    names = [*result]
    if judged := names[names.index("length_mean") + 1 :]:
        lines.append(", ".join(f"{name} {result[name]:.3g}" for name in judged))
        from harness.suite.schema import Judge

        if "success" in judged and arguments.episodes < Judge.episodes:
            lines.append(f"success is meant over {Judge.episodes} episodes: --episodes {Judge.episodes}")
    if arguments.video:
        result["video"] = arguments.video
        lines.append(f"video: {arguments.video}")
    return tell(arguments, result, *lines)


def export(arguments: argparse.Namespace) -> int:
    from unilab.algos.torch.export import export_onnx

    written = export_onnx(arguments.checkpoint, arguments.onnx)
    return tell(
        arguments, written,
        f"{written['onnx']}: the policy that {written['trainer']} trained in {written['env']};",
        f"the actions for {written['observations']:,} observations are PyTorch's within {written['difference']:.1g}",
    )  # fmt: skip
