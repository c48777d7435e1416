"""The command line."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any

import tyro

from isoloss import __version__
from isoloss.cli import analyses, verbs
from isoloss.cli.arguments import VALUES, refuse_other_names
from isoloss.cli.terminal import say
from isoloss.cli.train import train_verb
from isoloss.cli.watch import watch
from isoloss.errors import ConfigError, Interrupted, IsolossError

DESCRIPTION = """Controlled scaling and convergence studies of small GPTs.

Example: isoloss run quickstart

`isoloss VERB --help` explains a verb and its options; `isoloss --version` prints the version.
"""


def run_command_line(arguments: Sequence[str]) -> int:
    """Run one command line and return its exit code: 0 done, 1 failed runs, 2 usage or configuration, 130 stopped."""
    known: dict[str, Callable[..., Any]] = {
        "prepare": verbs.prepare,
        "plan": verbs.plan,
        "run": verbs.run,
        "train": train_verb() if list(arguments[:1]) == ["train"] else train_verb,
        "status": verbs.status,
        "watch": watch,
        "report": verbs.report,
        "sample": verbs.sample,
        "export": verbs.export,
        "effects": analyses.effects,
        "fit": analyses.fit,
        "convergence": analyses.convergence,
        "doctor": verbs.doctor,
    }
    if list(arguments) == ["--version"]:
        print(f"isoloss {__version__}")
        return 0
    try:
        for name, verb in known.items():
            if list(arguments[:1]) == [name]:
                refuse_other_names(verb, arguments[1:])
            else:  # options of verbs that were not called are not looked at: the first help page would wait for them
                known[name] = _without_options(verb)
        return tyro.extras.subcommand_cli_from_dict(
            known,
            prog="isoloss",
            description=DESCRIPTION,
            args=list(arguments),
            use_underscores=True,
            registry=VALUES,
        )
    except IsolossError as error:
        for line in str(error).split("\n"):
            say(f"isoloss: {line}")
        return error.exit_code
    except KeyboardInterrupt:
        say("isoloss: interrupted; what was on disk is safe, the same command continues")
        return Interrupted.exit_code


def _without_options(verb: Callable[..., Any]) -> Callable[[], int]:
    """A verb as the list of verbs shows it."""

    def short() -> int:
        raise ConfigError("the verb must be the first word after isoloss")

    short.__doc__ = (verb.__doc__ or "").partition("\n")[0]
    return short
