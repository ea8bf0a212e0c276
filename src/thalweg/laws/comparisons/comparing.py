"""Laws side by side: each is fitted on one part of a table, and predicts runs that it has not seen."""

from __future__ import annotations

import time
import warnings
from collections.abc import Callable, Iterable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor
from dataclasses import dataclass
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.comparisons.comparison import Comparison, Score
from thalweg.laws.comparisons.fitter import fitter
from thalweg.laws.comparisons.splits import DEFAULT_SPLITS, SPLITS, Fold
from thalweg.laws.fitting import finished
from thalweg.outcomes import ThalwegError, bad_input

if TYPE_CHECKING:
    from thalweg.laws.law import Law
    from thalweg.runs import Runs

__all__ = ["compare", "score"]

Floats = NDArray[np.float64]
Fit = Callable[["Runs"], "Law"]
RESAMPLES = 2000  # of the cells


def compare(
    laws: Sequence[str] | Mapping[str, Fit],
    runs: Runs,
    *,
    splits: Sequence[str] | Mapping[str, Sequence[Fold]] = DEFAULT_SPLITS,
    workers: int = 1,
    progress: bool = False,
) -> Comparison:
    """Fit every law on every split and judge its predictions; diverged runs are left out.

    Args:
        laws: names, with options of the fit in parentheses (`OptLaw(batch_terms=True)`), or name → a function that fits.
        runs: the table.
        splits: names out of `thalweg.laws.comparisons.splits.SPLITS`, or name → folds of the runs that did not diverge.
        workers: processes at once; with more than one, functions must be importable.
        progress: show a bar on stderr.

    Raises:
        ThalwegError: no laws, an unknown law, option or split, a table that no split can divide; one that cannot is listed with
            its reason.

    Example:
        >>> from thalweg.experiments.small_runs import TABLE
        >>> from thalweg.runs import read
        >>> found = compare(["Chinchilla"], read(TABLE), splits=["leave_one_cell_out"])
        >>> found.scores[0].law, found.scores[0].rank_correlation  # it does not see the schedule
        ('Chinchilla', None)
    """
    fits = laws if isinstance(laws, Mapping) else {text: fitter(text) for text in laws}
    if not fits:
        raise bad_input("laws", laws, "at least one law")
    kept = finished(runs)
    folds, impossible = _divided(splits, kept)
    jobs = [(law, split, row) for split in folds for law in fits for row in range(len(folds[split]))]
    parts: dict[tuple[str, str], list[Part]] = {}
    found = _run(jobs, (fits, folds, kept), workers)
    if progress:
        from tqdm import tqdm

        found = tqdm(found, total=len(jobs), unit="fit")
    for (law, split, _), part in zip(jobs, found, strict=True):
        parts.setdefault((law, split), []).append(part)
    scores = tuple(
        Score(law, split, problem=impossible[split])
        if split in impossible
        else score(law, split, parts[law, split], kept)
        for split in splits
        for law in fits
    )
    return Comparison(scores, runs=len(kept), cells=len(np.unique(kept.cells)))


class Part(NamedTuple):
    """What one fit predicted: the rows, the losses and the ends of their intervals [nats], or why there is no fit."""

    rows: NDArray[np.intp]
    predicted: Floats
    lower: Floats
    upper: Floats
    seconds: float
    warnings: tuple[str, ...] = ()
    problem: str = ""


def score(law: str, split: str, parts: Sequence[Part], runs: Runs) -> Score:
    """Judge what a law predicted over the folds of a split; 90 % intervals by resampling cells.

    A law that could not be fitted on every fold gets no numbers, and the reason.
    """
    problem = next((part.problem for part in parts if part.problem), "")
    told = tuple(dict.fromkeys(text for part in parts for text in part.warnings))
    seconds = float(np.mean([part.seconds for part in parts]))
    if problem:
        failed = sum(bool(part.problem) for part in parts)
        return Score(
            law, split, seconds=seconds, warnings=told, problem=f"{failed} of {len(parts)} fits failed: {problem}"
        )
    rows = np.concatenate([part.rows for part in parts])
    predicted, lower, upper = (
        np.concatenate([getattr(p, name) for p in parts]) for name in ("predicted", "lower", "upper")
    )
    measured, cells = runs.loss[rows], runs.cells[rows]
    fold = np.repeat(np.arange(len(parts)), [len(part.rows) for part in parts])
    error = np.abs(predicted / measured - 1)
    groups = _within(fold, cells, measured, predicted)
    known = bool(np.isfinite(lower).all())
    return Score(
        law,
        split,
        runs=len(rows),
        error=float(error.mean()),
        error_interval=_resampled(error, cells),
        largest=float(error.max()),
        rank_correlation=_mean([group.correlation for group in groups]),
        regret=_mean([group.regret for group in groups]),
        regret_interval=_resampled(
            np.array([group.regret for group in groups]), np.array([group.cell for group in groups])
        ),
        coverage=float(np.mean((lower <= measured) & (measured <= upper))) if known else None,
        width=float(np.mean((upper - lower) / measured)) if known else None,
        seconds=seconds,
        warnings=told,
    )


@dataclass(frozen=True, slots=True)
class _Group:
    """The runs of one cell that one fit predicted."""

    cell: int
    regret: float
    correlation: float


def _within(fold: NDArray[np.intp], cells: NDArray[np.intp], measured: Floats, predicted: Floats) -> list[_Group]:
    """Ranking within each cell of each fold: what the choice of a schedule for one budget rests on.

    Regret = loss of the run ranked first / best measured loss − 1; where several are ranked first, their mean.
    """
    from scipy.stats import spearmanr

    groups = []
    for number in np.unique(np.stack([fold, cells]), axis=1).T:
        inside = (fold == number[0]) & (cells == number[1])
        if inside.sum() < 3:
            continue
        there, told = measured[inside], predicted[inside]
        first = np.isclose(told, told.min(), rtol=1e-12, atol=0)
        ranks = not np.isclose(told, told[0], rtol=1e-12, atol=0).all() and np.ptp(there) > 0
        correlation = float(spearmanr(there, told).statistic) if ranks else np.nan
        groups.append(_Group(int(number[1]), float(there[first].mean() / there.min() - 1), correlation))
    return groups


def _mean(values: Sequence[float]) -> float | None:
    """The mean of what is defined; None where nothing is."""
    finite = [value for value in values if np.isfinite(value)]
    return float(np.mean(finite)) if finite else None


def _resampled(values: Floats, cells: NDArray[np.intp]) -> tuple[float, float] | None:
    """Central 90 % interval of the mean when whole cells are drawn again with replacement; None below 3 cells."""
    _, group = np.unique(cells, return_inverse=True)
    count = np.bincount(group)
    if len(count) < 3:
        return None
    total = np.bincount(group, values)
    drawn = np.random.default_rng(0).integers(len(count), size=(RESAMPLES, len(count)))
    low, high = np.quantile(total[drawn].sum(axis=1) / count[drawn].sum(axis=1), (0.05, 0.95))
    return float(low), float(high)


def _divided(
    splits: Sequence[str] | Mapping[str, Sequence[Fold]], runs: Runs
) -> tuple[dict[str, tuple[Fold, ...]], dict[str, str]]:
    """The folds of each split that can divide the table, and why the others cannot.

    Raises:
        ThalwegError: an unknown split, or none that can.
    """
    if isinstance(splits, Mapping):
        return {name: tuple(folds) for name, folds in splits.items()}, {}
    folds, impossible = {}, {}
    for name in splits:
        if name not in SPLITS:
            raise bad_input("split", name, "one of " + ", ".join(SPLITS))
        try:
            folds[name] = SPLITS[name](runs)
        except ThalwegError as error:
            impossible[name] = str(error)
    if not folds:
        raise ThalwegError(next(iter(impossible.values()), "splits: got none, expected at least one."))
    return folds, impossible


Shared = tuple[Mapping[str, Fit], Mapping[str, tuple[Fold, ...]], "Runs"]
_shared: Shared | None = None  # of a worker process: sent once, not with every job


def _start(shared: Shared) -> None:
    global _shared
    _shared = shared


def _run(jobs: Sequence[tuple[str, str, int]], shared: Shared, workers: int) -> Iterable[Part]:
    if workers == 1:
        return (_fit(job, shared) for job in jobs)
    return _in_processes(jobs, shared, workers)


def _in_processes(jobs: Sequence[tuple[str, str, int]], shared: Shared, workers: int) -> Iterable[Part]:
    with ProcessPoolExecutor(workers, initializer=_start, initargs=(shared,)) as pool:
        yield from pool.map(_job, jobs)


def _job(job: tuple[str, str, int]) -> Part:
    assert _shared is not None
    return _fit(job, _shared)


def _fit(job: tuple[str, str, int], shared: Shared) -> Part:
    """Fit one law on one fold and predict its test runs."""
    fits, folds, runs = shared
    law, split, row = job
    fold = folds[split][row]
    rows = np.flatnonzero(fold.test)
    nothing = np.full(len(rows), np.nan)
    began = time.process_time()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        try:
            fitted = fits[law](runs.subset(fold.train))
            seconds = time.process_time() - began
            new = runs.subset(fold.test)
            log_losses = fitted.log_losses(new.schedules, new.budgets)
            lower, upper = fitted.intervals(new.schedules, new.budgets, log_losses) or (nothing, nothing)
            predicted = np.exp(log_losses)
            problem = "" if np.isfinite(predicted).all() else "a predicted loss is not finite"
        except ThalwegError as error:
            predicted, lower, upper, problem = nothing, nothing, nothing, f"{fold.name}: {error}"
            seconds = time.process_time() - began
    told = tuple(str(warning.message) for warning in caught if issubclass(warning.category, UserWarning))
    return Part(rows, predicted, lower, upper, seconds, told, problem)
