"""``check-env``: an environment of one's own."""

import argparse
from typing import Any

from harness.cli.options import FAILURE, add_set, add_verb
from harness.cli.output import print_json


def add_check_env(verbs: Any) -> None:
    verb = add_verb(verbs, "check-env", check_env, "step an environment and say what its code does wrong")
    verb.add_argument(
        "name", metavar="NAME", help="as 'env' in a suite: HalfCheetah, module:Class, module:Id-v0, Id-v0"
    )
    add_set(verb, "max_episode_steps=500")


def check_env(arguments: argparse.Namespace) -> int:
    from harness.files.yaml_file import Document
    from unilab.envs.check import check

    findings = check(arguments.name, Document.parse("{}", "--set", arguments.set).content)
    if arguments.json:
        print_json({"environment": arguments.name, **vars(findings)})
    else:
        for problem in findings.problems:
            print(f"wrong: {problem}")
        for note in findings.notes:
            print(f"note: {note}")
        if not findings.problems:
            print(f"{arguments.name}: {findings.sizes}; nothing wrong was found")
    return FAILURE if findings.problems else 0
