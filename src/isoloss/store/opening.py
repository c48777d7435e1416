"""A study directory, opened: what it studies and where its files lie, before any frame is made of it."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any, NamedTuple, cast

from isoloss.errors import StoreError
from isoloss.files import DIGEST, path_exists, read_checksummed, user_path, write_record
from isoloss.store.enclosed import check_enclosed
from isoloss.store.layout import StudyPaths
from isoloss.store.own_parts import know_parts
from isoloss.store.records import read_checked
from isoloss.store.text_records import TOKENIZER, LengthsOfDocuments, OneTokenizerRecord, PartsOfText, lengths_from
from isoloss.study.config import BEFORE_THEY_WERE_SETTINGS
from isoloss.study.datasets import Dataset
from isoloss.study.mixtures import Parts
from isoloss.study.study import Study
from isoloss.study.studyfile import parse_study
from isoloss.study.texts import DataFacts, joined_facts


class OpenStudy(NamedTuple):
    """A study and its directory."""

    paths: StudyPaths
    study: Study
    facts: DataFacts


def open_study(folder: str | Path) -> OpenStudy:
    """Open a study directory. Raises StoreError when it is none, is damaged, or leads out of its folder."""
    paths = StudyPaths(user_path(folder))
    check_enclosed(paths.folder)
    if not path_exists(paths.study):
        raise StoreError(f"{paths.folder} is no study directory: it has no study.yaml")
    study = read_study(paths.study)
    return OpenStudy(paths, study, recorded_facts(paths, study))


def recorded_tokenizers(paths: StudyPaths) -> dict[Dataset, OneTokenizerRecord]:
    """What tokenizer.json says of each text and tokenizer. Raises StoreError."""
    first = read_checked(TOKENIZER, paths.tokenizer)
    records = map(_alone, (first, *first.get("others", [])))
    return {Dataset(each["corpus"], each.get("val_corpus", ""), each["tokenizer"]): each for each in records}


def write_tokenizers(paths: StudyPaths, records: Mapping[Dataset, Mapping[str, Any]]) -> None:
    """Write tokenizer.json from what is known of each text and tokenizer. Raises StoreError."""
    first, *others = records.values()
    write_record(paths.tokenizer, {**first, **({"others": others} if others else {})})


def records_of(study: Study, known: Mapping[Dataset, OneTokenizerRecord]) -> dict[Dataset, OneTokenizerRecord]:
    """Those of a study's own texts and tokenizers, as far as they are known.

    The one text of a study may have moved since: it is known by its tokenizer where its name is not.
    """
    of_one_text = {name.tokenizer: each for name, each in known.items() if "val_corpus" not in each}
    moved = {} if study.varied_texts else {each: of_one_text.get(each.tokenizer) for each in study.datasets}
    found = {each: known.get(each) or moved.get(each) for each in study.datasets}
    return {each: record for each, record in found.items() if record is not None}


def _alone(record: OneTokenizerRecord) -> OneTokenizerRecord:
    """A record without what is of its file: written into another, a digest within would be taken for that one's."""
    return cast("OneTokenizerRecord", {key: value for key, value in record.items() if key not in ("others", DIGEST)})


def recorded_facts(paths: StudyPaths, study: Study) -> DataFacts:
    """What tokenizer.json says of the texts of the study that the directory has. Raises StoreError."""
    known = records_of(study, recorded_tokenizers(paths))
    if missing := study.datasets.keys() - known.keys():
        of = min(missing)
        lacks = f"lacks the study's tokenizer {of.tokenizer}" + (f" of {of.corpus}" if study.varied_texts else "")
        raise StoreError(f"{paths.tokenizer}: {lacks}; isoloss did not write this")
    return joined_facts({each: facts_in(record) for each, record in known.items()})


def facts_in(record: OneTokenizerRecord) -> DataFacts:
    """What a record says of a text."""
    documents = record.get("documents")
    return DataFacts(
        record["corpus_sha256"],
        record["vocab_size"],
        record["val_tokens"],
        record["train_tokens"],
        tokenizer_sha256=record.get("tokenizer_sha256", ""),
        train_parts=_parts(record.get("train_parts")),
        val_parts=_parts(record.get("val_parts")),
        documents=(_lengths(documents[0]), _lengths(documents[1])) if documents else None,
    )


def _lengths(stated: list[LengthsOfDocuments]) -> tuple[dict[int, int], ...]:
    return tuple(map(lengths_from, stated))


def _parts(stated: PartsOfText | None) -> Parts | None:
    return Parts(tuple(stated["lengths"]), tuple(stated["shares"])) if stated else None


def read_study(path: Path) -> Study:
    """A study as its directory has it, in which settings may be missing that were added since. Raises StoreError."""
    know_parts(StudyPaths(path.parent).parts)
    return parse_study(read_checksummed(path), str(path), BEFORE_THEY_WERE_SETTINGS)
