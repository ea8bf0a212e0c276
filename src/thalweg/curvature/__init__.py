"""How far can this step go? Sharpness and stability of a training run, measured without touching it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalweg.lazy import attach

# public name → its file, imported when it is first used
_NAMES = {
    "MEASURES": "probing",
    "Band": "band",
    "Bracket": "line_search",
    "Critical": "critical",
    "Directional": "directional",
    "Eigen": "hessian",
    "History": "history",
    "JsonlLog": "history",
    "Probe": "probing",
    "RelativeCritical": "relative",
    "SearchMemory": "search_memory",
    "Step": "step",
    "StopTraining": "actions",
    "Threshold": "stability",
    "capture": "step",
    "critical_sharpness": "critical",
    "default_loss": "replay",
    "directional_sharpness": "directional",
    "edge_of_stability": "stability",
    "find_lr": "finding",
    "hessian_eigenvalues": "hessian",
    "paper_search": "line_search",
    "probe": "probing",
    "relative_critical_sharpness": "relative",
    "relative_measure": "relative",
    "search": "certified",
    "tensorboard_log": "history",
}

__all__ = list(_NAMES)

if TYPE_CHECKING:
    from thalweg.curvature.actions import StopTraining as StopTraining
    from thalweg.curvature.band import Band as Band
    from thalweg.curvature.certified import search as search
    from thalweg.curvature.critical import Critical as Critical
    from thalweg.curvature.critical import critical_sharpness as critical_sharpness
    from thalweg.curvature.directional import Directional as Directional
    from thalweg.curvature.directional import directional_sharpness as directional_sharpness
    from thalweg.curvature.finding import find_lr as find_lr
    from thalweg.curvature.hessian import Eigen as Eigen
    from thalweg.curvature.hessian import hessian_eigenvalues as hessian_eigenvalues
    from thalweg.curvature.history import History as History
    from thalweg.curvature.history import JsonlLog as JsonlLog
    from thalweg.curvature.history import tensorboard_log as tensorboard_log
    from thalweg.curvature.line_search import Bracket as Bracket
    from thalweg.curvature.line_search import paper_search as paper_search
    from thalweg.curvature.probing import MEASURES as MEASURES
    from thalweg.curvature.probing import Probe as Probe
    from thalweg.curvature.probing import probe as probe
    from thalweg.curvature.relative import RelativeCritical as RelativeCritical
    from thalweg.curvature.relative import relative_critical_sharpness as relative_critical_sharpness
    from thalweg.curvature.relative import relative_measure as relative_measure
    from thalweg.curvature.replay import default_loss as default_loss
    from thalweg.curvature.search_memory import SearchMemory as SearchMemory
    from thalweg.curvature.stability import Threshold as Threshold
    from thalweg.curvature.stability import edge_of_stability as edge_of_stability
    from thalweg.curvature.step import Step as Step
    from thalweg.curvature.step import capture as capture


__getattr__, __dir__ = attach(__name__, {name: f"thalweg.curvature.{file}" for name, file in _NAMES.items()})
