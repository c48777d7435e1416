"""Datasets of the Hugging Face Hub as a study states them: by name, commit, split and the field that has the text."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Annotated, Any, TypeGuard

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from isoloss.errors import ConfigError

DATASET = "dataset:"
"""A corpus whose name begins so is of the Hub: 'dataset:roneneldan/TinyStories,field=text,revision=…,split=train'."""
KNOWN = {
    "tinystories": {
        "dataset": "roneneldan/TinyStories",
        "revision": "f54c09fd23315a6f9c86f9dc80f725de7d8f9c64",
        "field": "text",
    }
}
"""Datasets by a name of their own: the commit, of which all files' hashes are part, is what verifies them."""
LICENCES = {"roneneldan/TinyStories": "CDLA-Sharing-1.0"}
_WORD = r"^[^,=]+$"
Word = Annotated[str, Field(pattern=_WORD)]


class HubDataset(BaseModel):
    """What a study file states. Its revision is a commit, so that the text is the same tomorrow."""

    model_config = ConfigDict(extra="forbid", strict=True, frozen=True)

    dataset: Annotated[str, Field(pattern=r"^[\w.-]+(/[\w.-]+)?$")]
    config: Word | None = None
    split: Word = "train"
    field: Word
    revision: Annotated[str, Field(pattern="^[0-9a-f]{40}$")]

    @property
    def name(self) -> str:
        """The one spelling of it, wherever a text is named."""
        stated = {key: value for key, value in sorted(self) if key != "dataset" and value is not None}
        return ",".join([f"{DATASET}{self.dataset}", *(f"{key}={value}" for key, value in stated.items())])

    @property
    def short_name(self) -> str:
        """What a reader knows it by."""
        return self.dataset.rpartition("/")[2]


def is_hub_dataset(corpus: object) -> TypeGuard[str]:
    """Whether this names a dataset of the Hub."""
    return isinstance(corpus, str) and corpus.startswith(DATASET)


def hub_dataset_of(value: Mapping[str, Any]) -> HubDataset:
    """The dataset of these keys. Raises ConfigError with the first that is wrong."""
    try:
        return HubDataset.model_validate(value)
    except ValidationError as error:
        found = error.errors()[0]
        key = str(found["loc"][0])
        expected = "expected {dataset: OWNER/NAME, revision: COMMIT, field: text} and, if need be, split and config"
        where = f"https://huggingface.co/datasets/{value.get('dataset')}/commits"
        instead = f"the 40 digits of a commit that {where} lists" if key == "revision" else expected
        raise ConfigError(f"{key}: {found['msg'].lower()}; {instead}", (key,)) from error


def hub_dataset_named(name: str) -> HubDataset:
    """The dataset of a name. Raises ConfigError."""
    dataset, *stated = name.removeprefix(DATASET).split(",")
    return hub_dataset_of(
        {"dataset": dataset, **{key: value for key, _, value in (each.partition("=") for each in stated)}}
    )
