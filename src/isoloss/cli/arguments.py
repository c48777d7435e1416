"""What words of the command line become (numbers, paths, flags), and what help calls them."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Sequence
from dataclasses import fields, make_dataclass
from pathlib import Path
from typing import Annotated, Any, Optional, get_args, get_origin, get_type_hints

import tyro
from tyro.constructors import ConstructorRegistry, PrimitiveConstructorSpec, PrimitiveTypeInfo

from isoloss.errors import ConfigError
from isoloss.execution.options import RunOptions


def named(metavar: str | None = None, default: str | None = None) -> Any:
    """How help shows an option: what stands for its value, and its default in words where None does not say it."""
    hint = f"(default: {default})" if default else default
    return tyro.conf.arg(metavar=metavar, help_behavior_hint=hint)


# tyro reads these fast; `int | None` makes it import a type checker, half of the time that a help page takes.
OptionalInt = Optional[int]  # noqa: UP045
OptionalFloat = Optional[float]  # noqa: UP045
OptionalText = Optional[str]  # noqa: UP045
OptionalPath = Optional[Path]  # noqa: UP045
Flag = Annotated[bool, tyro.conf.FlagCreatePairsOff, named(default="")]
Folder = Annotated[Path, tyro.conf.Positional, named("DIR")]
OutFolder = Annotated[OptionalPath, named("FOLDER", "")]
Table = Annotated[Path, tyro.conf.Positional, named("TABLE")]
StudyName = Annotated[str, tyro.conf.Positional, named("STUDY")]
CorpusName = Annotated[str, named("CORPUS")]
RunName = Annotated[OptionalText, named("RUN", "the run with the lowest validation loss")]
Repeated = Annotated[tuple, tyro.conf.UseAppendAction]  # of text; tuple[str, ...] costs as much

Plugins = Annotated[Repeated, named("FILE.py:NAME", "")]


def _options_type() -> Any:
    """RunOptions with what help shows of its fields."""
    types, shown = get_type_hints(RunOptions), []
    for each in fields(RunOptions):
        otherwise = each.metadata["otherwise"]
        hint = f"(default: {otherwise})" if otherwise else "" if each.default is False else None
        about = tyro.conf.arg(help=each.metadata["help"], help_behavior_hint=hint)
        shown.append((each.name, Annotated[types[each.name], tyro.conf.FlagCreatePairsOff, about], each))
    return make_dataclass("RunOptions", shown, bases=(RunOptions,), frozen=True)


Options = Annotated[_options_type(), tyro.conf.OmitArgPrefixes]
RUN_OPTIONS = get_args(Options)[0]()

VALUES = ConstructorRegistry()
"""Numbers that say how they are to be written, paths with ~ expanded, and one name for a value that may be left out."""
_METAVARS: dict[Any, str] = {int: "N", float: "X", str: "TEXT", Path: "PATH"}


@VALUES.primitive_rule
def _plain_value(info: PrimitiveTypeInfo) -> PrimitiveConstructorSpec[Any] | None:
    optional = type(None) in get_args(info.type)
    kinds = [kind for kind in get_args(info.type) if kind is not type(None)] if optional else [info.type]
    kind = get_args(kinds[0])[0] if get_origin(kinds[0]) is Annotated else kinds[0]
    if len(kinds) != 1 or kind not in _METAVARS:
        return None
    return PrimitiveConstructorSpec(
        nargs=1,
        metavar=_METAVARS[kind],
        instance_from_str=lambda words: None if optional and words == ["None"] else _value(words[0], kind),
        is_instance=lambda value: isinstance(value, kind) or (optional and value is None),
        str_from_instance=lambda value: [str(value)],
    )


def _value(word: str, kind: Any) -> Any:
    """The word as a value. Raises ValueError with what to write in its place."""
    if kind is Path:
        from isoloss.files import user_path

        return user_path(word)
    try:
        return kind(word)
    except ValueError:
        from isoloss.study.numbers import number_hint

        hint = number_hint(word, kind)
        raise ValueError(hint or f"{word} is no {'whole ' if kind is int else ''}number") from None


OF_NANOGPT = {
    "dtype": "use --precision fp32, bf16 or fp16",
    "dataset": "use --corpus with a known name or a text; `isoloss prepare FOLDER` says which that is for train.bin",
    "out_dir": "use --out",
    "init_from": "the same command goes on with a run that is not done; leave it out",
    "eval_only": "every run is evaluated as it trains; isoloss status shows its best loss",
    "log_interval": "every step is recorded; leave it out",
    "always_save_checkpoint": "the best and the last checkpoint are kept; leave it out",
    "wandb_log": "isoloss sync mirrors runs to W&B, also while they train; leave it out",
    "wandb_project": "isoloss sync mirrors runs to W&B, also while they train; leave it out",
    "wandb_run_name": "isoloss sync mirrors runs to W&B, also while they train; leave it out",
    "backend": "it follows from the device; leave it out",
}
"""What to do in place of options of nanoGPT's train.py that have no counterpart of the same meaning here."""
TEXTS = "--corpus", "--val_corpus", "--plugin"
COMPILE = {"True": "on", "False": "off"}


def _refuse_habits_of_nanogpt(arguments: Sequence[str]) -> None:
    for i, word in enumerate(arguments):
        name, _, value = word.removeprefix("--").partition("=")
        if word.startswith("--") and name in OF_NANOGPT:
            raise ConfigError(f"unknown option --{name}: {OF_NANOGPT[name]}")
        if word.endswith(".py") and not word.startswith("-") and (i == 0 or arguments[i - 1] not in TEXTS):
            raise ConfigError(f"{word} is a program, which is not run: write its settings as options, or a study file")
        value = value or next(iter(arguments[i + 1 : i + 2]), "")
        if word.startswith("--") and name == "compile" and value in COMPILE:
            raise ConfigError(f"--compile {value}: write --compile {COMPILE[value]}")


def refuse_other_names(verb: Callable[..., Any], arguments: Sequence[str]) -> None:
    """Raises ConfigError for an option that other programs have under a name which means a known one here."""
    options = list(inspect.signature(verb).parameters)
    if "execution" in options:
        options += [each.name for each in fields(RunOptions)]
    if "settings" in options:
        from isoloss.study.config import SETTINGS

        _refuse_habits_of_nanogpt(arguments)
        options += SETTINGS
    from isoloss.study.synonyms import explained, meant

    for word in arguments:
        typed = word[2:].partition("=")[0].replace("-", "_")
        if not word.startswith("--") or typed in (*options, "help"):
            continue
        hint = explained(typed) if "max_iters" in options else None
        if name := meant(typed, options):
            hint = f"use --{name}"
        elif "set" in options:
            from isoloss.study.config import SETTINGS

            name = meant(typed, SETTINGS)
            hint = f"use --set {name}=..." if name else explained(typed)
        if hint:
            raise ConfigError(f"unknown option {word.partition('=')[0]}: {hint}")
