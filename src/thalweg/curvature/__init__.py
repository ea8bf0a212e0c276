"""How far can this step go? Sharpness and stability of a training run, measured without touching it."""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalweg.lazy import attach

# public name → its file, imported when it is first used
_NAMES = {
    "MEASURES": "probes.probing",
    "Band": "finding.band",
    "Bracket": "searching.line_search",
    "Critical": "measures.critical",
    "Directional": "measures.directional",
    "Eigen": "measures.hessian",
    "History": "probes.history",
    "JsonlLog": "probes.history",
    "Probe": "probes.probing",
    "RelativeCritical": "measures.relative",
    "SearchMemory": "searching.search_memory",
    "Step": "steps.step",
    "StopTraining": "probes.actions",
    "Threshold": "measures.stability",
    "capture": "steps.step",
    "critical_sharpness": "measures.critical",
    "default_loss": "steps.replay",
    "directional_sharpness": "measures.directional",
    "edge_of_stability": "measures.stability",
    "find_lr": "finding.finding",
    "hessian_eigenvalues": "measures.hessian",
    "paper_search": "searching.line_search",
    "probe": "probes.probing",
    "relative_critical_sharpness": "measures.relative",
    "relative_measure": "measures.relative",
    "search": "searching.certified",
    "tensorboard_log": "probes.history",
}

__all__ = list(_NAMES)

if TYPE_CHECKING:
    from thalweg.curvature.finding.band import Band as Band
    from thalweg.curvature.finding.finding import find_lr as find_lr
    from thalweg.curvature.measures.critical import Critical as Critical
    from thalweg.curvature.measures.critical import critical_sharpness as critical_sharpness
    from thalweg.curvature.measures.directional import Directional as Directional
    from thalweg.curvature.measures.directional import directional_sharpness as directional_sharpness
    from thalweg.curvature.measures.hessian import Eigen as Eigen
    from thalweg.curvature.measures.hessian import hessian_eigenvalues as hessian_eigenvalues
    from thalweg.curvature.measures.relative import RelativeCritical as RelativeCritical
    from thalweg.curvature.measures.relative import relative_critical_sharpness as relative_critical_sharpness
    from thalweg.curvature.measures.relative import relative_measure as relative_measure
    from thalweg.curvature.measures.stability import Threshold as Threshold
    from thalweg.curvature.measures.stability import edge_of_stability as edge_of_stability
    from thalweg.curvature.probes.actions import StopTraining as StopTraining
    from thalweg.curvature.probes.history import History as History
    from thalweg.curvature.probes.history import JsonlLog as JsonlLog
    from thalweg.curvature.probes.history import tensorboard_log as tensorboard_log
    from thalweg.curvature.probes.probing import MEASURES as MEASURES
    from thalweg.curvature.probes.probing import Probe as Probe
    from thalweg.curvature.probes.probing import probe as probe
    from thalweg.curvature.searching.certified import search as search
    from thalweg.curvature.searching.line_search import Bracket as Bracket
    from thalweg.curvature.searching.line_search import paper_search as paper_search
    from thalweg.curvature.searching.search_memory import SearchMemory as SearchMemory
    from thalweg.curvature.steps.replay import default_loss as default_loss
    from thalweg.curvature.steps.step import Step as Step
    from thalweg.curvature.steps.step import capture as capture


__getattr__, __dir__ = attach(__name__, {name: f"thalweg.curvature.{file}" for name, file in _NAMES.items()})
