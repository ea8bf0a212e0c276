"""What loss will this schedule reach? Laws that are fitted on finished runs, and plans made with them.

A law is a frozen dataclass with `fit(runs)`, `predict(schedule, budget)`, `predict_runs(runs)`, `rank(schedules, budget)`,
`sources` and `save(path)`; each lives in a module of its own, which is imported when the law is first used.

Example:
    >>> import thalweg as tw
    >>> budget = tw.Budget(params=4.05e9, tokens=300e9, batch_tokens=2048 * 2048)
    >>> law = tw.laws.OptLaw.published()
    >>> print(f"{law.predict(tw.schedules.linear(6e-3, budget.steps, warmup=2000), budget).loss:.4f}")
    1.9956
"""

from __future__ import annotations

import importlib
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING

from thalweg.lazy import attach
from thalweg.outcomes import bad_input

# law → the module it lives in: a new law adds its row here, and tests/laws/test_every_law.py takes it up
LAWS: Mapping[str, str] = {
    "BowlLaw": "thalweg.laws.bowl",
    "BrokenPowerLaw": "thalweg.laws.broken_power",
    "Chinchilla": "thalweg.laws.chinchilla",
    "GaussianProcessLaw": "thalweg.laws.gaussian_process",
    "Kaplan": "thalweg.laws.kaplan",
    "OptLaw": "thalweg.laws.opt_law",
    "OptLawFixedSize": "thalweg.laws.opt_law_fixed_size",
}
# laws of whole curves, fitted on `Curves`; taken up by tests/laws/test_every_curve_law.py
CURVE_LAWS: Mapping[str, str] = {
    "AnnealingLaw": "thalweg.laws.annealing",
    "MultiPowerLaw": "thalweg.laws.multi_power",
}
_OTHERS: Mapping[str, str] = {
    "Candidate": "thalweg.laws.selection",
    "Comparison": "thalweg.laws.comparisons.comparison",
    "Criterion": "thalweg.laws.divergence.criterion",
    "CurveLaw": "thalweg.laws.curve_law",
    "DivergenceCriterion": "thalweg.laws.divergence.divergence_criterion",
    "DivergenceEvidence": "thalweg.laws.divergence.criterion",
    "Evidence": "thalweg.laws.evidence",
    "Family": "thalweg.laws.plans.families",
    "FittedCurve": "thalweg.laws.curve_law",
    "Law": "thalweg.laws.law",
    "LogisticDivergence": "thalweg.laws.divergence.logistic_divergence",
    "NextRuns": "thalweg.laws.plans.designing",
    "Plan": "thalweg.laws.plans.plan_result",
    "Prediction": "thalweg.laws.law",
    "Ranking": "thalweg.laws.law",
    "Score": "thalweg.laws.comparisons.comparison",
    "Search": "thalweg.laws.plans.searching",
    "Selection": "thalweg.laws.selection",
    "Sensitivity": "thalweg.laws.plans.sensitivity",
    "compare": "thalweg.laws.comparisons.comparing",
    "default_candidates": "thalweg.laws.plans.proposing",
    "default_spaces": "thalweg.laws.plans.proposing",
    "fit_divergence": "thalweg.laws.divergence.logistic_divergence",
    "next_runs": "thalweg.laws.plans.designing",
    "optimise_schedule": "thalweg.laws.plans.free_form",
    "plan": "thalweg.laws.plans.planning",
    "select": "thalweg.laws.selection",
}

__all__ = ["CURVE_LAWS", "LAWS", "find", "load", *LAWS, *CURVE_LAWS, *_OTHERS]

if TYPE_CHECKING:
    from thalweg.laws.annealing import AnnealingLaw as AnnealingLaw
    from thalweg.laws.bowl import BowlLaw as BowlLaw
    from thalweg.laws.broken_power import BrokenPowerLaw as BrokenPowerLaw
    from thalweg.laws.chinchilla import Chinchilla as Chinchilla
    from thalweg.laws.comparisons.comparing import compare as compare
    from thalweg.laws.comparisons.comparison import Comparison as Comparison
    from thalweg.laws.comparisons.comparison import Score as Score
    from thalweg.laws.curve_law import CurveLaw as CurveLaw
    from thalweg.laws.curve_law import FittedCurve as FittedCurve
    from thalweg.laws.divergence.criterion import Criterion as Criterion
    from thalweg.laws.divergence.criterion import DivergenceEvidence as DivergenceEvidence
    from thalweg.laws.divergence.divergence_criterion import DivergenceCriterion as DivergenceCriterion
    from thalweg.laws.divergence.logistic_divergence import LogisticDivergence as LogisticDivergence
    from thalweg.laws.divergence.logistic_divergence import fit_divergence as fit_divergence
    from thalweg.laws.evidence import Evidence as Evidence
    from thalweg.laws.gaussian_process import GaussianProcessLaw as GaussianProcessLaw
    from thalweg.laws.kaplan import Kaplan as Kaplan
    from thalweg.laws.law import Law as Law
    from thalweg.laws.law import Prediction as Prediction
    from thalweg.laws.law import Ranking as Ranking
    from thalweg.laws.multi_power import MultiPowerLaw as MultiPowerLaw
    from thalweg.laws.opt_law import OptLaw as OptLaw
    from thalweg.laws.opt_law_fixed_size import OptLawFixedSize as OptLawFixedSize
    from thalweg.laws.plans.designing import NextRuns as NextRuns
    from thalweg.laws.plans.designing import next_runs as next_runs
    from thalweg.laws.plans.families import Family as Family
    from thalweg.laws.plans.free_form import optimise_schedule as optimise_schedule
    from thalweg.laws.plans.plan_result import Plan as Plan
    from thalweg.laws.plans.planning import plan as plan
    from thalweg.laws.plans.proposing import default_candidates as default_candidates
    from thalweg.laws.plans.proposing import default_spaces as default_spaces
    from thalweg.laws.plans.searching import Search as Search
    from thalweg.laws.plans.sensitivity import Sensitivity as Sensitivity
    from thalweg.laws.selection import Candidate as Candidate
    from thalweg.laws.selection import Selection as Selection
    from thalweg.laws.selection import select as select


def find(name: str) -> type[Law]:
    """The law of that name.

    Raises:
        ThalwegError: no such law; the message lists them.

    Example:
        >>> find("Chinchilla").sources
        ('chinchilla', 'besiroglu')
    """
    homes = {**LAWS, **CURVE_LAWS}
    if name not in homes:
        raise bad_input("law", name, "one of " + ", ".join(homes))
    law: type[Law] = getattr(importlib.import_module(homes[name]), name)
    return law


def load(path: str | os.PathLike[str]) -> Law:
    """Read a law that `save` wrote, whichever it is.

    Raises:
        ThalwegError: no such file, not a saved law, or a newer version.

    Example:
        >>> written = find("OptLaw").published(phases="tables").save("law.json")
        >>> load("law.json").phases
        'tables'
    """
    from thalweg.laws.law import Law

    return Law.load(path)


__getattr__, __dir__ = attach(__name__, {**LAWS, **CURVE_LAWS, **_OTHERS})
