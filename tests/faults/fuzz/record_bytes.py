"""Files as the fuzz targets write them: quickly, and records with valid digests, which reveal damage, not malice."""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from isoloss.files import DIGEST, sha256_bytes


def record_bytes(value: Mapping[str, Any], *, broken: bool = False) -> bytes:
    """The bytes of a record as write_record writes it, but of any value; with a wrong digest when `broken`."""
    zeros = "0" * 64
    text = json.dumps({**value, DIGEST: zeros})
    return text.encode() if broken else text.replace(zeros, sha256_bytes(text.encode())).encode()


class Slot:
    """A file whose content is replaced a few thousand times a second."""

    def __init__(self, path: Path) -> None:
        self._file = os.open(path, os.O_RDWR | os.O_CREAT)
        self._content: bytes | None = None

    def put(self, content: bytes) -> None:
        if content != self._content:
            os.pwrite(self._file, content, 0)
            os.ftruncate(self._file, len(content))
            self._content = content
