"""What must be said about a design or a result: one type for audits, analyses, page, terminal and JSON."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Severity = Literal["blocks", "limits", "note"]
SEVERITIES: tuple[Severity, ...] = ("blocks", "limits", "note")
"""Something cannot be judged; what is concluded is limited; good to know. The gravest first."""


@dataclass(frozen=True)
class Diagnostic:
    """Something the reader of a design or result has to know.

    `code` is stable and for programs; `text` is one or more sentences, and so is `remedy`, which says what would help.
    """

    code: str
    severity: Severity
    text: str
    remedy: str | None = None
