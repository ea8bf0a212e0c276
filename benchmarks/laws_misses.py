"""Why the extrapolations of benchmarks/laws.py miss: python benchmarks/laws_misses.py

Made after the test splits had been opened, and nothing was changed by it. `BowlLaw` fitted as in the two extrapolations, its
signed relative error in each cell that it had not seen: the mean over the cell, and over its ten best runs. Deterministic.
"""

from __future__ import annotations

import numpy as np
from common import write

import thalweg as tw
from laws import folds, table
from thalweg.units import format_count


def main() -> None:
    """Measure both extrapolations and write results/laws_misses.json."""
    runs = table("test")
    rows = []
    for name in ("extrapolate_params", "extrapolate_tokens"):
        (fold,) = folds(name, "test", runs)
        law, new = tw.laws.BowlLaw.fit(runs.subset(fold.train)), runs.subset(fold.test)
        error = law.predict_runs(new) / new.loss - 1
        for cell in np.unique(new.cells):
            inside = np.flatnonzero(new.cells == cell)
            best = inside[np.argsort(new.loss[inside])[:10]]
            budget = new.budgets[inside[0]]
            row = {"split": name, "params": budget.params, "tokens": budget.tokens, "runs": len(inside)}
            row |= {"error": float(error[inside].mean()), "error_of_the_ten_best": float(error[best].mean())}
            rows.append(row)
            cell_name = f"{format_count(budget.params)} params, {format_count(budget.tokens)} tokens"
            print(f"{name:20} {cell_name:28} {error[inside].mean():+.2%}, ten best {error[best].mean():+.2%}")
    print(write("laws_misses", "python benchmarks/laws_misses.py", {"cells": rows}))


if __name__ == "__main__":
    main()
