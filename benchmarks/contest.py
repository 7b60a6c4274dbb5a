"""Contestants measured in turns: each in a fresh process a round, one after the other, and how their rates compare.

What disturbs the machine for a while disturbs all of them, and the ratios are taken within a round. A contestant is
one of the scripts in ``drivers``, run by an interpreter that has the package it measures, with one JSON argument.
"""

import argparse
import contextlib
import json
import os
import signal
import statistics
import subprocess
import sys
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
DRIVERS = ROOT / "benchmarks" / "drivers"
STARTUP_SECONDS = 120.0
"""allowance for imports, process starts and the first iteration"""
RESULT = "steady window: "
"""begins the line with a driver's result (``steady_window.py``)"""


class ContestError(RuntimeError):
    """A contestant could not be measured."""


@dataclass(frozen=True)
class Contestant:
    """One package in one setting."""

    name: str
    driver: str
    """its file name in ``drivers``"""
    python: str
    """interpreter"""
    job: Mapping[str, Any]
    """what the driver is to do"""


@dataclass(frozen=True)
class Window:
    """How long each contestant is measured."""

    warmup_seconds: float
    seconds: float


def run(contestant: Contestant, job: Mapping[str, Any], seconds: float) -> str:
    """Run a contestant's driver in a process group of its own; its output.

    Args:
        job: in addition to the contestant's.
        seconds: that it may take after its start-up.

    Raises:
        ContestError: it failed or did not end in time; with the end of its output.
    """
    path = os.pathsep.join(filter(None, (str(ROOT), os.environ.get("PYTHONPATH"))))
    try:
        process = subprocess.Popen(
            [contestant.python, str(DRIVERS / contestant.driver), json.dumps({**contestant.job, **job})],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            text=True,
            env=os.environ | {"PYTHONPATH": path},
            start_new_session=True,
        )
    except OSError as error:
        raise ContestError(f"{contestant.name} did not start: {error}") from error
    try:
        output, _ = process.communicate(timeout=STARTUP_SECONDS + seconds)
    except subprocess.TimeoutExpired:
        _kill_group(process)
        output, _ = process.communicate()
        raise ContestError(f"{contestant.name} did not end in time; its output ends:\n{output[-2000:]}") from None
    except BaseException:  # an interrupt: it must not go on alone
        _kill_group(process)
        process.wait()
        raise
    if process.returncode:
        raise ContestError(f"{contestant.name} failed with exit code {process.returncode}:\n{output[-2000:]}")
    return output


def _kill_group(process: "subprocess.Popen[str]") -> None:
    with contextlib.suppress(ProcessLookupError):
        os.killpg(process.pid, signal.SIGKILL)


def measure(contestant: Contestant, window: Window) -> dict[str, float]:
    """A contestant's counters over its steady window, their rates (``..._per_second``), and the window's ``seconds``.

    Raises:
        ContestError: it failed, did not end in time or had no steady window.
    """
    job = {"warmup_seconds": window.warmup_seconds, "seconds": window.seconds}
    output = run(contestant, job, window.warmup_seconds + window.seconds)
    for line in reversed(output.splitlines()):
        if line.startswith(RESULT):
            result: dict[str, float] = json.loads(line.removeprefix(RESULT))
            return result
    raise ContestError(f"{contestant.name} ended without a result:\n{output[-2000:]}")


def fastest(contestants: Sequence[Contestant], counter: str, window: Window) -> Contestant:
    """The contestant with the highest rate of ``counter``, each measured once; a single one is not measured."""
    if len(contestants) == 1:
        return contestants[0]
    rates = []
    for contestant in contestants:
        rates.append(measure(contestant, window)[f"{counter}_per_second"])
        _tell(f"choosing: {contestant.name:<40} {rates[-1]:>11,.1f} {_words(counter)}/s")
    return contestants[rates.index(max(rates))]


def compare(contestants: Sequence[Contestant], counter: str, rounds: int, window: Window) -> dict[str, Any]:
    """Measure them in turns, in an order that changes every round; ours comes first in ``contestants``.

    Returns:
        Of each contestant the rates of all its counters, a list over the rounds; and of ``counter`` ours over each
        other one's.
    """
    results: dict[str, list[dict[str, float]]] = {contestant.name: [] for contestant in contestants}
    for number in range(rounds):
        for contestant in contestants if number % 2 == 0 else reversed(contestants):
            result = measure(contestant, window)
            results[contestant.name].append(result)
            rate = result[f"{counter}_per_second"]
            _tell(f"round {number + 1}: {contestant.name:<40} {rate:>11,.1f} {_words(counter)}/s")
    rates = {name: _by_counter(told) for name, told in results.items()}
    ours, *others = (of_one[counter] for of_one in rates.values())
    _, *names = rates
    ratios = {
        f"ours / {name}": [a / b for a, b in zip(ours, other, strict=True)]
        for name, other in zip(names, others, strict=True)
    }
    return {"counter": counter, "rates": rates, "ratios": ratios}


def _by_counter(results: Iterable[Mapping[str, float]]) -> dict[str, list[float]]:
    rates: dict[str, list[float]] = {}
    for result in results:
        for name, value in result.items():
            if name.endswith("_per_second"):
                rates.setdefault(name.removesuffix("_per_second"), []).append(value)
    return rates


def print_table(title: str, comparison: Mapping[str, Any]) -> None:
    """Median and range over the rounds, then the ratios; counters beside the one compared are named in their line."""
    print(f"\n{title} (higher is better), median and range")
    counter = comparison["counter"]
    for name, rates in comparison["rates"].items():
        beside = (f"; {statistics.median(r):,.0f} {_words(other)}/s" for other, r in rates.items() if other != counter)
        print(_line(name, rates[counter], ".1f") + "".join(beside))
    for name, ratios in comparison["ratios"].items():
        print(_line(name, ratios, ".2f") + ", round by round")


def _line(name: str, values: Sequence[float], form: str) -> str:
    low, high = f"{min(values):,{form}}", f"{max(values):,{form}}"
    return f"  {name:<47} {statistics.median(values):>11,{form}}   {low} to {high}"


def add_options(parser: argparse.ArgumentParser) -> None:
    """What every contest can be told."""
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--warmup-seconds", type=float, default=5.0)
    parser.add_argument("--seconds", type=float, default=15.0, help="length of the steady window")
    parser.add_argument("--json", action="store_true", help="print the result as JSON")


def add_settings(parser: argparse.ArgumentParser) -> None:
    """Settings of the packages in the contest."""
    parser.add_argument("--set", action="append", default=[], metavar="KEY=VALUE", help="a setting of ours, JSON value")
    parser.add_argument("--set-other", action="append", default=[], metavar="KEY=VALUE", help="a setting of the others")


def settings(given: Iterable[str]) -> dict[str, Any]:
    """``["num_envs=512", "mode=sync"]`` to a dictionary; a value that is not JSON is a string."""
    pairs = (item.partition("=") for item in given)
    return {key: _json_or_text(value) for key, _, value in pairs}


def _json_or_text(text: str) -> Any:
    try:
        return json.loads(text)
    except json.JSONDecodeError:
        return text


def conduct(main: Callable[[], None]) -> None:
    """Run a benchmark: a contestant's failure is one message, and SIGTERM ends the contestant that is running, too."""
    signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        main()
    except ContestError as error:
        sys.exit(str(error))


def _words(counter: str) -> str:
    return counter.replace("_", " ")


def _tell(line: str) -> None:
    print(line, file=sys.stderr, flush=True)
