"""How far can this step go? Sharpness and stability of a training run, measured without touching it."""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name → its file, imported when it is first used
_NAMES = {
    "MEASURES": "probing",
    "Bracket": "line_search",
    "Critical": "critical",
    "Eigen": "hessian",
    "History": "history",
    "JsonlLog": "history",
    "Probe": "probing",
    "Step": "step",
    "Threshold": "stability",
    "capture": "step",
    "critical_sharpness": "critical",
    "default_loss": "replay",
    "edge_of_stability": "stability",
    "hessian_eigenvalues": "hessian",
    "paper_search": "line_search",
    "probe": "probing",
    "tensorboard_log": "history",
}

__all__ = list(_NAMES)

if TYPE_CHECKING:
    from thalweg.curvature.critical import Critical, critical_sharpness
    from thalweg.curvature.hessian import Eigen, hessian_eigenvalues
    from thalweg.curvature.history import History, JsonlLog, tensorboard_log
    from thalweg.curvature.line_search import Bracket, paper_search
    from thalweg.curvature.probing import MEASURES, Probe, probe
    from thalweg.curvature.replay import default_loss
    from thalweg.curvature.stability import Threshold, edge_of_stability
    from thalweg.curvature.step import Step, capture


def __getattr__(name: str) -> Any:
    if name not in _NAMES:
        raise AttributeError(f"module 'thalweg.curvature' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"thalweg.curvature.{_NAMES[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
