"""What is wrong with a study as a whole, and with runs that follow from it."""

from __future__ import annotations

import itertools
from collections.abc import Iterator
from typing import TYPE_CHECKING

from isoloss.errors import ConfigError
from isoloss.study.cell_faults import cell_faults, setting_faults
from isoloss.study.config import RunConfig
from isoloss.study.datasets import PER_TOKEN, Dataset, compared_loss
from isoloss.study.hypotheses import EffectStated, Hypothesis, RatioStated
from isoloss.study.schema import MAX_RUNS, stated_faults
from isoloss.study.stated_hypotheses import hypothesis_faults
from isoloss.wording import listed

if TYPE_CHECKING:
    from isoloss.study.study import Study

ALONE = (
    "name", "corpus", "val_corpus", "val_share", "document_separator", "tokenizer", "target", "order", "disk", "seeds"
)  # fmt: skip
"""Keys of a study that the schema of study files checks each by itself."""


def study_faults(study: Study) -> Iterator[ConfigError]:
    """What is wrong with each part alone; `fields` begins with the place in a study file."""
    stated = {key: value for key in ALONE if (value := getattr(study, key)) is not None}
    yield from stated_faults({**stated, "corpora": dict(study.corpora)})
    yield from study.text.faults() if not study.varied_texts else ()
    for key, value in study.base.items():
        yield from setting_faults("base", key, value, formula=True)
    yield from cell_faults(study.cells, study.base)
    levels = {name: study.stated.get(name, ())[:2] or (None,) for name in Dataset._fields}
    cells = [dict(zip(levels, cell, strict=True)) for cell in itertools.product(*levels.values())]
    named = [{name: level for name, level in cell.items() if level is not None} for cell in cells]
    per_byte = compared_loss(map(study.stated_texts.dataset, named)) == "val_bpb"
    if study.target is not None and per_byte:
        text = "target is a loss per token, which does not compare between tokenizers or texts; leave it out"
        yield ConfigError(text, ("target",))
    for number, hypothesis in enumerate(study.hypotheses):
        if per_byte and (factor := _compares_per_token(hypothesis)):
            between = "tokenizers" if factor == "tokenizer" else "texts"
            of_average = "ema_" if "ema_" in getattr(hypothesis, "response", "") else ""
            instead = f"best_{of_average}val_bpb or final_{of_average}val_bpb"
            text = f"losses per token do not compare between {between}; state {instead}"
            yield ConfigError(text, (f"hypotheses {number} response", f"hypotheses {number}"))
    if study.budgets is not None:
        yield from study.budgets.faults()
        if study.states("max_iters"):
            text = "max_iters follows from budgets; state it there or in budgets, not in both"
            yield ConfigError(text, ("base max_iters", "factors max_iters", "budgets"))
    combinations = study.cells.combinations * len(study.seeds) * (len(study.budgets.levels) if study.budgets else 1)
    if combinations > MAX_RUNS:
        text = f"the study has {combinations:,} runs, the limit is {MAX_RUNS:,}; take levels out"
        yield ConfigError(text, ("factors",))
    for number, hypothesis in enumerate(study.hypotheses, 1):
        yield from hypothesis_faults(hypothesis, number, study.stated, target=study.target)


def _compares_per_token(hypothesis: Hypothesis) -> str | None:
    """The factor, where tokenizers or texts are held against each other by a loss per token that is stated."""
    if not isinstance(hypothesis, EffectStated | RatioStated) or hypothesis.factor not in Dataset._fields:
        return None
    stated = "response" in hypothesis.model_fields_set and hypothesis.response in PER_TOKEN
    return hypothesis.factor if stated else None


def same_run(one: RunConfig, other: RunConfig) -> ConfigError:
    """The error of two cells whose runs compute the same."""
    unread = [name for name, value in one if value != getattr(other, name)]
    if not unread:
        return ConfigError("two cells of the study define the same run; take the repeated level out", ("factors",))
    cells = " and ".join(", ".join(f"{name}={getattr(cell, name)}" for name in unread) for cell in (one, other))
    text = f"two cells define the same run: what it computes does not depend on {listed(unread)} ({cells})"
    return ConfigError(
        f"{text}; leave one of them out, by exclude", (*(f"factors {name}" for name in unread), "factors")
    )


def too_large(config: RunConfig, why: str) -> ConfigError:
    """The error of a run whose size is why it cannot be trained."""
    sizes = ("n_layer", "n_embd", "block_size", "batch_size")
    stated = ", ".join(f"{name}={getattr(config, name)}" for name in sizes)
    return ConfigError(f"a run of {stated} {why}; take a smaller one", sizes)
