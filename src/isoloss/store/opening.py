"""A study directory, opened: what it studies and where its files lie, before any frame is made of it."""

from __future__ import annotations

from pathlib import Path
from typing import NamedTuple

from isoloss.errors import StoreError
from isoloss.files import path_exists, read_checksummed, user_path
from isoloss.store.enclosed import check_enclosed
from isoloss.store.layout import StudyPaths
from isoloss.store.own_parts import know_parts
from isoloss.store.records import TOKENIZER, read_checked
from isoloss.study.config import BEFORE_THEY_WERE_SETTINGS
from isoloss.study.study import Study
from isoloss.study.studyfile import parse_study
from isoloss.study.texts import DataFacts


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
    study, tokenizer = read_study(paths.study), read_checked(TOKENIZER, paths.tokenizer)
    splits = tokenizer["val_tokens"], tokenizer["train_tokens"]
    return OpenStudy(paths, study, DataFacts(tokenizer["corpus_sha256"], tokenizer["vocab_size"], *splits))


def read_study(path: Path) -> Study:
    """A study as its directory has it, in which settings may be missing that were added since. Raises StoreError."""
    know_parts(StudyPaths(path.parent).parts)
    return parse_study(read_checksummed(path), str(path), BEFORE_THEY_WERE_SETTINGS)
