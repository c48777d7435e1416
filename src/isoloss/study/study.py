"""Study: cells × seeds over a base configuration, expanded to RunConfigs."""

from __future__ import annotations

import itertools
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field, replace
from functools import cached_property
from typing import Any

from isoloss.errors import MAX_COUNTED, ConfigError, collect, raise_all
from isoloss.study.budgets import Budgets, StepTime
from isoloss.study.cells import Cell, Cells, Design, Range, Scalar, Tuned
from isoloss.study.compute import training_memory_bytes
from isoloss.study.config import ANY_TEXT, SEED_SETTINGS, SETTINGS, TEXTS, RunConfig, is_whole, make_config
from isoloss.study.corpora import Corpus, corpus_of
from isoloss.study.corpus_levels import StatedTexts
from isoloss.study.datasets import Dataset, dataset_of
from isoloss.study.formula import with_formulas_computed
from isoloss.study.hypotheses import Hypothesis
from isoloss.study.identity import run_id
from isoloss.study.schema import FIRST_SEED, MAX_RUNS, Order
from isoloss.study.stated_hypotheses import hypothesis_faults
from isoloss.study.study_faults import same_run, study_faults, too_large
from isoloss.study.synonyms import nearest
from isoloss.study.texts import ANY_DATA, DataFacts, Text
from isoloss.study.tokenizer_names import FILE, TokenizerName, bpe_size
from isoloss.wording import listed

MAX_RUN_BYTES = 1 << 40
"""A run that needs more memory than this is no small GPT, and is taken for a mistake."""


@dataclass(frozen=True)
class Study:
    """A controlled study: cells of factor levels, each once for each seed, and what is expected of it.

    The cells are every combination of levels unless `paired`, `runs`, `exclude` and `design` say otherwise (see
    `Cells`). Settings of `base` may be formulas. Hypotheses are no part of any run's identity; one about a factor that
    becomes constant stays, and can't be judged.
    """

    name: str
    corpus: Corpus
    tokenizer: TokenizerName = "char"
    description: str = ""
    base: Mapping[str, Scalar] = field(default_factory=dict[str, Scalar])
    factors: Mapping[str, tuple[Scalar, ...] | Range] = field(default_factory=dict[str, "tuple[Scalar, ...] | Range"])
    seeds: tuple[int, ...] = (FIRST_SEED,)
    hypotheses: tuple[Hypothesis, ...] = ()
    paired: tuple[Mapping[str, tuple[Scalar, ...]], ...] = ()
    runs: tuple[Cell, ...] = ()
    exclude: tuple[Cell, ...] = ()
    design: Design | None = None
    tuned: Mapping[str, Tuned] = field(default_factory=dict[str, Tuned])
    budgets: Budgets | None = None
    """What max_iters of each cell follows from, once for every budget; `resolved` states the horizons."""
    val_corpus: Corpus | None = None
    corpora: Mapping[str, Corpus] = field(default_factory=dict[str, Corpus])
    """What levels of corpus and val_corpus stand for, where that is not what they say."""
    val_share: float | None = None
    document_separator: str | None = None
    target: float | None = None
    """Validation loss that `steps_to_target` is about, in nats per token; no part of any run's identity."""
    order: Order = "longest_first"
    """In which runs are trained; a study that claims a time is always shuffled."""
    disk: int | None = None
    """Bytes that its directory may take; no part of any run's identity."""

    def __post_init__(self) -> None:
        faults = [*itertools.islice(study_faults(self), MAX_COUNTED)]
        if not any(fault.fields[:1] == ("factors",) for fault in faults) and len(faults) < MAX_COUNTED:
            faults += self._faults_between_settings(faults)
        raise_all(faults)
        raise_all([fault for text in dict.fromkeys(self.datasets.values()) for fault in text.faults()])
        for number, hypothesis in enumerate(self.hypotheses, 1):  # levels that no cell is left with
            raise_all([*hypothesis_faults(hypothesis, number, self.varied, target=self.target)])

    def _faults_between_settings(self, faults: Sequence[ConfigError]) -> Iterator[ConfigError]:
        """What is wrong between the settings that have no fault of their own."""
        places = {fault.fields[0] for fault in faults}
        base = {key: value for key, value in self.base.items() if f"base {key}" not in places}
        sound: dict[str, tuple[Scalar, ...] | Range] = {
            key: levels
            if isinstance(levels, Range)
            else tuple(level for index, level in enumerate(levels) if f"factors {key} {index}" not in places)
            for key, levels in self.factors.items()
            if f"factors {key}" not in places
        }
        factors = {key: levels for key, levels in sound.items() if levels}
        left_out = {key for key in (*self.base, *self.factors) if key not in base and key not in factors}
        unsettled = {nearest(key, SETTINGS) for key in left_out}  # these do not have their defaults either
        errors: list[ConfigError] = []
        if any(place.split()[0] in ("paired", "runs", "exclude", "design", "centre", "tuned") for place in places):
            return
        if not places:
            collect(errors, lambda: self._of_any_text(ANY_DATA), ())
        else:
            cells = collect(errors, replace(self.cells, factors=factors).expand, [])
            collect(errors, lambda: self._configs({**ANY_TEXT, **base}, cells, ANY_DATA), [])
        yield from (error for error in errors if not unsettled.intersection(error.fields))

    @property
    def text(self) -> Text:
        """What runs are trained and validated on, where no text varies."""
        return Text(self.corpus, self.val_corpus, self.val_share, self.document_separator)

    @property
    def varied_texts(self) -> tuple[str, ...]:
        """Columns that say which text a run has: none where all have one."""
        return self.stated_texts.columns

    @cached_property
    def datasets(self) -> dict[Dataset, Text]:
        """The texts and tokenizers that its runs have, in their order."""
        texts = self.stated_texts
        return {dataset: texts.of(dataset) for dataset in map(texts.dataset, self.cells.expand())}

    def named(self, dataset: Dataset) -> str:
        """What tells a text and a tokenizer from the others of the study, in words."""
        parts = zip(dataset, zip(*self.datasets, strict=True), strict=True)
        return ", ".join(part for part, every in parts if part and len({*every}) > 1)

    @cached_property
    def stated_texts(self) -> StatedTexts:
        """Its texts by the names that levels have."""
        tokenizer = str(self.base.get("tokenizer", self.tokenizer))
        return StatedTexts(self.text, tokenizer, self.corpora, frozenset({*TEXTS} & self.stated.keys()))

    @cached_property
    def cells(self) -> Cells:
        """What varies, and how it is combined."""
        return Cells(self.factors, self.paired, self.runs, self.exclude, self.design, self.tuned)

    @property
    def stated(self) -> dict[str, tuple[Scalar, ...]]:
        """Every setting that has levels, with those that are stated; none of a range."""
        return self.cells.stated

    @cached_property
    def varied(self) -> dict[str, tuple[Scalar, ...]]:
        """Every setting that has levels, with those that cells have, in the order stated, drawn ones ascending.

        They are spelled as runs have them: the 0 of `dropout: [0, 0.1]` is 0.0.
        """
        cells = self.cells.expand()
        used = {key: dict.fromkeys(cell[key] for cell in cells if key in cell) for key in self.stated}
        return {
            key: tuple(_as_in_runs(key, level) for level in dict.fromkeys(levels) if level in used[key])
            or tuple(sorted(used[key]))  # type: ignore[type-var]
            for key, levels in self.stated.items()
        }

    @property
    def tokenizers(self) -> tuple[str, ...]:
        """Names of the tokenizers that its runs have."""
        constant = str(self.base.get("tokenizer", self.tokenizer))
        return tuple(map(str, self.varied.get("tokenizer", (constant,))))

    @cached_property
    def size(self) -> int:
        """Number of runs: cells times seeds."""
        return len(self.cells.expand()) * len(self.seeds) * (len(self.budgets.levels) if self.budgets else 1)

    @property
    def stated_seeds(self) -> list[str]:
        """Those of SEED_SETTINGS that the study states, in place of having them follow `seeds`."""
        levels = {name: self.varied.get(name, (self.base.get(name),)) for name in SEED_SETTINGS}
        return [name for name, given in levels.items() if any(level is not None for level in given)]

    @property
    def varied_seeds(self) -> list[str]:
        """Those of SEED_SETTINGS that are factors of several levels."""
        return [name for name in SEED_SETTINGS if len(self.varied.get(name, ())) > 1]

    @property
    def one_seed(self) -> bool:
        """Whether no two runs differ in a seed."""
        return len(self.seeds) == 1 and not self.varied_seeds

    def expand(self, data: DataFacts, step_s: StepTime | None = None) -> list[RunConfig]:
        """All runs, cell by cell, seeds innermost. Raises ConfigError when a cell is not a valid configuration.

        Horizons of budgets of seconds follow from `step_s`; without it they stand for something.
        """
        # What holds for a cell's first seed and for a seed in the first cell holds for both: no run is checked twice.
        cells, (_, *others) = self.first_runs(data, step_s), self.seeds
        return [run for cell in cells for run in (cell, *(cell.model_copy(update={"seed": s}) for s in others))]

    def first_runs(self, data: DataFacts, step_s: StepTime | None = None) -> list[RunConfig]:
        """The runs of the first seed, a cell each. Raises ConfigError as `expand` does."""
        first, *others = self.seeds
        cells = [cell.model_copy(update={"seed": first}) for cell in self._of_any_text(data)]
        if self.budgets is not None:
            cells = [
                self._at(config, steps)
                for config in cells
                for steps in self.budgets.horizons(config, known=data is not ANY_DATA, step_s=step_s)
            ]
        cells = [_within_split(cell, data.of(dataset_of(cell)).val_tokens) for cell in cells]
        if max(map(training_memory_bytes, cells)) > MAX_RUN_BYTES:
            raise too_large(max(cells, key=training_memory_bytes), f"needs more than {MAX_RUN_BYTES >> 30:,} GiB")
        seen: dict[str, RunConfig] = {}
        for cell in cells:
            if (other := seen.setdefault(run_id(cell), cell)) is not cell:
                raise same_run(other, cell)
        for seed in self.seeds:
            make_config({**dict(cells[0]), "seed": seed})
        if others and self.stated_seeds:
            names = {run_id(cell.model_copy(update={"seed": seed})) for cell in cells for seed in self.seeds}
            if len(names) < len(cells) * len(self.seeds):
                settings = " and ".join(self.stated_seeds)
                raise ConfigError(
                    f"seeds: two of {list(self.seeds)} define the same run, with {settings} stated in place of what a "
                    "seed decides; leave one unset, or list one seed",
                    ("seeds",),
                )
        return cells

    def resolved(self, data: DataFacts, step_s: StepTime | None = None) -> Study:
        """The study with each cell's horizons stated in place of its budgets. Raises ConfigError as `expand` does."""
        if self.budgets is None:
            return self
        cells = [cell for cell in self.cells.expand() for _ in self.budgets.levels]
        steps = [config.max_iters for config in self.expand(data, step_s)[:: len(self.seeds)]]
        runs = dict.fromkeys(
            (*((key, value) for key, value in cell.items() if key not in self.tuned), ("max_iters", max_iters))
            for cell, max_iters in zip(cells, steps, strict=True)
        )
        tuned_away = [entry for entry in self.exclude if entry.keys() & self.tuned.keys()]
        cells_left = {"runs": tuple(map(dict, runs)), "exclude": tuple(tuned_away)}
        found = replace(self, factors={}, paired=(), design=None, budgets=None, **cells_left)
        if found.size != self.size:
            text = f"tuned: with budgets, {listed(self.tuned)} may not change the steps that a budget pays for"
            raise ConfigError(text, ("tuned",))
        return found

    def _at(self, config: RunConfig, steps: int) -> RunConfig:
        """A cell at a horizon, from which formulas of its settings may follow."""
        cell = {name: value for name, value in config if name not in self.base}
        return make_config(with_formulas_computed({**cell, **self.base, "max_iters": steps}))

    def _of_any_text(self, data: DataFacts) -> Sequence[RunConfig]:
        """A run a cell of some text, checked once for its vocabularies. Raises what is wrong in cells."""
        vocabularies = tuple((of.sha256, of.vocab_size, of.tokenizer_sha256) for of in map(data.of, self.datasets))
        if vocabularies not in self._checked:
            fixed = {**ANY_TEXT, "tokenizer": self.tokenizer, **self.base}
            self._checked[vocabularies] = self._configs(fixed, self.cells.expand(), data)
        return self._checked[vocabularies]

    @cached_property
    def _checked(self) -> dict[tuple[tuple[str, int, str], ...], list[RunConfig]]:
        return {}

    def _configs(self, fixed: Mapping[str, Any], cells: Sequence[Cell], data: DataFacts) -> list[RunConfig]:
        """A run for each cell, with its text and the vocabulary of its tokenizer. Raises what is wrong in cells."""
        configs: list[RunConfig] = []
        errors: list[ConfigError] = []
        for cell in cells:
            try:
                dataset = self.stated_texts.dataset(cell)
                of = data.of(dataset)
                vocabulary = {"vocab_size": bpe_size(dataset.tokenizer) or of.vocab_size}
                known = {"corpus": dataset.corpus, "val_corpus": dataset.val_corpus, "corpus_sha256": of.sha256}
                known |= {"tokenizer_sha256": of.tokenizer_sha256}
                if data is ANY_DATA and (self.varied_texts or dataset.tokenizer.startswith(FILE)):
                    known["corpus_sha256"] = " ".join(dataset)  # which of them are the same is not known yet
                configs.append(make_config(with_formulas_computed({**fixed, **vocabulary, **known, **cell})))
            except ConfigError as error:
                errors += [self._located_in(cell, found) for found in error.each]
                if len(errors) >= MAX_COUNTED:
                    break
        raise_all(errors)
        return configs

    def _located_in(self, cell: Mapping[str, Scalar], error: ConfigError) -> ConfigError:
        """An error about a cell, with the places of the levels it concerns in a study file before its fields."""
        places = [place for key in error.fields if key in cell for place in self.cells.places(key, cell[key])]
        return ConfigError(error.args[0], (*places, *error.fields))

    @cached_property
    def compared(self) -> Study:
        """The study as levels are compared: a cell for all values that its tuned settings are tried at."""
        if not self.tuned:
            return self
        return replace(self, tuned={}, exclude=tuple(e for e in self.exclude if not e.keys() & self.tuned.keys()))

    def states(self, setting: str) -> bool:
        """Whether the study says what a setting is, in place of leaving it at its default."""
        return setting in self.base or setting in self.stated

    def with_settings(self, settings: Mapping[str, Scalar]) -> Study:
        """The study with settings overridden; a factor that is set becomes constant. Raises ConfigError."""
        constant = self.cells.without(settings)
        texts = {key: corpus_of(self.corpora.get(str(name), name)) for key, name in settings.items() if key in TEXTS}
        return replace(
            self,
            **texts,
            base={**self.base, **{name: value for name, value in settings.items() if name not in TEXTS}},
            factors=constant.factors,
            paired=tuple(constant.paired),
            runs=tuple(constant.runs),
            exclude=tuple(constant.exclude),
            design=constant.design,
            tuned=constant.tuned,
        )

    def with_seeds(self, count: int) -> Study:
        """The study with `count` seeds: its own first, then the numbers that follow the last. Raises ConfigError."""
        if not 1 <= count <= MAX_RUNS:
            raise ConfigError(f"--seeds {count}: a count must lie between 1 and {MAX_RUNS:,}", ("seeds",))
        following = itertools.count(max(self.seeds) + 1)
        extra = [next(following) for _ in range(count - len(self.seeds))]
        return replace(self, seeds=(*self.seeds, *extra)[:count])


def _within_split(config: RunConfig, val_tokens: int | None) -> RunConfig:
    """The run with eval_val_tokens 0, all, where it covers the validation split: these are the same run."""
    covers = val_tokens is not None and config.eval_val_tokens >= val_tokens - 1  # the last token is a target alone
    return config.model_copy(update={"eval_val_tokens": 0}) if covers else config


def _as_in_runs(setting: str, level: Scalar) -> Scalar:
    """A level of a setting as a run's configuration has it."""
    return float(level) if type(level) is int and not is_whole(setting) else level
