"""The server of `isoloss watch`: what it answers, to whom, and that it follows a study."""

from __future__ import annotations

import asyncio
import json
import time
from collections.abc import Sequence
from pathlib import Path

import pytest
from markupsafe import Markup

from isoloss.errors import StoreError
from isoloss.report import live
from isoloss.report.live import LiveData, LiveStudy, live_app
from isoloss.report.page import Section

pytest.importorskip("httpx2")
from starlette.testclient import TestClient


class Counting:
    """Renders how often it was asked, in place of a study."""

    def __init__(self) -> None:
        self.asked, self.broken = {"data": 0, "sections": 0}, False

    def data(self) -> LiveData:
        if self.broken:
            raise StoreError("study.yaml: damaged")
        self.asked["data"] += 1
        return LiveData(f"data {self.asked['data']}", f"{self.asked['data']} done")

    def sections(self) -> Sequence[Section]:
        self.asked["sections"] += 1
        return [Section("claims", "Claims", Markup(f"<p>{self.asked['sections']}</p>"))]

    def page(self, data: LiveData, sections: Sequence[Section], version: str) -> str:
        return f"{data.explorer} {len(sections)} {version}"


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "runs" / "a").mkdir(parents=True)
    (tmp_path / "study.yaml").write_text("name: x")
    (tmp_path / "runs" / "a" / "status.json").write_text("{}")
    (tmp_path / "runs" / "a" / "evals.jsonl").write_text("{}\n")
    return tmp_path


@pytest.fixture(autouse=True)
def eager(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MIN_INTERVAL_S", 0.0)
    monkeypatch.setattr(live, "MAX_INTERVAL_S", 0.0)


def append(folder: Path) -> None:
    with (folder / "runs" / "a" / "evals.jsonl").open("a") as rows:
        rows.write("{}\n")


def test_rows_renew_the_data_and_the_end_of_a_run_the_chapters(folder: Path) -> None:
    rendering = Counting()
    study = LiveStudy(folder, rendering)
    assert study.read() and rendering.asked == {"data": 1, "sections": 1}
    assert not study.read() and rendering.asked == {"data": 1, "sections": 1}
    append(folder)
    assert study.read() and rendering.asked == {"data": 2, "sections": 1}
    (folder / "runs" / "a" / "status.json").write_text('{"state": "done"}')
    assert study.read() and rendering.asked == {"data": 3, "sections": 2}


def test_what_cannot_be_read_is_said_and_the_last_version_stays(folder: Path) -> None:
    rendering = Counting()
    study = LiveStudy(folder, rendering)
    study.read()
    rendering.broken = True
    append(folder)
    assert study.read() and "study.yaml: damaged" in json.loads(study.event)["state"]
    assert study.data == "data 1"
    rendering.broken = False
    assert study.read() and json.loads(study.event)["state"] == "2 done"


def test_a_costly_rendering_is_repeated_seldom(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_INTERVAL_S", 600.0)
    cost = iter([0.0, 0.0, 0.0, 2.0, *[2.0] * 20])
    monkeypatch.setattr(live.time, "process_time", lambda: next(cost))
    rendering = Counting()
    study = LiveStudy(folder, rendering)
    study.read()
    append(folder)
    assert not study.read() and rendering.asked["data"] == 1


def test_pages_of_other_origins_and_other_hosts_are_refused(folder: Path) -> None:
    study = LiveStudy(folder, Counting())
    study.read()
    client = TestClient(live_app(study), base_url="http://127.0.0.1:8000")
    assert client.get("/").text == "data 1 1 1.1"
    assert client.get("/data").text == "data 1" and client.get("/sections").json() == {"claims": "<p>1</p>"}
    assert client.get("/", headers={"host": "evil.example"}).status_code == 400
    assert client.get("/data", headers={"origin": "http://evil.example"}).status_code == 403
    assert client.get("/data", headers={"origin": "http://127.0.0.1:8000"}).status_code == 200
    assert client.post("/data").status_code == 405
    for path in ("/study.yaml", "/../study.yaml", "/runs/a/status.json", "/%2e%2e/etc/passwd"):
        assert client.get(path).status_code == 404
    assert client.get("/data").headers["x-content-type-options"] == "nosniff"


def test_renderings_take_no_more_than_their_share_of_the_cores(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(live, "MAX_INTERVAL_S", 600.0)
    cost, now = iter([0.0, 0.05]), 1000.0
    monkeypatch.setattr(live.time, "process_time", lambda: next(cost))
    monkeypatch.setattr(live.time, "monotonic", lambda: now)
    part = live.Part(lambda: 1, 0)
    part.renew(2)
    assert part.due == pytest.approx(now + 2.5) and (part.value, part.number) == (1, 1)


@pytest.mark.filterwarnings("error")
def test_a_server_reads_while_it_runs(folder: Path) -> None:
    study = LiveStudy(folder, Counting())
    with TestClient(live_app(study), base_url="http://127.0.0.1:8000") as client:
        until = time.monotonic() + 10
        while client.get("/data").text != "data 1" and time.monotonic() < until:
            time.sleep(0.01)
        append(folder)
        while client.get("/data").text != "data 2" and time.monotonic() < until:
            time.sleep(0.01)
        assert client.get("/data").text == "data 2"


def test_every_reader_hears_the_newest_version_and_a_slow_one_skips_some(folder: Path) -> None:
    async def listen() -> tuple[list[str], list[str]]:
        study = LiveStudy(folder, Counting())
        reading = asyncio.create_task(study.keep_reading())
        fast, slow = study.events(), study.events()
        heard: tuple[list[str], list[str]] = [], []
        heard[1].append(await anext(slow))
        while not heard[0] or json.loads(heard[0][-1].removeprefix("data: "))["data"] < 4:
            heard[0].append(await asyncio.wait_for(anext(fast), 10))
            append(folder)
        heard[1].append(await anext(slow))
        reading.cancel()
        return heard

    fast, slow = asyncio.run(listen())
    assert len(fast) >= 3 and len(slow) == 2
    assert json.loads(slow[-1].removeprefix("data: "))["data"] >= 4
