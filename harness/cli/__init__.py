"""The command line: ``python -m harness VERB``. Each verb is a function; ``add`` of its module gives it its options.

Exit codes are those of ``harness.cli.options.EXIT_CODES``; ``compare`` has codes of its own.

Verbs import what they need when they are called: checking a suite file or printing a help text loads no PyTorch.
"""

import argparse
import logging
import os
import sys
import traceback
from collections.abc import Iterator, Sequence
from contextlib import contextmanager

from harness.cli import compare, machine, policies, run, studies, suites, training
from harness.cli.options import FAILURE
from harness.cli.output import print_json
from unilab.errors import UserError

DESCRIPTION = "Finds, proves and remembers the best way to train asynchronously on this machine."


def main(argv: Sequence[str] | None = None) -> int:
    """Parse and run one command; errors that the user can mend are one line on stderr."""
    arguments = parser().parse_args(argv)
    try:
        with _messages_on_stderr():
            return int(arguments.verb(arguments))
    except UserError as error:
        if arguments.json:
            print_json({"error": str(error), "kind": type(error).__name__})
        print(f"error: {error}", file=sys.stderr)
        return int(arguments.error_code)
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


def parser() -> argparse.ArgumentParser:
    """Verbs and their options, in the order in which a user meets them."""
    top = argparse.ArgumentParser(prog="python -m harness", description=DESCRIPTION)
    verbs = top.add_subparsers(title="verbs", metavar="VERB", required=True)
    for module in (run, suites, studies, training, policies, compare, machine):
        module.add(verbs)
    return top


@contextmanager
def _messages_on_stderr() -> Iterator[None]:
    """Show on stderr what the trainers' code logs, such as that something takes a while; stdout is for ``--json``."""
    logger, handler = logging.getLogger("unilab"), logging.StreamHandler()
    before = logger.level
    logger.addHandler(handler)
    logger.setLevel(logging.INFO)
    try:
        yield
    finally:
        logger.removeHandler(handler)
        logger.setLevel(before)
