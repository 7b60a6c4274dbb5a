"""Options that several verbs share, and the kinds of numbers that options take."""

import argparse
import math
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

FAILURE = 1
EXIT_CODES = {
    0: "success",
    FAILURE: "failure: nothing was measured to its end, or what was given is wrong",
    2: "wrong usage",
    130: "stopped by Ctrl-C (SIGINT)",
    143: "stopped by SIGTERM",
}


def add_verb(
    verbs: Any,
    name: str,
    function: Callable[[argparse.Namespace], int],
    text: str,
    *,
    error_code: int = FAILURE,
    exit_codes: Mapping[int, str] = EXIT_CODES,
) -> argparse.ArgumentParser:
    """Add a verb. It calls ``function``, which returns the exit code; an error exits with ``error_code``."""
    verb: argparse.ArgumentParser = verbs.add_parser(name, help=text, description=text[0].upper() + text[1:] + ".")
    verb.set_defaults(verb=function, error_code=error_code)
    verb.epilog = f"Exit codes: {'; '.join(f'{code} {meaning}' for code, meaning in exit_codes.items())}."
    verb.add_argument("--json", action="store_true", help="print the outcome as JSON")
    return verb


def add_suite(verb: argparse.ArgumentParser) -> None:
    """A suite file, and what the command line sets over it."""
    verb.add_argument("suite", type=Path, metavar="SUITE", help="a suite file, or the name of a shipped suite")
    add_set(verb, "fixed.num_envs=512")


def add_limits(verb: argparse.ArgumentParser) -> None:
    """The folder of the studies, and short names for keys of the suite file; ``overrides`` reads them."""
    add_results(verb)
    verb.add_argument("--trials", type=int, metavar="N", help="number of trials of the study in total")
    verb.add_argument("--minutes", type=positive, metavar="M", help="longest wall time of this run")
    verb.add_argument("--no-turns", action="store_true", help="run the repeats of the confirmation one after the other")
    verb.add_argument("--seed", type=not_negative_int, metavar="S", help="seed of the sampler and of the first repeat")


def overrides(arguments: argparse.Namespace) -> list[str]:
    """``key=value`` texts of ``--set`` and of the options that stand for keys of the suite file."""
    options = {"limits.trials": arguments.trials, "limits.minutes": arguments.minutes, "sampler.seed": arguments.seed}
    options |= {"measure.turns": "false"} if arguments.no_turns else {}
    return [*arguments.set, *(f"{key}={value}" for key, value in options.items() if value is not None)]


def add_results(verb: argparse.ArgumentParser) -> None:
    verb.add_argument(
        "--results", type=Path, default=Path("results"), metavar="DIR", help="folder of all studies; default: results"
    )


def add_set(verb: argparse.ArgumentParser, example: str) -> None:
    verb.add_argument(
        "--set", action="append", default=[], metavar="KEY=VALUE",
        help=f"replace a value of the file, such as {example}; may be repeated",
    )  # fmt: skip


def add_trace(verb: argparse.ArgumentParser) -> None:
    verb.add_argument("--trace", action="store_true", help="write a timeline, which costs a little speed")


def _number(kind: type[Any], expected: str, allowed: Callable[[Any], bool]) -> Callable[[str], Any]:
    def read(text: str) -> Any:
        value = kind(text)
        if not allowed(value) or math.isinf(value):
            raise argparse.ArgumentTypeError(f"expected {expected}, got {text}")
        return value

    read.__name__ = kind.__name__  # as argparse calls what is no number
    return read


positive = _number(float, "a number above 0", lambda value: value > 0)
not_negative = _number(float, "0 or more", lambda value: value >= 0)
positive_int = _number(int, "a whole number above 0", lambda value: value >= 1)
not_negative_int = _number(int, "a whole number, 0 or more", lambda value: value >= 0)


def study_name(text: str) -> str:
    """As file names are, and no path."""
    if not re.fullmatch(r"[A-Za-z0-9_][A-Za-z0-9_.-]*", text):
        raise argparse.ArgumentTypeError(f"expected letters, digits and _ . -, got {text}")
    return text


def fraction(text: str) -> float:
    """5% or 0.05."""
    value = float(text.removesuffix("%")) / (100 if text.endswith("%") else 1)
    if not 0 < value < 1:
        raise argparse.ArgumentTypeError(f"expected a part such as 5% or 0.05, got {text}")
    return value
