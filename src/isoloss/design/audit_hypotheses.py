"""What each stated hypothesis needs of a design, and whether the design gives it."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace

from isoloss.design.power import (
    LEVEL,
    POWER,
    STATED_SHARE,
    minimum_detectable_effect,
    seeds_needed,
)
from isoloss.design.seed_noise import (
    MANY_SEEDS,
    SMALLEST_EFFECT_NATS,
    SMALLEST_EFFECT_SD,
    SeedNoise,
    cells_at,
    more_seeds,
    shared_level,
)
from isoloss.diagnostic import Diagnostic
from isoloss.study.compute import evaluations
from isoloss.study.config import RunConfig
from isoloss.study.hypotheses import (
    OF_AVERAGES,
    EffectStated,
    Hypothesis,
    OptimumStated,
    PlateauStated,
    RangeStated,
    RatioStated,
    SpikesStated,
)
from isoloss.study.stated_hypotheses import same_level
from isoloss.study.study import Study
from isoloss.wording import counted, listed, named, of_runs

FEWEST_EVALUATIONS = 4
"""Evaluations after step 0 from which on a plateau can be told."""

ENOUGH_LEVELS = 4
"""Levels from which on more than a symmetric valley can be told."""

NOISE_KNOWN_FOR = ("best_val_loss", "final_val_loss", "best_ema_val_loss", "final_ema_val_loss")
"""Responses whose noise is a validation loss's, in nats."""


def hypothesis_findings(study: Study, configs: Sequence[RunConfig], noise: SeedNoise) -> Iterator[Diagnostic]:
    """Findings for each hypothesis but those on scaling exponents."""
    yield from _untestable(study, configs)
    for alike in _compared_alike(study, configs):
        yield _detectable(alike, _within(study, alike[0]), noise)
    for hypothesis in study.hypotheses:
        if not _is_about_some(hypothesis, configs):
            continue
        match hypothesis:
            case PlateauStated():
                yield from _plateau(hypothesis, configs)
            case SpikesStated():
                yield from _spikes(hypothesis, configs)
            case OptimumStated():
                yield from _optimum(hypothesis, _within(study, hypothesis))
            case RangeStated(device=device) if device is not None:
                yield Diagnostic(
                    "device_specific",
                    "note",
                    f"{_quoted(hypothesis)} is about runs trained on {device}: it is not applicable to others.",
                    f"Train on {device} to have it judged.",
                )
            case _:
                pass


Compared = EffectStated | RatioStated


def _untestable(study: Study, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    for hypothesis in study.hypotheses:
        if not _is_about_some(hypothesis, configs):
            yield Diagnostic(
                "hypothesis_untestable",
                "blocks",
                f"{_quoted(hypothesis)} can't be judged: no run has the levels that it is about.",
                "List them under factors, or leave where out.",
            )
        elif _lacks_averages(hypothesis, study, configs):
            text = "can't be judged: it is about averaged weights, which runs with ema 0 have none of"
            yield Diagnostic("hypothesis_untestable", "blocks", f"{_quoted(hypothesis)} {text}.", "State ema above 0.")
        elif isinstance(hypothesis, Compared) and hypothesis.between(study.varied) is None:
            factor = hypothesis.factor
            values = {getattr(config, factor) for config in configs}
            if len(values) > 1:
                text = f"{_quoted(hypothesis)} can't be judged: {factor} follows from other settings by a formula."
                yield Diagnostic("hypothesis_untestable", "blocks", text, f"State it of what {factor} follows from.")
                continue
            constant = listed(values)
            yield Diagnostic(
                "hypothesis_untestable",
                "blocks",
                f"{_quoted(hypothesis)} can't be judged: {factor} is {constant} in all {counted(len(configs), 'run')}.",
                f"List at least two levels of {factor} under factors.",
            )
        elif isinstance(hypothesis, Compared) and (
            others := _going_along(_within(study, hypothesis), hypothesis.factor)
        ):
            factor, changes = hypothesis.factor, "changes" if len(others) == 1 else "change"
            text = f"{_quoted(hypothesis)} can't be judged: {listed(others)} {changes} with {factor}, and nothing tells"
            yield Diagnostic(
                "hypothesis_untestable",
                "blocks",
                f"{text} their effects apart.",
                f"Cross them under factors; if both together are meant, state {others[0]} under base as a formula of "
                f"{factor}.",
            )


def _going_along(study: Study, factor: str) -> list[str]:
    """Factors of which every level of this one has a single level of its own."""
    cells = study.cells.expand()
    found: list[str] = []
    for other in (name for name, levels in study.varied.items() if name != factor and len(levels) > 1):
        pairs = {(cell[factor], cell[other]) for cell in cells}
        if len(pairs) == len(study.varied[factor]):
            found.append(other)
    return found


def _lacks_averages(hypothesis: Hypothesis, study: Study, configs: Sequence[RunConfig]) -> bool:
    """Whether a hypothesis is about averaged weights, and no run has one of all, or of a level that it compares."""
    if getattr(hypothesis, "response", "") not in OF_AVERAGES:
        return False
    runs = [config for config in configs if _is_about_some(hypothesis, [config])]
    levels = hypothesis.between(study.varied) if isinstance(hypothesis, Compared) else None
    averaged = {getattr(config, getattr(hypothesis, "factor", ""), None) for config in runs if config.ema}
    return not averaged or not averaged.issuperset(levels or ())


def _is_about_some(hypothesis: Hypothesis, configs: Sequence[RunConfig]) -> bool:
    """Whether a run has the levels that a hypothesis is about."""
    where: Sequence[tuple[str, object]] = getattr(hypothesis, "where", ())
    return any(all(same_level(getattr(config, name), level) for name, level in where) for config in configs)


def _compared_alike(study: Study, configs: Sequence[RunConfig]) -> list[list[Compared]]:
    """Hypotheses about two levels of a factor, together those of which the audit says the same."""
    groups: dict[tuple[object, ...], list[Compared]] = {}
    for hypothesis in study.hypotheses:
        if not isinstance(hypothesis, Compared) or not _is_about_some(hypothesis, configs):
            continue
        within = _within(study, hypothesis)
        levels = hypothesis.between(within.varied)
        if levels is not None and not _going_along(within, hypothesis.factor):
            at_level = cells_at(within, hypothesis.factor, levels)
            key = at_level, hypothesis.response, _bound(hypothesis), hypothesis.where
            groups.setdefault(key, []).append(hypothesis)
    return [*groups.values()]


def _within(study: Study, hypothesis: Compared | OptimumStated) -> Study:
    """The part of a study that a hypothesis is about: the same cells, one by one, but for those it leaves out."""
    if not {hypothesis.factor, getattr(hypothesis, "moved_by", None)} & study.tuned.keys():
        study = study.compared
    cells = [cell for cell in study.cells.expand() if all(same_level(cell.get(n, v), v) for n, v in hypothesis.where)]
    if not cells or not (hypothesis.where or study.tuned):
        return study
    shared = set[str].intersection(*(set(cell) for cell in cells))  # a tuned setting may be at its default in some
    runs = tuple({key: value for key, value in cell.items() if key in shared} for cell in cells)
    return replace(study, factors={}, paired=(), exclude=(), design=None, tuned={}, runs=runs)


def _bound(hypothesis: Compared) -> float | None:
    """The smallest difference of interest, where one is stated of a response whose noise is known."""
    if isinstance(hypothesis, RatioStated) or hypothesis.response not in NOISE_KNOWN_FOR:
        return None
    return hypothesis.at_least


def _detectable(alike: Sequence[Compared], study: Study, noise: SeedNoise) -> Diagnostic:
    """What hypotheses of equally many levels can find, of one response."""
    first, *others = alike
    levels = first.between(study.varied)
    assert levels is not None
    seeds, per_level = len(study.seeds), cells_at(study, first.factor, levels)
    sd, smallest, unit, condition = _scale(first.response, noise)
    bound = _bound(first)
    smallest = smallest if bound is None else bound
    tested = max(2, seeds)
    stated, level, ratio = len(study.hypotheses), shared_level(study), noise.by_factor
    found = minimum_detectable_effect(sd, per_level, tested, seed_by_factor=ratio, level=level)
    needed = seeds_needed(smallest, sd, per_level, seed_by_factor=ratio, level=level)
    rate = f"{(1 - LEVEL) * STATED_SHARE:.0%}"
    shared = f" at an error rate of {rate}{f' that {stated} stated hypotheses share' * (stated > 1)}"
    condition += f" the difference between two levels varies from seed to seed by {ratio:g} of a run's sd"
    finds = f"a difference of {found:.3g} {unit} with {POWER:.0%} power{shared}, {condition}"
    resolves = f"finds {smallest:g} {unit}"
    if bound is not None:
        resolves = f"tells no effect, and one of {2 * smallest:g}, from the stated {smallest:g} {unit}"
    runs = counted(per_level * seeds, "run")
    who = f"{_quoted(first)} compares {runs} at {first.factor} {named(levels[0])} with as many at {named(levels[1])}"
    if others:
        who = f"{listed(map(_quoted, alike))} each compare {runs} at one level with as many at another"
    size = f"({counted(per_level, 'cell')}, {counted(seeds, 'seed')})"
    says = f"that finds {finds}" if seeds > 1 else f"one seed estimates no noise; {tested} seeds would find {finds}"
    remedy = f"Train more seeds: {more_seeds(study, needed)} {resolves}."
    if needed > MANY_SEEDS:
        remedy = f"{smallest:g} {unit} would take {needed:,} seeds: add cells, or ask for a larger difference."
    return Diagnostic(
        "detectable_effect",
        "note" if needed <= seeds else "limits",
        f"{who} {size}: {says}.",
        "Nothing to change." if needed <= seeds else remedy,
    )


def _scale(response: str, noise: SeedNoise) -> tuple[float, float, str, str]:
    """For a response: its seed-to-seed sd, the difference to find, the unit of both, and what the noise rests on."""
    if response in NOISE_KNOWN_FOR:
        return noise.sd, SMALLEST_EFFECT_NATS, f"nats in {response}", f"{noise.condition} and"
    return 1.0, SMALLEST_EFFECT_SD, f"seed-to-seed sd of {response}", "if"


def _plateau(hypothesis: PlateauStated, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    step, runs = hypothesis.by_step, len(configs)
    short = sum(config.max_iters < step for config in configs)
    if short:
        yield Diagnostic(
            "horizon_before_plateau",
            "blocks" if short == runs else "limits",
            f"{_quoted(hypothesis)}: {of_runs(short, runs)} end before step {step:,}; one that still improves at its "
            "end can't tell whether it would have plateaued by then.",
            f"Train every run for more than {step:,} steps.",
        )
    seldom = sum(evaluations(config) - 1 < FEWEST_EVALUATIONS for config in configs)
    if seldom:
        yield Diagnostic(
            "too_few_evaluations",
            "blocks" if seldom == runs else "limits",
            f"{_quoted(hypothesis)}: {of_runs(seldom, runs)} are evaluated fewer than {FEWEST_EVALUATIONS} times after "
            "step 0, too seldom to tell a plateau from a slope.",
            "Lower eval_interval.",
        )


def _spikes(hypothesis: SpikesStated, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    runs, without = len(configs), sum(config.eval_interval >= config.max_iters for config in configs)
    if without:
        yield Diagnostic(
            "no_evaluation_within",
            "blocks" if without == runs else "limits",
            f"{_quoted(hypothesis)}: {of_runs(without, runs)} are evaluated before the first and after the last step "
            "alone, so no step but the first follows an evaluation.",
            "Lower eval_interval below max_iters.",
        )


def _optimum(hypothesis: OptimumStated, study: Study) -> Iterator[Diagnostic]:
    """Factors without an optimum, levels too few to tell one, and a stated range that the grid cannot bracket."""
    factor, moved_by = hypothesis.factor, hypothesis.moved_by
    levels = sorted(each for each in study.varied.get(factor, ()) if isinstance(each, int | float))
    others = study.varied.get(moved_by, ()) if moved_by else (0, 1)
    short = factor if len(levels) < 3 else moved_by if len(others) < 2 else None
    if short is not None:
        yield Diagnostic(
            "hypothesis_untestable",
            "blocks",
            f"{_quoted(hypothesis)} can't be judged: {short} has "
            f"{counted(len(study.varied.get(short, ())), 'level')} to compare.",
            f"List {'at least five numeric levels' if short == factor else 'two levels or more'} of {short} under "
            "factors.",
        )
        return
    if len(levels) < ENOUGH_LEVELS:
        yield Diagnostic(
            "few_levels",
            "note",
            f"{_quoted(hypothesis)}: {counted(len(levels), 'level')} of {factor} ({listed(levels)}) show no more than "
            "a parabola; which side is steeper, and so where the optimum lies between levels, stays open.",
            f"List five levels of {factor} or more.",
        )
    ends = [end for end in (hypothesis.low, hypothesis.high) if end is not None]
    beyond = [end for end in ends if not levels[0] < end < levels[-1]]
    if beyond:
        yield Diagnostic(
            "not_bracketed",
            "note",
            f"{_quoted(hypothesis)}: {listed(beyond)} is not inside the grid of {factor} ({listed(levels)}), so an "
            "optimum near it lies at the edge, where its interval is open.",
            f"Add levels of {factor} beyond {listed(beyond)}.",
        )


def _quoted(hypothesis: Hypothesis) -> str:
    return f"“{hypothesis.says.rstrip('.')}”"
