"""The report of a hostile study: every word of it is shown as text, and a real browser runs and fetches nothing."""

from __future__ import annotations

import json
import re
import shutil
import subprocess
import threading
import xml.etree.ElementTree as ET
from base64 import b64encode
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace
from hashlib import sha256
from html.parser import HTMLParser
from http.server import BaseHTTPRequestHandler, ThreadingHTTPServer
from pathlib import Path
from typing import Any

import pytest

from isoloss.files import write_text
from isoloss.report.chart import NARROW, WIDE, Figure
from isoloss.report.findings import find
from isoloss.report.page import render_page, render_section
from isoloss.report.snapshot import Snapshot, take_snapshot
from isoloss.report.study_report import explorer_data, study_chapters
from tests.faults.hostile import RUN, page_of, payloads, study_of

pytestmark = pytest.mark.promise(
    12, "30 payloads in every text of a study, parsed and in a browser; markup against the policy"
)

BROWSERS = ("chromium", "chromium-browser", "google-chrome")
DRAWINGS = {"svg", "g", "path", "text", "tspan", "rect", "line", "defs", "clipPath", "title", "linearGradient", "stop"}
NOT_IN_XML = re.compile(r"[\x00-\x08\x0b\x0c\x0e-\x1f]")


class Parsed(HTMLParser):
    """The elements of a page with their attributes, and its text."""

    def __init__(self, markup: str) -> None:
        super().__init__()
        self.elements: list[tuple[str, tuple[tuple[str, str | None], ...]]] = []
        self.words: list[str] = []
        self.feed(markup)
        self.close()

    def handle_starttag(self, tag: str, attrs: list[tuple[str, str | None]]) -> None:
        self.elements.append((tag, tuple((name, "" if name == "alt" else value) for name, value in attrs)))

    def handle_data(self, data: str) -> None:
        self.words.append(data)

    def handle_comment(self, data: str) -> None:
        self.elements.append(("a comment", ()))


def poisoned(figure: Figure, url: str) -> Figure:
    """The figure with hostile text in every word of its data, and with the keys by which Vega would follow a link."""
    words = [NOT_IN_XML.sub("", text) for text in payloads(url)]
    count = 0

    def poison(value: Any) -> Any:
        nonlocal count
        count += 1
        return f"{value} {words[count % len(words)]}" if isinstance(value, str) else value

    def spec_of(width: int, **_: Any) -> dict[str, Any]:
        spec = json.loads(json.dumps(figure.spec(width)))
        for rows in spec["datasets"].values():
            for row in rows:
                row |= {key: poison(value) for key, value in row.items()}
                row |= {
                    "href": f"javascript:{RUN}",
                    "url": f"{url}/data",
                    "signal": RUN,
                    "expr": RUN,
                    "title": words[0],
                }
        return spec

    harmful = replace(figure)
    object.__setattr__(harmful, "spec", spec_of)
    return harmful


@dataclass
class Calls:
    """A server that hears whom a page calls."""

    url: str
    requests: list[str]


@pytest.fixture(scope="module")
def calls() -> Iterator[Calls]:
    requests: list[str] = []

    class Hearing(BaseHTTPRequestHandler):
        def do_GET(self) -> None:
            requests.append(self.path)
            self.send_error(404)

        def log_message(self, *_: object, **__: object) -> None: ...

    with ThreadingHTTPServer(("127.0.0.1", 0), Hearing) as server:
        threading.Thread(target=server.serve_forever, daemon=True).start()
        yield Calls(f"http://127.0.0.1:{server.server_port}", requests)
        server.shutdown()


@pytest.fixture(scope="module")
def hostile(calls: Calls, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The page of a study whose every word is hostile."""
    return page_of(tmp_path_factory.mktemp("hostile"), "\n".join(payloads(calls.url)))


@pytest.fixture(scope="module")
def snapshot(tmp_path_factory: pytest.TempPathFactory) -> Snapshot:
    """A harmless study."""
    return take_snapshot(study_of(tmp_path_factory.mktemp("harmless"), "words"))


@pytest.fixture(scope="module")
def poisoned_page(snapshot: Snapshot, calls: Calls) -> tuple[str, int]:
    """A page whose figures' data are hostile, and how many they are."""
    chapters = study_chapters(snapshot, find(snapshot))
    harmful = [replace(c, figures=[poisoned(figure, calls.url) for figure in c.figures]) for c in chapters]
    sections = [render_section(chapter) for chapter in harmful]
    page = render_page("hostile", sections, data=explorer_data(snapshot))
    return page, sum(len(chapter.figures) for chapter in chapters)


Browser = Callable[[Path], tuple[str, str]]
"""Opens a page: what it has become once its scripts have run, and what the console said."""


@pytest.fixture(scope="module")
def browser(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> Browser:
    program = next(filter(None, map(shutil.which, BROWSERS)), None)
    if program is None:
        assert not request.config.getoption("--all-faults"), f"none of {', '.join(BROWSERS)} is here"
        pytest.skip("no browser here: the page is looked at by a parser alone, its policy is not tried")
    command = [program, "--headless", "--disable-gpu", "--enable-logging=stderr", "--v=0", "--dump-dom"]
    command += ["--no-sandbox"]  # containers and root have none; what is loaded is our own
    command += [f"--user-data-dir={tmp_path_factory.mktemp('profile')}", "--virtual-time-budget=8000"]

    def opened(page: Path) -> tuple[str, str]:
        done = subprocess.run([*command, page.as_uri()], capture_output=True, text=True, timeout=60, check=True)
        return done.stdout, "\n".join(line for line in done.stderr.splitlines() if "CONSOLE" in line)

    return opened


def by_hash(text: str) -> str:
    return f"'sha256-{b64encode(sha256(text.encode()).digest()).decode()}'"


def charts(dom: str) -> tuple[int, int]:
    """Figures a page has, and those of them that are drawn, at both widths."""
    drawn = re.findall(r'<div class="(?:wide|narrow)"><svg [^>]*class="marks"', dom)
    return dom.count('<figure id="figure-'), len(drawn) // 2


def test_hostile_text_makes_no_element_and_no_attribute(hostile: Path, calls: Calls, tmp_path: Path) -> None:
    text = "\n".join(payloads(calls.url))
    seen = Parsed(hostile.read_bytes().decode())
    # As many words make as many hypotheses.
    harmless = Parsed(page_of(tmp_path, "word " * (len(" ".join(text.split())) // 5)).read_text(encoding="utf-8"))
    assert seen.elements == harmless.elements
    shown = "".join(seen.words)
    assert text in shown  # the samples, to the letter
    for payload in payloads(calls.url):
        assert shown.count(payload) >= 4  # lead, method, reasons, samples


def test_figures_beside_the_page_are_drawings_and_nothing_else(hostile: Path, snapshot: Snapshot, calls: Calls) -> None:
    figures = [figure for chapter in study_chapters(snapshot, find(snapshot)) for figure in chapter.figures]
    images = [poisoned(figure, calls.url).svg(width) for figure in figures for width in (WIDE, NARROW)]
    assert any("document.title" in image for image in images)
    images += [path.read_text(encoding="utf-8") for path in hostile.parent.glob("paper/*.svg")]
    for image in images:
        for element in ET.fromstring(image).iter():
            assert element.tag.removeprefix("{http://www.w3.org/2000/svg}") in DRAWINGS
            assert not [name for name in element.attrib if name.startswith("on") or name.endswith("href")]


def test_a_browser_draws_everything_and_runs_nothing_of_a_hostile_study(
    browser: Browser, hostile: Path, calls: Calls
) -> None:
    dom, said = browser(hostile)
    assert "<title>hostile · isoloss</title>" in dom
    figures, drawn = charts(dom)
    assert figures == drawn > 3
    assert said == "" and calls.requests == []


def test_a_browser_takes_the_data_of_figures_for_data(
    browser: Browser, poisoned_page: tuple[str, int], calls: Calls, tmp_path: Path
) -> None:
    """In what is drawn and in tooltips: points at a mark of each figure, as the page's own script may."""
    hover = """
    setTimeout(() => {
      for (const mark of document.querySelectorAll(".wide [aria-label^='c']")) {
        mark.dispatchEvent(new PointerEvent("pointermove", { bubbles: true }));
        mark.dispatchEvent(new PointerEvent("pointerover", { bubbles: true }));
        mark.dispatchEvent(new MouseEvent("mouseover", { bubbles: true }));
        document.body.append(Object.assign(document.getElementById("tip").cloneNode(true), { className: "seen" }));
      }
    }, 3000);
    """
    page, figures = poisoned_page
    script = page.rpartition('<script type="module">')[2].rpartition("</script>")[0]
    page = page.replace(script, script + hover).replace(by_hash(script), by_hash(script + hover))
    write_text(tmp_path / "page.html", page)
    dom, said = browser(tmp_path / "page.html")
    assert "<title>hostile · isoloss</title>" in dom and charts(dom) == (figures, figures)
    tooltips = re.findall(r'<div id="tip"[^>]*class="seen".*?</div>', dom, re.S)
    assert len(tooltips) > 4 and all("document.title" in tooltip or "n_embd" in tooltip for tooltip in tooltips)
    assert not any(re.search(r"<(?!/?div\b)", tooltip) for tooltip in tooltips)
    assert said == "" and calls.requests == []


def test_the_policy_stops_what_came_into_the_markup_all_the_same(
    browser: Browser, hostile: Path, calls: Calls, tmp_path: Path
) -> None:
    url, page = calls.url, tmp_path / "page.html"
    start, _, end = hostile.read_text(encoding="utf-8").rpartition("</body>")
    markup = f"""<script>{RUN}</script><script src='{url}/script'></script><img src=none.png onerror="{RUN}">
      <img src='{url}/img'><iframe src='{url}/frame'></iframe><link rel=stylesheet href='{url}/css'>
      <style>body {{ background: url({url}/bg) }}</style><p style='color: red'><object data='{url}/object'></object>
      <base href='{url}/'></body>"""
    write_text(page, start + markup + end)
    dom, said = browser(page)
    assert "<title>hostile · isoloss</title>" in dom and calls.requests == []
    stopped = [line for line in said.splitlines() if "violates the following Content Security Policy" in line]
    for kind in ("inline script", "/script'", "event handler", "/img'", "Framing", "/css'", "inline style", "base URI"):
        assert any(kind in line for line in stopped), kind
    assert any("/object'" in line for line in stopped)
    without = re.sub('<meta http-equiv="Content-Security-Policy"[^>]*>', "", start, count=1)
    write_text(page, f"{without}<script>{RUN}</script></body>{end}")
    assert "<title>RAN</title>" in browser(page)[0]  # so there was something to stop
