"""Which runs a law is fitted on and which it has to predict: the splits that laws are compared on.

Runs of one (params, tokens) cell share most of what makes their loss, so a split that puts some on either side asks a law to
interpolate. What users need is a cell they have not trained in, often a larger one: those are the default splits.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Literal

import numpy as np
from numpy.typing import NDArray

from thalweg.outcomes import ThalwegError, ThalwegWarning, bad_input
from thalweg.units import format_count

if TYPE_CHECKING:
    from thalweg.runs import Runs

__all__ = [
    "DEFAULT_SPLITS",
    "SPLITS",
    "Fold",
    "extrapolate",
    "few_runs",
    "fixed_batch",
    "leave_one_cell_out",
    "random_rows",
]

Rows = NDArray[np.bool_]
FEWEST_RUNS, FEWEST_CELLS = 80, 4  # of one batch size: an Opt-Law has 16 coefficients
FEWEST_LEFT = 10  # runs that are predicted from a small part


@dataclass(frozen=True, slots=True, eq=False)
class Fold:
    """One fit and what it has to predict.

    Attributes:
        name: what is predicted, in words.
        train: runs to fit on, shape (runs,).
        test: runs to predict, shape (runs,); never one of `train`.
    """

    name: str
    train: Rows
    test: Rows


def leave_one_cell_out(runs: Runs) -> tuple[Fold, ...]:
    """Each (params, tokens) cell is predicted by a fit on all others.

    Raises:
        ThalwegError: fewer than two cells.

    Example:
        >>> import pandas as pd
        >>> from thalweg.runs import Runs
        >>> table = {"params": [1e8, 1e8, 2e8], "tokens": 2e9, "batch_tokens": 1e6, "loss": [3.1, 3.2, 2.9]}
        >>> runs = Runs.from_frame(pd.DataFrame({**table, "schedule": "cosine(0.003, 2000, warmup=100)"}))
        >>> [(fold.name, fold.test.sum()) for fold in leave_one_cell_out(runs)]
        [('params 100M, tokens 2B', np.int64(2)), ('params 200M, tokens 2B', np.int64(1))]
    """
    cells = runs.cells
    found = np.unique(cells)
    if len(found) < 2:
        raise ThalwegError(
            f"runs: all {len(runs)} are of one (params, tokens) cell, so none can be left out. Add runs of another size, or "
            "compare on the split random, which only tests interpolation."
        )
    folds = []
    for cell in found:
        test = cells == cell
        budget = runs.budgets[int(np.flatnonzero(test)[0])]
        name = f"params {format_count(budget.params)}, tokens {format_count(budget.tokens)}"
        folds.append(Fold(name, ~test, test))
    return tuple(folds)


def extrapolate(
    runs: Runs, along: Literal["params", "tokens", "compute"], *, beyond: float | None = None
) -> tuple[Fold, ...]:
    """The largest runs are predicted by a fit on the smaller ones: one fold.

    Args:
        runs: the table.
        along: params, tokens, or compute = 6 · params · tokens [FLOP] (Kaplan et al. 2020).
        beyond: runs above it are predicted; None takes the upper third of the distinct values.

    Raises:
        ThalwegError: unknown quantity; nothing on one side.

    Example:
        >>> import pandas as pd
        >>> from thalweg.runs import Runs
        >>> table = {"params": [1e8, 2e8, 4e8], "tokens": 2e9, "batch_tokens": 1e6, "loss": [3.2, 3.1, 2.9]}
        >>> runs = Runs.from_frame(pd.DataFrame({**table, "schedule": "cosine(0.003, 2000, warmup=100)"}))
        >>> extrapolate(runs, "params")[0].name
        'params above 200M'
    """
    params = np.array([budget.params for budget in runs.budgets])
    tokens = np.array([budget.tokens for budget in runs.budgets])
    quantities = {"params": params, "tokens": tokens, "compute": 6 * params * tokens}
    if along not in quantities:
        raise bad_input("along", along, "one of " + ", ".join(quantities))
    values = quantities[along]
    distinct = np.unique(values)
    if beyond is None:
        beyond = float(distinct[max(0, len(distinct) - 1 - max(1, len(distinct) // 3))])
    test = values > beyond
    if not test.any() or test.all():
        raise ThalwegError(
            f"runs: {along} from {format_count(distinct[0])} to {format_count(distinct[-1])}, expected runs on both sides of "
            f"{format_count(beyond)}. Add runs of another size, or write another beyond=."
        )
    return (Fold(f"{along} above {format_count(beyond)}", ~test, test),)


def fixed_batch(runs: Runs) -> tuple[Fold, ...]:
    """Within one batch size at a time, each cell is predicted by a fit on the others: the scope of a law without batch size.

    Batch sizes with fewer than 80 runs or 4 cells are left out.

    Raises:
        ThalwegError: no batch size has that many.
    """
    batch, cells = np.array([budget.batch_tokens for budget in runs.budgets]), runs.cells
    folds = []
    for size in np.unique(batch):
        inside = batch == size
        if inside.sum() < FEWEST_RUNS or len(np.unique(cells[inside])) < FEWEST_CELLS:
            continue
        name = f"batch_tokens {format_count(size)}"
        folds += [
            Fold(f"{name}, {fold.name}", fold.train & inside, fold.test & inside)
            for fold in leave_one_cell_out(runs)
            if (fold.test & inside).any()
        ]
    if not folds:
        raise ThalwegError(
            f"runs: no batch size has {FEWEST_RUNS} runs in {FEWEST_CELLS} (params, tokens) cells, which the split fixed_batch needs. "
            "Compare on leave_one_cell_out instead."
        )
    return tuple(folds)


def few_runs(runs: Runs, *, sizes: tuple[int, ...] = (40, 60, 80), seeds: range = range(20)) -> tuple[Fold, ...]:
    """A small random part of the table predicts the rest: what a user with few runs can expect.

    Raises:
        ThalwegError: the table is not larger than the parts.
    """
    if len(runs) < max(sizes) + FEWEST_LEFT:
        raise ThalwegError(
            f"runs: got {len(runs)}, expected at least {max(sizes) + FEWEST_LEFT} for the split few_runs. Add runs, or compare on "
            "leave_one_cell_out."
        )
    folds = []
    for size in sizes:
        for seed in seeds:
            train = np.zeros(len(runs), dtype=np.bool_)
            train[np.random.default_rng((seed, size)).permutation(len(runs))[:size]] = True
            folds.append(Fold(f"{size} runs, seed {seed}", train, ~train))
    return tuple(folds)


def random_rows(runs: Runs, *, parts: int = 5, seed: int = 0) -> tuple[Fold, ...]:
    """Random rows are left out, whatever their cell: a test of interpolation alone, with a warning that says so.

    Raises:
        ThalwegError: fewer runs than parts.
    """
    if len(runs) < parts:
        raise bad_input("runs", f"{len(runs)} runs", f"at least {parts} for the split random")
    warnings.warn(
        "split random: runs of one (params, tokens) cell are on both sides, so this tests interpolation and flatters every "
        "law; leave_one_cell_out tests prediction.",
        ThalwegWarning,
        stacklevel=2,
    )
    part = np.random.default_rng(seed).permutation(len(runs)) % parts
    return tuple(Fold(f"random part {k + 1} of {parts}", part != k, part == k) for k in range(parts))


SPLITS: Mapping[str, Callable[[Runs], tuple[Fold, ...]]] = {
    "leave_one_cell_out": leave_one_cell_out,
    "extrapolate_params": lambda runs: extrapolate(runs, "params"),
    "extrapolate_tokens": lambda runs: extrapolate(runs, "tokens"),
    "extrapolate_compute": lambda runs: extrapolate(runs, "compute"),
    "fixed_batch": fixed_batch,
    "few_runs": few_runs,
    "random": random_rows,
}
DEFAULT_SPLITS = ("leave_one_cell_out", "extrapolate_params", "extrapolate_tokens", "extrapolate_compute")
