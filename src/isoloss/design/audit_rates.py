"""Levels that are compared at a learning rate which suits some of them better than others."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from isoloss.design.audit_scaling import rests_on_width
from isoloss.diagnostic import Diagnostic
from isoloss.study.config import RunConfig
from isoloss.study.hypotheses import EffectStated, RatioStated
from isoloss.study.study import Study
from isoloss.wording import between, counted, listed, named

LARGE_WIDTH_RATIO = 2.0
"""Widths further apart than this are said to need learning rates of their own; a rule of thumb."""


def rate_findings(study: Study, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    """Widths that share one rate, and optimizers that are not compared each at its own best."""
    yield from _widths_at_one_rate(study, configs)
    yield from _untuned_optimizers(study, configs)


def _widths_at_one_rate(study: Study, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    widths = sorted({config.n_embd for config in configs})
    rates = {config.learning_rate for config in configs}
    if len(rates) > 1 or widths[-1] < LARGE_WIDTH_RATIO * widths[0]:
        return
    yield Diagnostic(
        "one_learning_rate",
        "limits" if any(map(rests_on_width, study.hypotheses)) else "note",
        f"{counted(len(widths), 'width')} ({between(widths)}) train at one learning rate, {named(rates.pop())}: the "
        "best rate falls with width in this parametrization (Yang et al. 2022), so a difference between widths is in "
        "part one of how well the rate suits them.",
        "Compare each width at its best rate: state three values or more, tuned: {learning_rate: [1e-3, 2e-3, 4e-3]}.",
    )


def _untuned_optimizers(study: Study, configs: Sequence[RunConfig]) -> Iterator[Diagnostic]:
    optimizers = [str(name) for name in study.varied.get("optimizer", ())]
    untuned = [name for name in optimizers if not _is_tuned(study, name)]
    if len(optimizers) < 2 or not untuned:
        return
    own = {name: _own_rate(name) for name in untuned}
    rates = {name: sorted({getattr(c, own[name]) for c in configs if c.optimizer == name}) for name in untuned}
    lists = {name: f"{name}: [{rate / 2:g}, {rate:g}, {2 * rate:g}]" for name, (rate, *_) in rates.items()}
    tuned = [
        f"{setting}: {{over: optimizer, {', '.join(lists[name] for name in untuned if own[name] == setting)}}}"
        for setting in dict.fromkeys(own.values())
    ]
    averaged = [
        name for name in dict.fromkeys(own.values()) if len(study.varied.get(name, ())) > 1 and name not in study.tuned
    ]
    remedy = f"Compare each at its best rate: tuned: {{{', '.join(tuned)}}}."
    text = f"No learning rate is tuned for {listed(untuned)} (trained at {listed(map(listed, rates.values()))})"
    if averaged:
        text = f"Optimizers are compared on average over all levels of {listed(averaged)}, not each at its best"
        remedy = f"Move {listed(averaged)} to tuned: each optimizer is then compared at its best."
    yield Diagnostic(
        "untuned_rates",
        "limits"
        if any(isinstance(h, EffectStated | RatioStated) and h.factor == "optimizer" for h in study.hypotheses)
        else "note",
        f"{text}: a difference between them is in part one of how well the rates suit them.",
        remedy,
    )


def _is_tuned(study: Study, optimizer: str) -> bool:
    """Whether several values of the optimizer's own rate are tried, of which it has the best."""
    tuned = study.tuned.get(_own_rate(optimizer))
    return tuned is not None and len(tuned.at({"optimizer": optimizer}).of({})) > 1


def _own_rate(optimizer: str) -> str:
    return "muon_learning_rate" if optimizer == "muon" else "learning_rate"
