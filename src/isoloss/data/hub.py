"""Texts of datasets of the Hugging Face Hub, by its library `datasets`, which downloads them into its own cache."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Any

from isoloss.data.rows import checked_texts
from isoloss.errors import CorpusError
from isoloss.study.hub_datasets import HubDataset


def hub_texts(stated: HubDataset, *, offline: bool) -> Iterator[str]:
    """The text of every row. Raises CorpusError where the library is absent, or the dataset cannot be had."""
    try:
        import datasets  # type: ignore[import-not-found]  # an extra
    except ImportError as error:
        instead = "install isoloss[hub], or download its files and name them"
        raise CorpusError(f"'{stated.name}' needs the library datasets, which is not installed; {instead}") from error
    library: Any = datasets
    try:
        rows = library.load_dataset(
            stated.dataset,
            stated.config,
            split=stated.split,
            revision=stated.revision,
            download_config=library.DownloadConfig(local_files_only=offline),
        )
        numbered = ((number, row.get(stated.field), [*row]) for number, row in enumerate(rows, 1))
        yield from checked_texts(stated.name, numbered, "row", stated.field)
    except CorpusError:
        raise
    except Exception as error:  # of the library's own and of several clients
        reason = " ".join(str(error).split())[:300]
        instead = f"; run `isoloss prepare {stated.name}` while online" if offline else ""
        raise CorpusError(f"cannot get '{stated.name}': {type(error).__name__}: {reason}{instead}") from error
