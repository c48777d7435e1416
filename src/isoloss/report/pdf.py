"""The page on paper: a browser that is already there prints it."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tempfile
from pathlib import Path

from isoloss.errors import StoreError
from isoloss.files import read_bytes, write_bytes

BROWSERS = (
    "chromium",
    "chromium-browser",
    "google-chrome",
    "google-chrome-stable",
    "chrome",
    "/Applications/Chromium.app/Contents/MacOS/Chromium",
    "/Applications/Google Chrome.app/Contents/MacOS/Google Chrome",
    r"C:\Program Files\Google\Chrome\Application\chrome.exe",
)
"""Chromium by the names and at the places it is installed under."""
TIMEOUT_S = 120.0
MAX_PDF_BYTES = 1 << 28
_DATE = re.compile(rb"(?<=Date \()D:\d{14}(?=[^)]*\))")


def print_page(page: Path) -> Path:
    """Print a page to a PDF beside it, and return its path. The same page gives the same bytes.

    Raises StoreError when no Chromium is installed, or when it does not print.
    """
    browser = next(filter(None, map(shutil.which, BROWSERS)), None)
    if browser is None:
        raise StoreError(
            f"cannot print {page}: no Chromium or Chrome is installed; open the page and print it yourself"
        )
    with tempfile.TemporaryDirectory(prefix="isoloss-") as folder:
        printed = Path(folder) / "page.pdf"
        command = [
            browser,
            "--headless",
            "--disable-gpu",
            "--no-first-run",
            "--no-pdf-header-footer",
            f"--user-data-dir={folder}",
            f"--print-to-pdf={printed}",
            *(["--no-sandbox"] if hasattr(os, "getuid") and os.getuid() == 0 else []),  # which refuses to serve root
            page.resolve().as_uri(),
        ]
        try:
            done = subprocess.run(command, capture_output=True, timeout=TIMEOUT_S, check=False)
        except subprocess.TimeoutExpired as error:
            raise StoreError(f"cannot print {page}: {browser} took more than {TIMEOUT_S:.0f} s") from error
        if not printed.is_file():
            said = done.stderr.decode(errors="replace").strip().splitlines()
            raise StoreError(f"cannot print {page}: {browser} wrote no PDF ({said[-1] if said else done.returncode})")
        content = read_bytes(printed, MAX_PDF_BYTES)
    pdf = page.with_name("report.pdf")
    write_bytes(pdf, _DATE.sub(b"D:19700101000000", content))
    return pdf
