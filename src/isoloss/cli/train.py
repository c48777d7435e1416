"""The verb that trains one run by nanoGPT's option names."""

from __future__ import annotations

import dataclasses
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import tyro

from isoloss.cli.verbs import Compile, Device, PrecisionChoice, start


def train_verb() -> Callable[..., int]:
    """Train one run with nanoGPT's option names; under torchrun, over several ranks.

    This makes the verb, with an option for each of nanoGPT's settings.
    """
    from isoloss.spec.config import SETTINGS, RunConfig

    fields = [(name, RunConfig.model_fields[name]) for name in SETTINGS if name != "precision"]
    settings_type = dataclasses.make_dataclass(
        "Settings", [(name, field.annotation, dataclasses.field(default=field.default)) for name, field in fields]
    )

    def train(
        settings: Any,
        corpus: str = "tinyshakespeare",
        tokenizer: Literal["char", "byte"] = "char",
        seed: int = 1337,
        precision: PrecisionChoice = "auto",
        device: Device = "auto",
        compile: Compile = "auto",
        out: Path = Path("results/train"),
        offline: bool = False,
        accept_other_numerics: bool = False,
    ) -> int:
        """Train one run with nanoGPT's option names; under torchrun, over several ranks.

        Args:
            settings: nanoGPT's settings.
            corpus: A known name (tinyshakespeare) or the path of a UTF-8 text file.
            tokenizer: char (the text's sorted characters) or byte.
            seed: Decides initialisation, data order and dropout.
            precision: Arithmetic of training; auto is bf16 where the hardware multiplies it.
            device: Where to train.
            compile: Fast kernels from this machine's C++ compiler, on a CPU; auto leaves them out of a short run.
            out: The run's directory, laid out as a study of one run.
            offline: Use cached corpora alone.
            accept_other_numerics: Continue a run that began with other threads or kernels, or elsewhere; marks it.
        """
        from isoloss.execution.options import RunOptions
        from isoloss.spec.study import Study

        study = Study("train", corpus, tokenizer, base=dataclasses.asdict(settings), seeds=(seed,))
        options = RunOptions(
            device, precision, offline=offline, compile=compile, accept_other_numerics=accept_other_numerics
        )
        return start(study, out, options)

    train.__annotations__["settings"] = tyro.conf.OmitArgPrefixes[tyro.conf.FlagConversionOff[settings_type]]
    return train
