"""A study directory, opened: what it studies and where its files lie, before any frame is made of it."""

from __future__ import annotations

from dataclasses import replace
from pathlib import Path
from typing import NamedTuple, cast

from isoloss.errors import StoreError
from isoloss.files import DIGEST, path_exists, read_checksummed, user_path
from isoloss.store.enclosed import check_enclosed
from isoloss.store.layout import StudyPaths
from isoloss.store.own_parts import know_parts
from isoloss.store.records import TOKENIZER, OneTokenizerRecord, read_checked
from isoloss.study.config import BEFORE_THEY_WERE_SETTINGS
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


def recorded_tokenizers(paths: StudyPaths) -> dict[str, OneTokenizerRecord]:
    """What tokenizer.json says of each tokenizer, by its name. Raises StoreError."""
    first = read_checked(TOKENIZER, paths.tokenizer)
    return {each["tokenizer"]: _alone(each) for each in (first, *first.get("others", []))}


def _alone(record: OneTokenizerRecord) -> OneTokenizerRecord:
    """A record without what is of its file: written into another, a digest within would be taken for that one's."""
    return cast("OneTokenizerRecord", {key: value for key, value in record.items() if key not in ("others", DIGEST)})


def recorded_facts(paths: StudyPaths, study: Study) -> DataFacts:
    """What tokenizer.json says of the text of the study that the directory has. Raises StoreError."""
    known = recorded_tokenizers(paths)
    if missing := {*study.tokenizers} - known.keys():
        raise StoreError(f"{paths.tokenizer}: lacks the study's tokenizer {min(missing)}; isoloss did not write this")

    def facts(of: OneTokenizerRecord) -> DataFacts:
        splits = of["val_tokens"], of["train_tokens"]
        sha256 = of.get("tokenizer_sha256", "")
        found = DataFacts(of["corpus_sha256"], of["vocab_size"], *splits, tokenizer_sha256=sha256)
        return (
            replace(found, documents=(dict(lengths[0]), dict(lengths[1])))
            if (lengths := of.get("documents"))
            else found
        )

    return joined_facts({name: facts(each) for name, each in known.items()})


def read_study(path: Path) -> Study:
    """A study as its directory has it, in which settings may be missing that were added since. Raises StoreError."""
    know_parts(StudyPaths(path.parent).parts)
    return parse_study(read_checksummed(path), str(path), BEFORE_THEY_WERE_SETTINGS)
