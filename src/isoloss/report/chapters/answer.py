"""The answer to the study's question in a few plain sentences: what its page opens with."""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from typing import Any

from isoloss.analysis.may_be_best import may_be_best
from isoloss.report.chapter import Chapter
from isoloss.report.loss_references import lowest_loss_in_bits
from isoloss.report.snapshot import Snapshot
from isoloss.wording import counted, listed, loss


def answer_chapter(snapshot: Snapshot, others: Sequence[Chapter]) -> Chapter:
    """What matters, in the first words of the `others`; the best configuration; what its loss is beside those of models
    that only count; and what limits all this.

    `others` are the chapters whose first sentence answers the question, the most fitting first.
    """
    if snapshot.ranking.is_empty():
        return Chapter("answer", "Answer", list(_nothing_yet(snapshot)))
    first = others[0].answer[0] if others else ""
    sentences = [first, *_best(snapshot), lowest_loss_in_bits(snapshot), *_limit(snapshot)]
    return Chapter("answer", "Answer", [sentence for sentence in sentences if sentence])


def _nothing_yet(snapshot: Snapshot) -> Iterator[str]:
    counts = snapshot.counts
    states = [f"{counts[s]:,} {s}" for s in ("failed", "diverged", "damaged", "running", "pending") if counts[s]]
    yield f"There is no result yet: of {counted(snapshot.study.size, 'run')}, {listed(states)} and none is done."
    by = f"best_{snapshot.compared_loss}"
    evaluated = snapshot.table.drop_nulls(by).sort(by, "run_id")
    if len(evaluated):
        best = evaluated.row(0, named=True)
        yield f"The lowest validation loss so far is {loss(best[by])} {snapshot.loss_unit} ({best['label']})."


def _best(snapshot: Snapshot) -> Iterator[str]:
    best = snapshot.ranking.row(0, named=True)
    if len(snapshot.configurations) == 1:
        yield f"The lowest validation loss is {_mean(best, snapshot.loss_unit)}."
        return
    text = f"The lowest validation loss, {_mean(best, snapshot.loss_unit)}, is that of {best['label']}"
    if best["n"] < 2:
        yield f"{text}; it was trained once, so a close second may be as good."
        return
    by = f"best_{snapshot.compared_loss}"
    close = may_be_best(snapshot.done.drop_nulls(by), "key", by, "seed")
    if close is None:
        yield f"{text}."
        return
    others = counted(len(close) - 1, "other configuration")
    told = (
        "every other configuration is worse by more than chance explains"
        if len(close) == 1
        else f"{others} cannot be told from it by {counted(best['n'], 'seed')}"
    )
    yield f"{text}; {told}."


def _mean(row: Mapping[str, Any], unit: str) -> str:
    """'1.7565 nats per token (mean of 3 seeds, 95% interval 1.7513 to 1.7617)'."""
    value = f"{loss(row['mean'])} {unit}"
    if row["low"] is None or row["high"] is None:
        return value
    return f"{value} (mean of {row['n']} seeds, 95% interval {loss(row['low'])} to {loss(row['high'])})"


def _limit(snapshot: Snapshot) -> Iterator[str]:
    """What a reader must know first of what the study cannot say."""
    lost = snapshot.table.height - snapshot.counts["done"]
    waiting = sum(snapshot.counts[state] for state in ("pending", "running"))
    if waiting:
        yield f"{waiting:,} of {counted(snapshot.study.size, 'run')} are still to be trained; all of this may change."
    elif lost:
        yield f"{lost:,} of {counted(snapshot.study.size, 'run')} failed or diverged and are left out of these means."
    elif snapshot.study.one_seed:
        yield "With one seed, nothing here shows how much of a difference is chance: more seeds would."
    else:
        at_end = sum(
            step == snapshot.configs[run].max_iters
            for run, step in snapshot.done.select("run_id", "best_step").iter_rows()
        )
        if at_end > len(snapshot.done) / 2:
            yield (
                f"{at_end:,} of {counted(len(snapshot.done), 'run')} reached their lowest loss at their last step, so "
                "longer training may order them differently."
            )
