"""What every divergence criterion offers: a ratio above 1 where a run is likely to diverge, and how often it was right."""

from __future__ import annotations

import warnings
from abc import ABC, abstractmethod
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.divergence.logistic import MOST_FOLDS, held_out_log_odds
from thalweg.laws.evidence import inputs, written
from thalweg.laws.fitting import folds
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.results import Result
from thalweg.schedules import Budget, Schedule, check_steps

if TYPE_CHECKING:
    from thalweg.runs import Runs

__all__ = ["INPUTS", "Criterion", "DivergenceEvidence", "check_divergence", "evidence_of_divergence"]

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]

INPUTS = ("params", "tokens", "batch_tokens", "peak_lr", "warmup")
DRAWS = 2000  # bootstrap draws of groups, seed 0
COVERAGE = (0.05, 0.95)
TIED = 0.01  # smallest over largest singular value of standardised log inputs: below, only rounding tells them apart


@dataclass(frozen=True, slots=True)
class DivergenceEvidence(Result):
    """How a criterion told apart runs that it had not seen.

    Attributes:
        ranges: input → (lowest, highest) it was fitted on, raw units: `params tokens batch_tokens` [count], `peak_lr` [1],
            `warmup` [steps].
        runs: number of runs fitted on (0: unknown).
        diverged: how many of them diverged.
        cells: number of their (params, tokens) cells.
        precision: share of the runs told to diverge that did; None where none was told to.
        recall: share of the diverged runs that were told to.
        f1: harmonic mean of the two.
        f1_interval: 90 % bootstrap interval of `f1` over groups that were left out together.
        missed: the diverged runs that were told stable, in words.
        false_alarms: the stable runs that were told to diverge, in words.
        held_out: which runs were left out together.
        setup: whose runs these were, where they are not the user's own.

    Example:
        >>> print(DivergenceEvidence(runs=50, diverged=10, cells=9, setup="").summary())
        fitted on 50 runs in 9 cells, 10 diverged
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    runs: int = 0
    diverged: int = 0
    cells: int = 0
    precision: float | None = None
    recall: float | None = None
    f1: float | None = None
    f1_interval: tuple[float, float] | None = None
    missed: tuple[str, ...] = ()
    false_alarms: tuple[str, ...] = ()
    held_out: str = ""
    setup: str = ""

    def summary(self) -> str:
        """How many runs, how well unseen ones were told apart, which were told wrong, and in which ranges."""
        lines = [f"fitted on {self.setup or f'{self.runs} runs in {self.cells} cells, {self.diverged} diverged'}"]
        if self.f1 is not None and self.f1_interval is not None:
            low, high = self.f1_interval
            precision = "undefined (none told to diverge)" if self.precision is None else f"{self.precision:.2f}"
            lines.append(
                f"held-out runs ({self.held_out}): precision {precision}, recall {self.recall:.2f}, "
                f"F1 {self.f1:.3f} [{low:.2f}, {high:.2f}] (90 %)"
            )
        lines += [f"diverged, told stable: {run}" for run in self.missed]
        lines += [f"stable, told to diverge: {run}" for run in self.false_alarms]
        lines += [f"{name} {written(name, low)} to {written(name, high)}" for name, (low, high) in self.ranges.items()]
        return "\n".join(lines)


class Criterion(Result, ABC):
    """Base of the divergence criteria: a frozen dataclass with `fit`, `ratios` and its `evidence`."""

    __slots__ = ()
    evidence: DivergenceEvidence

    @classmethod
    @abstractmethod
    def fit(cls, runs: Runs) -> Self:
        """Fit on finished runs, of which some diverged and some did not (column `diverged`)."""

    @abstractmethod
    def ratios(self, budget: Budget, peak_lr: NDArray[Any], warmup: NDArray[Any], steps: NDArray[Any]) -> Floats:
        """The ratio [1] of many schedules on one budget, above 1 where a run is likely to diverge, shape (schedules,).

        Args:
            budget: of each of the runs.
            peak_lr: highest learning rates [1], shape (schedules,).
            warmup: lengths of the warmups [steps], shape (schedules,).
            steps: lengths of the runs [steps], shape (schedules,).
        """

    def ratio(self, schedule: Schedule, budget: Budget) -> float:
        """The ratio [1] of one run: above 1 it is likely to diverge.

        It sees the peak, the length and the warmup of a schedule only.

        Raises:
            ThalwegError: steps and tokens disagree by over .5 %.
        """
        check_steps(schedule, budget)
        peak, warmup, steps = schedule.peak_lr, schedule.phases.warmup_end, schedule.steps
        return float(self.ratios(budget, np.array([peak]), np.array([warmup]), np.array([steps]))[0])

    def diverges(self, schedule: Schedule, budget: Budget) -> bool:
        """Whether the run is likely to diverge: a ratio above 1.

        Raises:
            ThalwegError: steps and tokens disagree by over .5 %.
        """
        return self.ratio(schedule, budget) > 1


def check_divergence(runs: Runs, *, needed: int, criterion: str) -> None:
    """Refuse runs that tell nothing about divergence; warn of inputs whose part in it they cannot tell.

    Raises:
        ThalwegError: fewer runs than constants; no run diverged, or all did; the peak is the same in all runs.
    """
    diverged = int(runs.diverged.sum())
    if len(runs) < needed:
        raise ThalwegError(
            f"runs: got {len(runs)} runs, expected at least {needed}: {criterion} has {needed} constants. Add runs."
        )
    if diverged in (0, len(runs)):
        raise ThalwegError(
            f"diverged: got {diverged} of {len(runs)} runs that diverged, expected some that did and some that did not. Keep the "
            "runs of both kinds in the table, and mark those that diverged in a column diverged."
        )
    columns = {name: np.log(np.where(values > 0, values, 1.0)) for name, values in _inputs_of(runs).items()}
    constant = [name for name, values in columns.items() if np.ptp(values) < 1e-9]
    if "peak_lr" in constant:
        raise ThalwegError(
            f"peak_lr: got one value in all {len(runs)} runs, expected at least two: a criterion says which is too high. Add runs."
        )
    if constant:
        _warn(f"{criterion}: {' and '.join(constant)} did not vary in these runs, so it is not known how divergence "
              "depends on them; keep to these values.")  # fmt: skip
    varying = np.stack([values for name, values in columns.items() if name not in constant], axis=1)
    standard = (varying - varying.mean(axis=0)) / varying.std(axis=0)
    singular = np.linalg.svd(standard, compute_uv=False)
    if len(singular) < varying.shape[1] or singular[-1] < TIED * singular[0]:
        _warn(f"{criterion}: some of {', '.join(name for name in columns if name not in constant)} only varied together in these "
              "runs, so their parts in divergence are not told apart; keep to such combinations.")  # fmt: skip


def evidence_of_divergence(runs: Runs, features: Floats) -> DivergenceEvidence:
    """The evidence of a fit whose log-odds are linear in features, shape (alternatives, runs, features).

    Each run is told apart by a fit that has not seen its group, neither to choose its penalty nor among its alternatives.
    """
    groups, held_out = folds(runs)
    if len(np.unique(groups)) > MOST_FOLDS:
        held_out = f"{held_out}, merged into {MOST_FOLDS} folds"
    told = held_out_log_odds(features, runs.diverged, groups) > 0
    true, alarms, missed = runs.diverged & told, ~runs.diverged & told, runs.diverged & ~told
    hits = int(true.sum())
    columns = _inputs_of(runs)
    words = [
        ", ".join(f"{name} {written(name, values[row])}" for name, values in columns.items())
        for row in range(len(runs))
    ]
    return DivergenceEvidence(
        ranges={name: (float(values.min()), float(values.max())) for name, values in columns.items()},
        runs=len(runs),
        diverged=int(runs.diverged.sum()),
        cells=len(np.unique(runs.cells)),
        precision=hits / int(told.sum()) if told.any() else None,
        recall=hits / int(runs.diverged.sum()),
        f1=f1(hits, int(alarms.sum()), int(missed.sum())),
        f1_interval=bootstrap_f1(true, alarms, missed, groups),
        missed=tuple(words[row] for row in np.flatnonzero(missed)),
        false_alarms=tuple(words[row] for row in np.flatnonzero(alarms)),
        held_out=held_out,
    )


def f1(hits: int, alarms: int, missed: int) -> float:
    """Harmonic mean of precision and recall, from the numbers of hits, false alarms and misses.

    Example:
        >>> f1(3, 1, 1)
        0.75
    """
    return 2 * hits / (2 * hits + alarms + missed)


def bootstrap_f1(hit: Booleans, alarm: Booleans, missed: Booleans, groups: NDArray[np.intp]) -> tuple[float, float]:
    """90 % interval of F1 when whole groups are drawn with replacement; draws without anything to find are left out."""
    _, numbers = np.unique(groups, return_inverse=True)
    kinds = np.stack([np.bincount(numbers, which) for which in (hit, alarm, missed)], axis=1)
    size = len(kinds)
    drawn = np.random.default_rng(0).multinomial(size, np.full(size, 1 / size), DRAWS) @ kinds
    drawn = drawn[drawn.sum(axis=1) > 0]
    low, high = np.quantile(2 * drawn[:, 0] / (2 * drawn[:, 0] + drawn[:, 1] + drawn[:, 2]), COVERAGE)
    return float(low), float(high)


def _inputs_of(runs: Runs) -> dict[str, Floats]:
    return inputs(runs.schedules, runs.budgets, INPUTS)


def _warn(message: str) -> None:
    warnings.warn(message, ThalwegWarning, stacklevel=4)
