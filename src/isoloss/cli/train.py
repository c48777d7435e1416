"""The verb that trains one run by nanoGPT's option names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Annotated, Any, Optional

import tyro

from isoloss.cli.arguments import RUN_OPTIONS, Flag, OptionalFloat, OptionalText, Options, Plugins, Repeated, named
from isoloss.cli.verbs import start


def train_verb() -> Callable[..., int]:
    """Train one run with nanoGPT's option names; under torchrun, over several ranks.

    This makes the verb, with an option for each of nanoGPT's settings.
    """
    from isoloss.study.config import SETTINGS, RunConfig

    settings_type: Any = dataclasses.make_dataclass(
        "Settings", [_option(name, RunConfig.model_fields[name]) for name in SETTINGS if name != "precision"]
    )

    def train(
        settings: Any,
        seed: int = 1337,
        corpus: Annotated[Repeated, named("CORPUS", "tinyshakespeare")] = (),
        val_corpus: Annotated[Repeated, named("CORPUS", "the end of corpus")] = (),
        val_share: Annotated[OptionalFloat, named("X", "0.1")] = None,
        document_separator: Annotated[OptionalText, named("TEXT", "blocks cross")] = None,
        plugin: Plugins = (),
        execution: Options = RUN_OPTIONS,
        out: Annotated[Path, named("DIR")] = Path("results/train"),
        json: Flag = False,
    ) -> int:
        """Train one run with nanoGPT's option names; under torchrun, over several ranks.

        Example: isoloss train --n_layer 6 --n_embd 384 --max_iters 5000 --out results/large

        Args:
            settings: What defines the run's result. A study file takes the same names.
            seed: Whole number that decides initial weights, order of data and dropout; see init_seed and data_seed.
            corpus: A known name (tinyshakespeare), a UTF-8 text file or a folder of them, or JSON lines or Parquet like
                files:data/*.jsonl.zst,field=text; may be repeated. Or a text of known entropy, like
                synthetic:markov,order=2,symbols=32,seed=1,tokens=5e7; or what a study file has in braces, like
                '{mix: {a.txt: 0.7, b.txt: 0.3}}'.
            val_corpus: What the run is validated on, likewise; all of corpus is then for training.
            val_share: Share of corpus that is kept for validation, its end.
            document_separator: What each document ends in, where blocks do not cross from one into the next.
            plugin: A norm, MLP, optimizer or positions of your own that a setting names; its file is run. May repeat.
            execution: How the run is trained; never what is computed, but for precision.
            out: The run's directory, laid out as a study of one run.
            json: Print one JSON object in place of text.
        """
        from isoloss.study.plugins import use_plugin, with_plugins
        from isoloss.study.study import Study
        from isoloss.study.studyfile import corpus_in_words

        for each in plugin:
            use_plugin(each)
        base = {name: value for name, value in dataclasses.asdict(settings).items() if value is not None}
        study = Study(
            "train",
            corpus_in_words(corpus or ("tinyshakespeare",), "--corpus"),
            base.pop("tokenizer"),
            base=with_plugins(base),
            seeds=(seed,),
            val_corpus=corpus_in_words(val_corpus, "--val_corpus") if val_corpus else None,
            val_share=val_share,
            document_separator=document_separator,
        )
        return start(study, out, execution, json=json)

    train.__annotations__["settings"] = tyro.conf.OmitArgPrefixes[tyro.conf.FlagConversionOff[settings_type]]
    return train


def _option(name: str, field: Any) -> tuple[str, Any, Any]:
    """A setting as a field of a dataclass whose help is the description of RunConfig's field.

    One whose default is the optimizer's is None until it is stated.
    """
    from isoloss.study.parts import OPTIMIZERS

    own = field.default is not None and any(name in each.defaults for each in OPTIMIZERS.values())
    hint = f"(default: {field.default:g}, or the optimizer's own)" if own else "" if field.default is None else None
    shown = tyro.conf.arg(help=field.description, help_behavior_hint=hint)  # the description tells what stands for None
    kind, default = (Optional[field.annotation], None) if own else (field.annotation, field.default)  # noqa: UP045
    return name, Annotated[kind, shown], dataclasses.field(default=default)
