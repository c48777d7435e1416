"""A study's whole page in Chromium: on a phone, in the dark, on paper, without scripts, and while the study trains."""

from __future__ import annotations

import re
import shutil
import subprocess
import sys
from base64 import b64decode
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from isoloss.report.study_report import write_report
from isoloss.store.tables import StudyResults
from isoloss.study.config import RunConfig
from isoloss.study.identity import run_id
from isoloss.study.study import Study
from tests.fake_studies import fake_study, write_rows

STUDY = Study(
    "course",
    "a text",
    description="Does width or dropout matter more?",
    base={"max_iters": 60, "eval_interval": 5, "warmup_iters": 10},
    factors={"n_embd": (32, 64, 128), "dropout": (0.0, 0.2)},
    seeds=(1, 2, 3),
)
PAPER = {"A4": (8.27, 11.69), "Letter": (8.5, 11.0)}
TOO_WIDE = """
  const seen = [...document.querySelectorAll("body *")].filter((element) => {
    const box = element.getBoundingClientRect();
    const beyond = box.width && box.right > document.documentElement.clientWidth + 1;
    return beyond && !element.closest(".table, pre");
  });
  return seen.map((element) => element.tagName + "." + element.className).slice(0, 5);
"""


def curve(config: RunConfig, number: int, step: int) -> float:
    return 3.0 - config.n_embd / 100 + config.dropout + (number * number % 7) / 1000 + 1.5 / (1 + step)


@pytest.fixture(scope="module")
def results(tmp_path_factory: pytest.TempPathFactory) -> StudyResults:
    results = fake_study(tmp_path_factory.mktemp("browser") / "course", STUDY, {4: ("failed", "out of memory")}, curve)
    write_report(results)
    return results


@pytest.fixture
def page(browser: Any, results: StudyResults) -> Iterator[Any]:
    """The page, freshly opened; in the end nothing may have been refused or failed."""
    browser.get_log("browser")
    resize(browser, 1280)
    browser.get(results.paths.report.as_uri())
    wait(browser, "document.documentElement.dataset.drawn")
    yield browser
    assert [line["message"] for line in browser.get_log("browser") if "favicon" not in line["message"]] == []


def resize(browser: Any, width: int) -> None:
    metrics = {"width": width, "height": 1000, "deviceScaleFactor": 1, "mobile": False}
    browser.execute_cdp_cmd("Emulation.setDeviceMetricsOverride", metrics)


def wait(browser: Any, condition: str, seconds: float = 30) -> None:
    from selenium.webdriver.support.ui import WebDriverWait

    WebDriverWait(browser, seconds).until(lambda driver: driver.execute_script(f"return {condition}"))


@pytest.mark.parametrize("width", [390, 1280])
def test_nothing_is_wider_than_the_window(page: Any, width: int) -> None:
    resize(page, width)
    page.execute_script("window.dispatchEvent(new Event('resize'))")
    assert page.execute_script("return document.documentElement.scrollWidth") <= width
    assert page.execute_script(TOO_WIDE) == []
    shown = page.execute_script("return [...document.querySelectorAll('figure .chart svg')].filter(s => s.clientWidth)")
    assert len(shown) == page.execute_script("return document.querySelectorAll('figure .chart').length") > 3


def test_dark_is_dark_and_its_figures_are_legible(page: Any) -> None:
    scheme = {"features": [{"name": "prefers-color-scheme", "value": "dark"}]}
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", scheme)
    colours = page.execute_script("""
      const onThePage = '.chart .wide svg text:not([fill="white"], [fill="black"])';  // those stand on coloured cells
      const text = [...document.querySelectorAll(onThePage)].map((t) => getComputedStyle(t).fill);
      return [getComputedStyle(document.body).backgroundColor, ...new Set(text)];
    """)
    page.execute_cdp_cmd("Emulation.setEmulatedMedia", {"features": []})
    background, *text = (sum(map(int, re.findall(r"\d+", colour)[:3])) / 3 for colour in colours)
    assert background < 60
    assert text and min(text) > 90


@pytest.mark.parametrize("paper", PAPER)
def test_on_paper_every_column_of_every_table_is_there(page: Any, paper: str, tmp_path: Path) -> None:
    pdftotext = shutil.which("pdftotext")
    if pdftotext is None:
        pytest.skip("pdftotext is not installed")
    width, height = PAPER[paper]
    size = {"paperWidth": width, "paperHeight": height, "preferCSSPageSize": False, "printBackground": True}
    (tmp_path / "page.pdf").write_bytes(b64decode(page.execute_cdp_cmd("Page.printToPDF", size)["data"]))
    subprocess.run([pdftotext, "-layout", "page.pdf", "page.txt"], cwd=tmp_path, check=True)
    text = re.sub(r"\s+", "", (tmp_path / "page.txt").read_text(encoding="utf-8"))
    heads = page.execute_script("""
      return [...document.querySelectorAll("table")].filter((table) => table.offsetWidth)
        .flatMap((table) => [...table.querySelectorAll("thead th")])
        .map((th) => (th.querySelector(".dt-column-title") ?? th).textContent.trim())
    """)
    assert len(heads) > 20
    missing = [head for head in heads if any(word not in text for word in head.split())]
    assert missing == []


def test_without_scripts_the_answer_the_figures_and_the_tables_stand_there(browser: Any, results: StudyResults) -> None:
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": True})
    resize(browser, 1280)
    browser.get(results.paths.report.as_uri())
    browser.execute_cdp_cmd("Emulation.setScriptExecutionDisabled", {"value": False})
    assert "n_embd matters most" in browser.execute_script("return document.getElementById('answer').textContent")
    rows = browser.execute_script("return document.querySelectorAll('#runs tbody tr').length")
    assert rows == 18
    assert browser.execute_script("return [...document.querySelectorAll('.wide svg')].every(s => s.clientHeight > 50)")


def test_a_live_study_is_seen_to_grow(browser: Any, tmp_path: Path) -> None:
    results = fake_study(tmp_path / "live", STUDY, dict.fromkeys(range(17), ("running", "")), curve)
    command = [sys.executable, "-m", "isoloss", "watch", str(results.paths.folder), "--port", "0"]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as server:
        try:
            assert server.stderr
            address = re.search(r"http://\S+", server.stderr.readline())
            assert address
            browser.get_log("browser")
            browser.get(address[0])
            wait(browser, "document.documentElement.dataset.drawn", 60)
            wait(browser, "document.getElementById('connection').textContent.includes('of 18 runs done')")
            before = browser.execute_script("return document.querySelector('#runs tbody').textContent")
            run = results.paths.run(run_id(results.configs[0]))
            write_rows(run.evals, [{"step": 10, "train_loss": 0.5, "val_loss": 0.4321, "eval_time_s": 1.0}])
            wait(browser, "document.querySelector('#runs tbody').textContent.includes('0.4321')", 60)
            assert "0.4321" not in before
            assert [line["message"] for line in browser.get_log("browser") if "favicon" not in line["message"]] == []
        finally:
            server.terminate()
