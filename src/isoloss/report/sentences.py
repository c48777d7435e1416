"""The sentences of the page that depend on the study: its summary, and what it cannot show."""

from __future__ import annotations

from collections.abc import Iterator

from isoloss.analysis.levels import largest_difference
from isoloss.report import wording as say
from isoloss.report.gallery import effects_by_factor
from isoloss.report.snapshot import Snapshot
from isoloss.spec import compute
from isoloss.store.records import NUMERICS


def summary(snapshot: Snapshot) -> str:
    """The study in one paragraph."""
    return " ".join(_summary(snapshot))


def limitations(snapshot: Snapshot) -> list[str]:
    """What this design cannot show, and what its numbers must not be taken for."""
    return [*_design(snapshot), *_measurement(snapshot)]


def _summary(snapshot: Snapshot) -> Iterator[str]:
    study, counts = snapshot.study, snapshot.counts
    design = f"{say.plural(study.size, 'run')} on {study.corpus} ({study.tokenizer} tokens)"
    if snapshot.factors:
        cells = study.size // len(study.seeds)
        design += f": {say.plural(cells, 'combination')} of {say.listed(snapshot.factors)}"
        design += f", {say.plural(len(study.seeds), 'seed')} each"
    yield f"{design}."
    states = [f"{counts[state]:,} {state}" for state in ("done", "failed", "diverged")]
    states += [f"{counts[state]:,} {state}" for state in ("running", "pending", "damaged") if counts[state]]
    yield f"Of these, {say.listed(states)}."
    best = snapshot.best
    if best is None:
        yield "No run has been evaluated yet, so there are no results to show."
        return
    so_far = " so far, of runs that are not done," if snapshot.provisional else ""
    yield (
        f"The lowest validation loss{so_far} is {say.loss(best['best_val_loss'])} nats/token, reached by run "
        f"{best['run_id']} ({best['label']}) at step {say.count(best['best_step'])} of "
        f"{say.count(snapshot.configs[best['run_id']].max_iters)}."
    )
    yield from _unfinished_leader(snapshot)
    differences = {f: largest_difference(means) for f, means in effects_by_factor(snapshot).items()}
    known = sorted(((d, f) for f, d in differences.items() if d is not None), reverse=True)
    if known:
        ordered = say.listed([f"{factor} ({say.loss(difference)})" for difference, factor in known])
        yield (
            f"The largest differences between the mean losses of a factor's levels are {ordered}: "
            "a description of these runs, not a test."
        )


def _unfinished_leader(snapshot: Snapshot) -> Iterator[str]:
    """Say when a run that is not done reached a lower loss than the best of those that are."""
    assert snapshot.best is not None
    leader = snapshot.table.drop_nulls("best_val_loss").sort("best_val_loss", "run_id").row(0, named=True)
    if leader["best_val_loss"] < snapshot.best["best_val_loss"]:
        yield (
            f"Run {leader['run_id']} ({leader['label']}), which is {leader['status']}, reached "
            f"{say.loss(leader['best_val_loss'])}; results are drawn from runs that are done."
        )


def _design(snapshot: Snapshot) -> Iterator[str]:
    study, configs = snapshot.study, list(snapshot.configs.values())
    lost = snapshot.table.height - snapshot.counts["done"]
    if lost:
        yield (
            f"Of {say.plural(study.size, 'run')}, {say.count(lost)} {'is' if lost == 1 else 'are'} not done and left "
            "out of means and of the search for the best run. Where runs diverge, the levels they belong to look "
            "better than they are."
        )
    if len(study.seeds) == 1:
        yield (
            "Unreplicated: every cell has one seed. The noise between seeds cannot be estimated from these runs, so a "
            "small difference between two of them may be chance, and effects are screened, not tested."
        )
    else:
        yield (
            f"Each cell has {len(study.seeds)} seeds. The noise between them is taken to be the same in every cell; "
            "an interval under Effects is no better than that."
        )
    if snapshot.factors:
        yield (
            "The spread of a level's runs contains the effects of all other factors: it is not a confidence interval. "
            "Level means average over the other factors, so interactions between factors do not show in them."
        )
        ns = {factor: {m.n for m in means} for factor, means in effects_by_factor(snapshot).items()}
        uneven = [factor for factor, values in ns.items() if len(values) > 1]
        if uneven:
            yield (
                f"Levels of {say.listed(uneven)} have unequal numbers of runs, so their means also differ in what "
                "else they average over."
            )
    tokens = [compute.train_tokens(config) for config in configs]
    if min(tokens) < max(tokens):
        yield (
            f"Runs see between {say.si(min(tokens))} and {say.si(max(tokens))} training tokens: where a factor changes "
            "that number, its effect and the effect of more data are one."
        )
    rates = {config.learning_rate for config in configs}
    if len(rates) == 1 and len(configs) > 1:
        yield f"One learning rate ({rates.pop():g}) for all runs: none has it tuned to its own size or batch."


def _measurement(snapshot: Snapshot) -> Iterator[str]:
    best = snapshot.best
    yield (
        "The best validation loss is the lowest of several evaluations on the same split it is reported on: selected, "
        "therefore optimistic. There is no test split."
    )
    if best is not None:
        rows = snapshot.ranked.to_dicts()
        at_end = sum(row["best_step"] == snapshot.configs[row["run_id"]].max_iters for row in rows)
        yield (
            f"{at_end:,} of {say.plural(len(snapshot.ranked), 'run')} had the lowest loss at the last step; a "
            "longer horizon may order such runs differently."
        )
    if any(config.eval == "sampled" for config in snapshot.configs.values()):
        yield "Sampled evaluations carry sampling noise, and the lowest of several noisy ones is lower than the truth."
    yield "One corpus and one split: nothing here says how far results carry to other text."
    yield from _numerics(snapshot)
    yield (
        "Step times, throughput and MFU are medians over steps on a machine that other runs may have shared; they "
        "are no benchmark."
    )


def _numerics(snapshot: Snapshot) -> Iterator[str]:
    """Runs whose bits come of more than one place, and runs that differ in where they come from."""
    records = [status.provenance.get(NUMERICS, []) for status in snapshot.statuses.values()]
    changed = sum(len(record) > 1 for record in records)
    if changed:
        yield (
            f"{say.plural(changed, 'run')} {'was' if changed == 1 else 'were'} continued under other numerics than "
            f"{'it' if changed == 1 else 'they'} began with (threads, kernels, stack width, torch or processor); "
            "another start would not give the same bits."
        )
    places = {tuple(value for name, value in entry.items() if name != "step") for record in records for entry in record}
    if len(places) > 1:
        yield (
            f"The runs were trained under {len(places)} different numerics; differences of rounding between them are "
            "part of what distinguishes runs."
        )
