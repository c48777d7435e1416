"""How a study has grown: earlier states of its file, when each was replaced, and what changed."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from pydantic import TypeAdapter
from typing_extensions import TypedDict

from isoloss.files import path_exists, read_checksummed, write_checksummed, write_record
from isoloss.store.layout import StudyPaths
from isoloss.store.opening import read_study
from isoloss.store.records import Count, read_checked
from isoloss.store.run import now
from isoloss.study.cell_shapes import cells_values
from isoloss.study.config import SETTINGS, TEXTS, RunConfig
from isoloss.study.hypotheses import EffectStated, Hypothesis, RatioStated
from isoloss.study.study import Study
from isoloss.study.studyfile import dump_study


@dataclass(frozen=True)
class Revision:
    """A change of a study: `begun` is whether its training had, so that losses could be looked at in between."""

    at: str
    """When study.N.yaml was replaced."""
    runs_ended: Count
    begun: bool
    changes: tuple[str, ...]


class _RevisionsRecord(TypedDict):
    revisions: list[Revision]


REVISIONS = TypeAdapter(_RevisionsRecord)


def revisions(paths: StudyPaths) -> list[Revision]:
    """Every change of a study so far. Raises StoreError where the record of them is damaged."""
    if not path_exists(paths.revisions):
        return []
    return read_checked(REVISIONS, paths.revisions)["revisions"]


def revise(
    paths: StudyPaths, before: Study, after: Study, *, runs_ended: int, begun: bool, more: Sequence[str] = ()
) -> None:
    """Replace a study's file and keep the former one as study.N.yaml; interrupted, it may be called again.

    `more` is said of the change besides what the two studies tell.
    """
    earlier, former = revisions(paths), dump_study(before)
    if earlier and read_checksummed(paths.revision(len(earlier))) == former:  # interrupted before the last step
        earlier.pop()
    write_checksummed(paths.revision(len(earlier) + 1), former)
    entries = [*earlier, Revision(now(), runs_ended, begun, (*more, *changes_between(before, after)))]
    write_record(paths.revisions, {"revisions": list(map(asdict, entries))})
    write_checksummed(paths.study, dump_study(after))


def stated_beforehand(paths: StudyPaths, study: Study) -> tuple[Hypothesis, ...]:
    """The hypotheses that a study had, with the levels they compare, when its training began. Raises StoreError."""
    for number, revision in enumerate(revisions(paths), 1):
        if revision.begun:
            former = read_study(paths.revision(number))
            known = [(each, _compared(each, former)) for each in former.hypotheses]
            return tuple(each for each in study.hypotheses if (each, _compared(each, study)) in known)
    return study.hypotheses


def _compared(hypothesis: Hypothesis, study: Study) -> object:
    """What a hypothesis compares where that follows from the study's: levels, values tried in tuning, the target."""
    levels = hypothesis.between(study.varied) if isinstance(hypothesis, EffectStated | RatioStated) else None
    target = study.target if getattr(hypothesis, "response", None) == "steps_to_target" else None
    return levels, target, dict(study.tuned)


def changes_between(before: Study, after: Study) -> Iterator[str]:
    """What was changed, in words: 'dropout gained 0.4'."""
    texts = TEXTS if before.varied_texts or after.varied_texts else ()
    for setting in (*texts, *SETTINGS):
        were, are = _values(before, setting), _values(after, setting)
        yield from _gained_and_lost(setting, were, are)
    yield from _gained_and_lost("seeds", before.seeds, after.seeds)
    old, new = (cells_values(study.cells) | {"factors": None} for study in (before, after))
    yield from (f"{part} changed" for part in {**old, **new} if old.get(part) != new.get(part))
    for part in ("description", "target", "order", "hypotheses"):
        if getattr(before, part) != getattr(after, part):
            yield f"{part} changed"


def _gained_and_lost(name: str, were: tuple[Any, ...], are: tuple[Any, ...]) -> Iterator[str]:
    gained = [value for value in are if value not in were]
    lost = [value for value in were if value not in are]
    if len(were) == len(are) == 1 and gained:
        yield f"{name} was {were[0]}, is now {are[0]}"
        return
    for word, values in (("gained", gained), ("lost", lost)):
        if values:
            yield f"{name} {word} {', '.join(map(str, values))}"
    if not gained and not lost and were != are:
        yield f"{name} put in another order"


def _values(study: Study, setting: str) -> tuple[Any, ...]:
    """A setting's levels, or its one value; a default that is stated equals one that is not."""
    if setting == "tokenizer":
        return study.tokenizers
    if setting in TEXTS:
        return tuple(dict.fromkeys(getattr(dataset, setting) for dataset in study.datasets))
    default = RunConfig.model_fields[setting].default
    return study.varied.get(setting, (study.base.get(setting, default),))
