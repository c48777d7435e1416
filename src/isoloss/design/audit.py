"""The design audit: what a study can and can't tell, from its configurations alone, before anything is trained."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from math import expm1

from isoloss.design.aliasing import aliasing_findings
from isoloss.design.audit_budgets import budget_findings
from isoloss.design.audit_hypotheses import hypothesis_findings
from isoloss.design.audit_rates import rate_findings
from isoloss.design.audit_scaling import asks_for_exponent, scaling_findings
from isoloss.design.audit_settings import settings_findings
from isoloss.design.power import POWER, SEED_BY_FACTOR
from isoloss.design.prefixes import EVALUATION_FIELDS, changes_nothing, prefix_groups
from isoloss.design.seed_noise import (
    MANY_SEEDS,
    SMALLEST_EFFECT_NATS,
    SeedNoise,
    compared_factors,
    more_seeds,
    seeds_to_resolve,
)
from isoloss.diagnostic import SEVERITIES, Diagnostic
from isoloss.study.compute import params_total, tokens_per_step, train_tokens
from isoloss.study.config import SEED_SETTINGS, RunConfig
from isoloss.study.hypotheses import EffectStated, RatioStated
from isoloss.study.repeats import epochs, unique_tokens
from isoloss.study.schedules import decays
from isoloss.study.study import Study
from isoloss.study.texts import DataFacts
from isoloss.wording import between, counted, listed, named, of_runs

MANY_EPOCHS = 10.0
"""Passes over a text from which on overfitting is to be expected. A rule of thumb: repeated text was found to teach
nearly as much as fresh text for about 4 passes and little after about 16 (Muennighoff et al. 2023)."""

SEED_DECIDES = {"init_seed": "the initial weights", "data_seed": "the order of data and dropout"}
"""What each of SEED_SETTINGS stands for, in words."""

ADVISED_SEEDS = 5
"""Where those that would find a small difference are too many: with fewer, Student's t is wide."""

TOKEN_FIELDS = ("batch_size", "block_size", "gradient_accumulation_steps")
"""Settings that change the tokens a step sees."""


def audit(
    study: Study,
    configs: Sequence[RunConfig],
    *,
    noise_sd: float | None = None,
    noise_origin: str = "stated",
    seed_by_factor: float = SEED_BY_FACTOR,
    data: DataFacts | None = None,
    hours: float | None = None,
    evaluation_share: float | None = None,
) -> list[Diagnostic]:
    """What to know about a study before training its runs, `configs`: the gravest findings first.

    `noise_sd` is the seed-to-seed standard deviation of a run's best validation loss in nats and `noise_origin` says
    where it is from; without it one is assumed and said. `seed_by_factor` is that of a difference between two levels,
    over `noise_sd`. `data` is the text, `hours` what all runs take on this machine and `evaluation_share` what of that
    is evaluation; what rests on them is left out where they are unknown. Raises ConfigError when `noise_sd` or
    `seed_by_factor` is no standard deviation or ratio.
    """
    noise = SeedNoise.of(noise_sd, noise_origin, seed_by_factor)
    findings = [
        *_seeds(study, configs, noise),
        *hypothesis_findings(study, configs, noise),
        *scaling_findings(study, configs),
        *budget_findings(configs, noise.sd),
        *aliasing_findings(study),
        *_factors(study, configs),
        *rate_findings(study, configs),
        *_horizons(study, configs),
        *settings_findings(configs, data, evaluation_share, tuned=study.tuned),
        *_epochs(configs, data),
        *_cost(study, configs, noise, hours),
    ]
    return sorted(findings, key=lambda finding: SEVERITIES.index(finding.severity))


def _seeds(study: Study, configs: Sequence[RunConfig], noise: SeedNoise) -> Iterator[Diagnostic]:
    seed, *others = study.seeds
    if others:
        yield from _stated_seeds(study)
        return
    if varied := study.varied_seeds:
        yield Diagnostic(
            "one_seed",
            "limits",
            f"The study is {counted(len(configs), 'run')} with one seed ({seed}) and several of {listed(varied)}: they "
            "count as a factor's levels, not as replicates of a cell, so effects can be screened but not tested.",
            f"Test effects against how they differ from one {varied[-1]} to another: isoloss effects DIR --block "
            f"{varied[-1]}.",
        )
        return
    needed = seeds_to_resolve(study, noise)
    seeds = max(2, needed) if needed <= MANY_SEEDS else ADVISED_SEEDS
    yield Diagnostic(
        "one_seed",
        "limits",
        f"The study is {counted(len(configs), 'run')} with one seed ({seed}): every cell is trained once and nothing "
        "estimates the noise between seeds, so effects can be screened but not tested against it.",
        f"Train more seeds: {more_seeds(study, seeds)} tests effects on {counted(seeds - 1, 'degree')} of freedom.",
    )


def _stated_seeds(study: Study) -> Iterator[Diagnostic]:
    """What several seeds decide where a setting stands in for them in part."""
    for stated in study.stated_seeds:
        rest = listed(SEED_DECIDES[name] for name in SEED_SETTINGS if name not in study.stated_seeds)
        varied = stated in study.varied_seeds
        text = f"The seeds ({listed(study.seeds)}) decide {rest} alone, since {stated} is stated: "
        text += f"the noise between them leaves out that of {SEED_DECIDES[stated]}"
        yield Diagnostic(
            "seeds_decide_part",
            "note" if varied else "limits",
            f"{text}, which the effect of {stated} shows." if varied else f"{text}.",
            "Nothing to change." if varied else f"Leave {stated} unset, or make it a factor.",
        )


def _why_unread(factor: str) -> tuple[str, str]:
    """Why training does not read a factor, and what to do."""
    if factor == "ema":
        return "weights are averaged beside their training", "Ask about best_ema_val_loss: other losses are equal."
    if factor in EVALUATION_FIELDS:
        return "it decides how the loss is measured, not what is trained", f"State one {factor} under base."
    return "the schedule of the learning rate never reads it", f"State one {factor} under base."


def _factors(study: Study, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    for factor, levels in study.varied.items():
        if len(levels) == 1:
            yield Diagnostic(
                "constant_factor",
                "note",
                f"{factor} is listed as a factor but has one level, {named(levels[0])}: nothing is learned about it.",
                f"Add a level to {factor}, or state it under base.",
            )
            continue
        same = changes_nothing(factor, configs)
        if same:
            why, instead = _why_unread(factor)
            yield Diagnostic(
                "empty_factor",
                "limits",
                f"{factor} ({listed(levels)}) changes nothing in {of_runs(len(same), len(configs))}: {why}, so "
                f"{len(levels)} runs train the same weights each time.",
                instead,
            )
        if factor in TOKEN_FIELDS:
            yield from _confounded_with_tokens(study, configs, factor)
        if factor == "n_head":
            yield _heads(configs)


def _heads(configs: Sequence[RunConfig]) -> Diagnostic:
    example, heads = configs[0], sorted({config.n_head for config in configs})
    sizes = {params_total(example.model_copy(update={"n_head": n})) for n in heads}
    dimensions = [example.n_embd // n for n in heads]
    return Diagnostic(
        "n_head_same_params",
        "note",
        f"n_head ({listed(heads)}) changes no parameter count: a model {example.n_embd:,} wide has {listed(sizes)} "
        f"parameters with any of them, cut into heads of {listed(dimensions)} dimensions.",
        "Read an effect of n_head as one of head width at equal size; vary n_embd or n_layer to change the size.",
    )


def _confounded_with_tokens(study: Study, configs: Sequence[RunConfig], factor: str) -> Iterator[Diagnostic]:
    steps = configs[0].max_iters
    like_first = [c for c in configs if _without(c, factor, "seed") == _without(configs[0], factor, "seed")]
    tokens = {getattr(config, factor): train_tokens(config) for config in like_first}
    stated = any(isinstance(h, EffectStated | RatioStated) and h.factor == factor for h in study.hypotheses)
    if len(tokens) < 2:  # its levels go with those of other settings
        return
    yield Diagnostic(
        "tokens_confounded",
        "limits" if stated else "note",
        f"{factor} ({listed(tokens)}) also changes the tokens a run sees at equal max_iters ({listed(tokens.values())} "
        f"at {steps:,} steps): its effect at equal steps is in part one of more tokens.",
        _equal_tokens(configs, factor),
    )


def _equal_tokens(configs: Sequence[RunConfig], factor: str) -> str:
    """A remedy: two runs that differ in the factor at equal tokens; where the study has none, how to get them."""
    first = configs[0]
    alike = [
        c for c in configs if _without(c, factor, "max_iters", "seed") == _without(first, factor, "max_iters", "seed")
    ]
    for one in alike:
        for other in alike:
            if getattr(one, factor) < getattr(other, factor) and train_tokens(one) == train_tokens(other):
                return (
                    f"Compare at equal tokens too: {factor} {getattr(one, factor):,} at {one.max_iters:,} steps and "
                    f"{getattr(other, factor):,} at {other.max_iters:,} both see {train_tokens(one):,} tokens."
                )
    per_step = sorted({tokens_per_step(config) for config in alike})
    apart = f"{per_step[-1] / per_step[0]:.3g}"
    return f"Compare at equal tokens too: make max_iters a factor with levels {apart} times apart."


def _horizons(study: Study, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    ends = sorted({config.max_iters for config in configs})
    if len(ends) == 1:
        return
    shorter = [run for group in prefix_groups(configs) for run in group if run.max_iters < group[-1].max_iters]
    if shorter:
        yield Diagnostic(
            "prefix_runs",
            "limits",
            f"{of_runs(len(shorter), len(configs))} are the first steps of a longer one, step for step the same, "
            f"because the learning rate does not follow max_iters ({listed(ends)}): they add no observation.",
            "Let the rate follow max_iters (a schedule that decays, lr_decay_iters unset), or keep the longest horizon "
            "alone and read the losses on its way.",
        )
    unmatched = [c for c in configs if decays(c) and c.decay_horizon != c.max_iters]
    if unmatched:
        yield Diagnostic(
            "horizon_unmatched",
            "blocks"
            if any(asks_for_exponent(h, axis) for axis in ("tokens", "compute") for h in study.hypotheses)
            else "limits",
            f"{of_runs(len(unmatched), len(configs))} end elsewhere than their learning-rate decay "
            f"(lr_decay_iters {listed(sorted({c.decay_horizon for c in unmatched}))}, max_iters "
            f"{listed(sorted({c.max_iters for c in unmatched}))}): their losses are not what a schedule made for their "
            "length gives, and mislead a comparison of horizons (Hoffmann et al. 2022).",
            "Leave lr_decay_iters unset: the decay then ends with the run.",
        )


def _epochs(configs: Sequence[RunConfig], data: DataFacts | None) -> Iterator[Diagnostic]:
    passes = [] if data is None else [each for config in configs if (each := epochs(config, data)) is not None]
    if data is None or len(passes) < len(configs):
        return
    many = sum(each > MANY_EPOCHS for each in passes)
    seen = between(map(train_tokens, configs))
    times = between(float(f"{each:.2g}") for each in passes)
    unique = between(tokens for config in configs if (tokens := unique_tokens(config, data)))
    yield Diagnostic(
        "epochs",
        "limits" if many else "note",
        f"A run sees {seen} tokens, {times} times the {unique} unique tokens of its training split; "
        f"{of_runs(many, len(configs)) + ' go' if many else 'none goes'} beyond {MANY_EPOCHS:g} times, where by a rule "
        "of thumb overfitting is to be expected.",
        "Shorten the horizon, take a longer text, or read the best validation loss in place of the final one."
        if many
        else "Nothing to change; watch the gap between validation and training loss.",
    )


def _cost(study: Study, configs: Sequence[RunConfig], noise: SeedNoise, hours: float | None) -> Iterator[Diagnostic]:
    runs, seeds = len(configs), len(study.seeds)
    sentence = f"The study is {counted(runs, 'run')}{_hours(hours)}"
    needed = seeds_to_resolve(study, noise)
    if not needed:
        yield Diagnostic(
            "cost",
            "note",
            f"{sentence}.",
            f"Nothing to compare{' but seeds' if runs > seeds else ''}: add a factor to the study.",
        )
        return
    share = f"{expm1(SMALLEST_EFFECT_NATS):.0%} of perplexity"
    compared = "any two cells" if not compared_factors(study) else "levels"
    what = (
        f"a difference of {SMALLEST_EFFECT_NATS:g} nats in best_val_loss ({share}) between {compared} with {POWER:.0%} "
        f"power, {noise.condition}"
    )
    if needed <= seeds:
        enough = f"its {seeds} seeds are enough to find {what}"
        yield Diagnostic(
            "cost",
            "note",
            f"{sentence}; {enough}.",
            "Nothing to change.",
        )
        return
    if needed > MANY_SEEDS:
        yield Diagnostic(
            "cost",
            "note",
            f"{sentence}; to find {what} would take {needed:,} seeds.",
            f"Add cells, or ask for a larger difference; {more_seeds(study, ADVISED_SEEDS)} is a start."
            if seeds < ADVISED_SEEDS
            else "Add cells, or ask for a larger difference.",
        )
        return
    scaled = None if hours is None else hours * needed / seeds
    yield Diagnostic(
        "cost",
        "note",
        f"{sentence}; {needed} seeds find {what}: {counted(runs // seeds * needed, 'run')}{_hours(scaled)}.",
        f"Train it with {more_seeds(study, needed)}.",
    )


def _hours(hours: float | None) -> str:
    if hours is None:
        return ""
    return f", about {max(1.0, 60 * hours):.0f} min here" if hours < 2 else f", about {hours:.1f} hours here"


def _without(config: RunConfig, *names: str) -> dict[str, object]:
    return {name: value for name, value in config if name not in names}
