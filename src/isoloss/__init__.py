"""isoloss: controlled scaling and convergence studies of small GPTs.

Public names load what they need on first use, so that importing isoloss costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoloss.execution.study import RunOptions, run_study
    from isoloss.spec.config import RunConfig
    from isoloss.spec.study import Study
    from isoloss.spec.studyfile import find_study
    from isoloss.store.tables import StudyResults, load_study

__version__ = "0.1.0"

__all__ = ["RunConfig", "RunOptions", "Study", "StudyResults", "__version__", "find_study", "load_study", "run_study"]

_HOMES = {
    "RunConfig": "isoloss.spec.config",
    "RunOptions": "isoloss.execution.study",
    "Study": "isoloss.spec.study",
    "StudyResults": "isoloss.store.tables",
    "find_study": "isoloss.spec.studyfile",
    "load_study": "isoloss.store.tables",
    "run_study": "isoloss.execution.study",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'isoloss' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
