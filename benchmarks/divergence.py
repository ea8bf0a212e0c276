"""Which criterion tells runs that diverge from those that do not? python benchmarks/divergence.py

On ../shared/data/warmup_runs_marin.csv (or THALWEG_DATA): the 56 real runs of weight decay .1, of which 14 diverged, in 9
(params, tokens) cells. Each cell is told apart by a fit on the other cells; the penalty (and c3 of Eq. 4) is chosen inside
these, by the log loss of their own left-out cells, never by what is reported here. Pooled over cells: precision, recall, F1
with a 90 % bootstrap interval over cells, and the runs told wrong. Beside the two fitted criteria stand the published
constants of Eq. 4, which have not seen any of these runs, and a logistic regression on the learning rate alone. Two other
selections of the 80 runs show how far the result hangs on the selection. No random part but the bootstrap (seed 0).
"""

from __future__ import annotations

import os
import time
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import write
from numpy.typing import NDArray

from thalweg.laws import DivergenceCriterion, DivergenceEvidence, LogisticDivergence
from thalweg.laws.divergence.criterion import bootstrap_f1, evidence_of_divergence, f1
from thalweg.runs import Runs

DATA = Path(os.environ.get("THALWEG_DATA", Path(__file__).parents[2] / "shared" / "data"))


def selections() -> dict[str, Runs]:
    """The runs of one weight decay, of each cell's most common one, and all. The schedules' shape, which no criterion sees,
    is not in the table."""
    frame = pd.read_csv(DATA / "warmup_runs_marin.csv").rename(columns={"warmup_steps": "warmup"})
    frame = frame.assign(batch_tokens=frame.batch_sequences * frame.sequence_length)
    usual = frame.groupby(["params", "tokens"]).weight_decay.transform(lambda decays: decays.mode()[0])
    chosen = {
        "weight_decay_0.1": frame[frame.weight_decay == 0.1],
        "usual_weight_decay_of_the_cell": frame[frame.weight_decay == usual],
        "all_weight_decays": frame,
    }
    return {name: Runs.from_frame(rows, assume={"shape": "cosine", "final_lr": 0.0}) for name, rows in chosen.items()}


def row(evidence: DivergenceEvidence) -> dict[str, Any]:
    """What is reported of a criterion."""
    low, high = evidence.f1_interval or (0.0, 0.0)
    return {
        "precision": evidence.precision,
        "recall": evidence.recall,
        "f1": evidence.f1,
        "f1_90_%": [low, high],
        "missed": evidence.missed,
        "false_alarms": evidence.false_alarms,
    }


def of_published(runs: Runs) -> dict[str, Any]:
    """The published constants, on runs that none of their authors have seen."""
    criterion = DivergenceCriterion.published()
    told = np.array([criterion.diverges(s, b) for s, b in zip(runs.schedules, runs.budgets, strict=True)])
    parts = runs.diverged & told, ~runs.diverged & told, runs.diverged & ~told
    hits, alarms, missed = (int(part.sum()) for part in parts)
    return {
        "precision": hits / (hits + alarms),
        "recall": hits / (hits + missed),
        "f1": f1(hits, alarms, missed),
        "f1_90_%": bootstrap_f1(*parts, runs.cells),
    }


def of_peak_alone(runs: Runs) -> dict[str, Any]:
    """Logistic regression on log(peak_lr)."""
    peak: NDArray[np.float64] = np.log([schedule.peak_lr for schedule in runs.schedules])
    return row(evidence_of_divergence(runs, peak[None, :, None]))


def main() -> None:
    """Fit on every selection and write results/divergence.json."""
    results: dict[str, Any] = {}
    for name, runs in selections().items():
        began = time.perf_counter()
        equation = DivergenceCriterion.fit(runs)
        between = time.perf_counter()
        logistic = LogisticDivergence.fit(runs)
        ended = time.perf_counter()
        constants = {key: getattr(equation, key) for key in ("K", "c3", "alpha1", "alpha2")}
        frame = logistic.to_frame()
        results[name] = {
            "runs": len(runs),
            "diverged": int(runs.diverged.sum()),
            "cells": len(np.unique(runs.cells)),
            "LogisticDivergence": row(logistic.evidence)
            | {"coefficients": dict(zip(frame.input, frame.coefficient, strict=True)), "strength": logistic.strength}
            | {"fit_seconds": round(ended - between, 2)},
            "DivergenceCriterion.fit": row(equation.evidence) | constants | {"fit_seconds": round(between - began, 2)},
            "DivergenceCriterion.published": of_published(runs),
            "peak_lr alone": of_peak_alone(runs),
        }
    print(write("divergence", "python benchmarks/divergence.py", {"bootstrap_seed": 0, "results": results}))


if __name__ == "__main__":
    main()
