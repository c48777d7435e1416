"""Headless Chromium, where Debian's is installed: for tests of the page and the benchmark of it."""

from __future__ import annotations

from pathlib import Path
from typing import Any

BINARY, DRIVER = Path("/usr/bin/chromium"), Path("/usr/bin/chromedriver")


def start_chromium() -> Any:
    """A selenium driver of it; None where it, its driver or selenium is not installed. To be ended by `quit`."""
    try:
        from selenium import webdriver
    except ImportError:
        return None
    if not (BINARY.exists() and DRIVER.exists()):
        return None
    options = webdriver.ChromeOptions()
    options.binary_location = str(BINARY)
    for argument in ("--headless=new", "--no-sandbox", "--disable-gpu", "--hide-scrollbars"):
        options.add_argument(argument)
    options.set_capability("goog:loggingPrefs", {"browser": "ALL"})
    return webdriver.Chrome(options=options, service=webdriver.ChromeService(str(DRIVER)))
