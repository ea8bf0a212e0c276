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
    "Chinchilla": "thalweg.laws.chinchilla",
    "OptLaw": "thalweg.laws.opt_law",
}
_OTHERS: Mapping[str, str] = {
    "DivergenceCriterion": "thalweg.laws.divergence",
    "Evidence": "thalweg.laws.evidence",
    "Law": "thalweg.laws.law",
    "Plan": "thalweg.laws.planning",
    "Prediction": "thalweg.laws.law",
    "Ranking": "thalweg.laws.law",
    "default_candidates": "thalweg.laws.planning",
    "plan": "thalweg.laws.planning",
}

__all__ = ["LAWS", "find", "load", *LAWS, *_OTHERS]

if TYPE_CHECKING:
    from thalweg.laws.chinchilla import Chinchilla as Chinchilla
    from thalweg.laws.divergence import DivergenceCriterion as DivergenceCriterion
    from thalweg.laws.evidence import Evidence as Evidence
    from thalweg.laws.law import Law as Law
    from thalweg.laws.law import Prediction as Prediction
    from thalweg.laws.law import Ranking as Ranking
    from thalweg.laws.opt_law import OptLaw as OptLaw
    from thalweg.laws.planning import Plan as Plan
    from thalweg.laws.planning import default_candidates as default_candidates
    from thalweg.laws.planning import plan as plan


def find(name: str) -> type[Law]:
    """The law of that name.

    Raises:
        ThalwegError: no such law; the message lists them.

    Example:
        >>> find("Chinchilla").sources
        ('chinchilla', 'besiroglu')
    """
    if name not in LAWS:
        raise bad_input("law", name, "one of " + ", ".join(LAWS))
    law: type[Law] = getattr(importlib.import_module(LAWS[name]), name)
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


__getattr__, __dir__ = attach(__name__, {**LAWS, **_OTHERS})
