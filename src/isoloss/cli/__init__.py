"""The command line."""

from __future__ import annotations

import shutil
import textwrap
from collections.abc import Callable, Sequence
from typing import Any

import tyro

from isoloss import __version__
from isoloss.cli import analyses, directories, verbs
from isoloss.cli.arguments import VALUES, refuse_other_names
from isoloss.cli.coordcheck import coordcheck
from isoloss.cli.train import train_verb
from isoloss.cli.watch import watch
from isoloss.errors import ConfigError, Interrupted, IsolossError
from isoloss.terminal import say

VERBS: dict[str, Callable[..., Any]] = {
    "prepare": verbs.prepare,
    "plan": verbs.plan,
    "run": verbs.run,
    "train": train_verb,
    "status": directories.status,
    "watch": watch,
    "report": directories.report,
    "sync": directories.sync,
    "merge": directories.merge,
    "compare": directories.compare,
    "sample": directories.sample,
    "export": directories.export,
    "compact": directories.compact,
    "effects": analyses.effects,
    "fit": analyses.fit,
    "convergence": analyses.convergence,
    "coordcheck": coordcheck,
    "schema": verbs.schema,
    "doctor": verbs.doctor,
}
HELP = """usage: isoloss VERB [OPTIONS]

Controlled scaling and convergence studies of small GPTs.

Example: isoloss run quickstart

{verbs}

isoloss VERB --help explains a verb and its options; isoloss --version prints the version."""


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed runs, 2 usage or configuration, 130 stopped."""
    try:
        match arguments:
            case ["--version"]:
                print(f"isoloss {__version__}")
                return 0
            case [] | ["-h" | "--help" | "help", *_]:
                print(HELP.format(verbs=_list_of_verbs()))
                return 0 if arguments else 2
            case _:
                name, *options = arguments
                verb = _find(name)
                refuse_other_names(verb, options)
                return tyro.cli(verb, prog=f"isoloss {name}", args=options, use_underscores=True, registry=VALUES)
    except IsolossError as error:
        for line in str(error).split("\n"):
            say(f"isoloss: {line}")
        return error.exit_code
    except KeyboardInterrupt:
        say("isoloss: interrupted; what was on disk is safe, the same command continues")
        return Interrupted.exit_code


def _find(name: str) -> Callable[..., Any]:
    if name not in VERBS:
        from isoloss.study.synonyms import did_you_mean

        raise ConfigError(f"no verb is called '{name}': {did_you_mean(name, VERBS)}")
    return train_verb() if name == "train" else VERBS[name]


def _list_of_verbs() -> str:
    """A line for each verb, wrapped at the terminal's width."""
    width, margin = shutil.get_terminal_size().columns, max(map(len, VERBS)) + 4
    lines: list[str] = []
    for name, verb in VERBS.items():
        does = (verb.__doc__ or "").partition("\n")[0]
        lines += textwrap.wrap(does, width, initial_indent=f"  {name}".ljust(margin), subsequent_indent=" " * margin)
    return "\n".join(lines)
