"""isoloss: controlled scaling and convergence studies of small GPTs.

Public names load what they need on first use, so that importing isoloss costs nothing.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from isoloss.analysis.convergence import analyse_convergence
    from isoloss.analysis.effects import analyse_effects
    from isoloss.analysis.scaling import fit_law
    from isoloss.design.audit import audit
    from isoloss.execution.study import RunOptions, run_study
    from isoloss.store.tables import StudyResults, load_study
    from isoloss.study.config import RunConfig
    from isoloss.study.parts import Mlp, Norm, Optimizer, Position
    from isoloss.study.plugins import use_plugin
    from isoloss.study.study import Study
    from isoloss.study.studyfile import find_study

__version__ = "0.1.0"

__all__ = [
    "Mlp",
    "Norm",
    "Optimizer",
    "Position",
    "RunConfig",
    "RunOptions",
    "Study",
    "StudyResults",
    "__version__",
    "analyse_convergence",
    "analyse_effects",
    "audit",
    "find_study",
    "fit_law",
    "load_study",
    "run_study",
    "use_plugin",
]

_HOMES = {
    "Mlp": "isoloss.study.parts",
    "Norm": "isoloss.study.parts",
    "Optimizer": "isoloss.study.parts",
    "Position": "isoloss.study.parts",
    "RunConfig": "isoloss.study.config",
    "RunOptions": "isoloss.execution.study",
    "Study": "isoloss.study.study",
    "StudyResults": "isoloss.store.tables",
    "analyse_convergence": "isoloss.analysis.convergence",
    "analyse_effects": "isoloss.analysis.effects",
    "audit": "isoloss.design.audit",
    "find_study": "isoloss.study.studyfile",
    "fit_law": "isoloss.analysis.scaling",
    "load_study": "isoloss.store.tables",
    "run_study": "isoloss.execution.study",
    "use_plugin": "isoloss.study.plugins",
}


def __getattr__(name: str) -> Any:
    if name not in _HOMES:
        raise AttributeError(f"module 'isoloss' has no attribute '{name}'")
    return getattr(importlib.import_module(_HOMES[name]), name)
