"""Will a run diverge? The ratio of the time above a critical learning rate to the warmup below it."""

from __future__ import annotations

import math
import warnings
from dataclasses import dataclass, field
from itertools import pairwise
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.divergence.criterion import Criterion, DivergenceEvidence, check_divergence, evidence_of_divergence
from thalweg.laws.divergence.logistic import fit_logistic
from thalweg.laws.features import LR_UNIT, TOKEN_UNIT
from thalweg.laws.fitting import folds
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.schedules import Budget, Schedule, check_steps

if TYPE_CHECKING:
    from thalweg.runs import Runs

__all__ = ["DivergenceCriterion"]

Floats = NDArray[np.float64]

# c3 is searched on this grid: from warmups that matter only where they last most of the run, to those that matter always
C3 = 10.0 ** np.arange(0.0, 6.01, 0.25)


@dataclass(frozen=True, slots=True)
class DivergenceCriterion(Criterion):
    """R = S (η_max − η_L)² / (c3 a1 η_L²), η_L = min(η_max, K S^α1 / N^α2): R > 1 is likely to diverge.

    Xie et al. 2024, Eq. 4 and A.3: N = total parameters/1e9; S and a1 (run and warmup) counted in 1e9 tokens, then squared;
    learning rates divided by .015. Derived for a linear warmup and a linear cooldown to 0; of any other schedule `ratio` and
    `ratios` (which `plan` uses) see the peak, the length and the warmup only, `area_ratio` sees all of it.

    R is 0 where the peak stays below η_L, and infinite without a warmup where it does not.

    Attributes:
        K, c3, alpha1, alpha2: constants of Eq. 4 (K = c1/c2).
        evidence: ranges, and how unseen runs were told apart; of the published constants only whose they are.

    Example:
        >>> from thalweg.schedules import linear
        >>> budget = Budget(params=0.58e9, tokens=10e9, batch_tokens=2048 * 2048)
        >>> criterion = DivergenceCriterion.published()
        >>> print(f"{criterion.ratio(linear(9e-3, budget.steps, warmup=256), budget):.3f}")
        1.385
        >>> [criterion.diverges(linear(9e-3, budget.steps, warmup=warmup), budget) for warmup in (256, 512)]
        [True, False]
    """

    sources: ClassVar[tuple[str, ...]] = ("opt-laws",)
    K: float
    c3: float
    alpha1: float
    alpha2: float
    evidence: DivergenceEvidence = field(default_factory=DivergenceEvidence)

    @classmethod
    def published(cls) -> Self:
        """The constants of A.3, fitted on the authors' 8-expert MoE runs."""
        evidence = DivergenceEvidence(setup="the authors' setup (8-expert MoE, linear warmup and cooldown)")
        return cls(K=1.76 / 33.21, c3=292.03, alpha1=0.218, alpha2=0.5, evidence=evidence)

    @classmethod
    def fit(cls, runs: Runs) -> Self:
        """Fit the four constants on runs with a column `diverged`.

        R > 1 is the same as η_max > η* = η_L (1 + √c3 a1/S), a1/S the ratio of steps. log R itself is −∞ for every peak below η_L,
        so the logistic loss is taken of slope · log(η_max/η*), which has the sign of log R and is finite. For a given c3
        that is linear in log η_max − log(1 + √c3 a1/S), log S and log N: one convex problem for each c3 of a grid
        (1 to 10^6, four a decade), hence no starts and no chance. A weak ridge penalty, chosen by leaving groups of runs
        out, keeps constants finite where the runs are separable. R takes no account of the batch beyond a1/S and S; alpha1 and
        alpha2 are not forced to be positive. Where c3 ends up at an end of its grid, a `ThalwegWarning` says so.

        Raises:
            ThalwegError: fewer than 4 runs; none diverged, or all did; one peak in all runs; higher peaks do not diverge
                more often.
        """
        check_divergence(runs, needed=4, criterion="DivergenceCriterion")
        features = _features(runs)
        found = fit_logistic(features, runs.diverged, folds(runs)[0])
        slope, of_S, of_N = found.coefficients.tolist()
        if not slope > 0:
            raise ThalwegError(
                "diverged: runs with higher peaks, for their size and warmup, did not diverge more often, expected that they do: "
                "Eq. 4 does not describe these runs. Fit LogisticDivergence instead."
            )
        c3 = float(C3[found.alternative])
        if c3 in (C3[0], C3[-1]):
            message = (
                f"DivergenceCriterion: c3 {c3:g} lies at the end of the range searched: these runs tell that warmup matters very "
                "little or very much, not how much. Add runs that differ in warmup alone."
            )
            warnings.warn(message, ThalwegWarning, stacklevel=2)
        return cls(
            K=math.exp(-found.intercept / slope),
            c3=c3,
            alpha1=-of_S / slope,
            alpha2=of_N / slope,
            evidence=evidence_of_divergence(runs, features),
        )

    def critical_lr(self, budget: Budget) -> float:
        """η_L, the learning rate [1] above which time counts towards divergence.

        Example:
            >>> budget = Budget(params=0.58e9, tokens=10e9, batch_tokens=2048 * 2048)
            >>> print(f"{DivergenceCriterion.published().critical_lr(budget):.2e}")
            2.85e-03
        """
        return float(self._critical(budget, np.array([budget.steps]))[0])

    def ratios(self, budget: Budget, peak_lr: NDArray[Any], warmup: NDArray[Any], steps: NDArray[Any]) -> Floats:
        """R of many schedules on one budget, from their peaks [1], warmups and lengths [steps], shape (schedules,) each."""
        excess = np.maximum(peak_lr / self._critical(budget, steps) - 1, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            # S/a1 is a ratio of squares, from which the unit of tokens cancels
            ratios = (steps / warmup) ** 2 * excess**2 / self.c3
        return np.where(excess == 0, 0.0, ratios)

    def area_ratio(self, schedule: Schedule, budget: Budget) -> float:
        """R [1] of any schedule, from the two areas that Eq. 4 compares (Fig. 3): equal to `ratio` for linear(…, warmup=…).

        With S1 = ∫η before the learning rate first exceeds η_L, and S2 = ∫(η − η_L) wherever it does: a triangle of height
        η_max, base S and rise a1 has S1 = a1 η_L²/(2 η_max) and S2 = S (η_max − η_L)²/(2 η_max). Solved for the lengths, the
        schedule counts as the triangle with its areas; their ratio is squared as in A.3, so R = (S2/S1)² / (c3 x²) with
        x = η_max/η_L − 1. Schedules that stay at their peak longer than the triangle get a larger R. The constants were fitted
        on one family of schedules, so of others this is an extrapolation.

        Raises:
            ThalwegError: steps and tokens disagree by over .5 %.

        Example:
            >>> from thalweg.schedules import constant, linear
            >>> budget = Budget(params=0.58e9, tokens=10e9, batch_tokens=2048 * 2048)
            >>> shapes = [shape(6e-3, budget.steps, warmup=512) for shape in (linear, constant)]
            >>> print(*(f"{DivergenceCriterion.published().area_ratio(shape, budget):.3f}" for shape in shapes))
            0.091 0.933
        """
        check_steps(schedule, budget)
        critical = float(self._critical(budget, np.array([schedule.steps]))[0])
        below, above = _areas(schedule, critical)
        if above == 0:
            return 0.0
        if below == 0:
            return math.inf
        return (above / below) ** 2 / (self.c3 * (schedule.peak_lr / critical - 1) ** 2)

    def summary(self) -> str:
        """The constants, and how runs that the fit had not seen were told apart."""
        constants = f"K {self.K:.4g}, c3 {self.c3:.4g}, alpha1 {self.alpha1:.3f}, alpha2 {self.alpha2:.3f}"
        return f"DivergenceCriterion (Eq. 4: peak, warmup, length, params): {constants}\n{self.evidence.summary()}"

    def _critical(self, budget: Budget, steps: NDArray[Any]) -> Floats:
        S = (steps * budget.batch_tokens / TOKEN_UNIT) ** 2
        N = budget.params / TOKEN_UNIT
        return np.asarray(LR_UNIT * self.K * S**self.alpha1 / N**self.alpha2)


def _features(runs: Runs) -> Floats:
    """log(η_max/(1 + √c3 a1/S)), log S, log N of each run in Eq. 4's units, for each c3 of the grid: shape (C3, runs, 3)."""
    peak = np.array([schedule.peak_lr for schedule in runs.schedules]) / LR_UNIT
    warm = np.array([schedule.phases.warmup_end / schedule.steps for schedule in runs.schedules])
    tokens = np.array([s.steps * b.batch_tokens for s, b in zip(runs.schedules, runs.budgets, strict=True)])
    N = np.array([budget.params for budget in runs.budgets]) / TOKEN_UNIT
    S = (tokens / TOKEN_UNIT) ** 2
    return np.stack([np.stack([np.log(peak / (1 + c3**0.5 * warm)), np.log(S), np.log(N)], axis=1) for c3 in C3])


def _areas(schedule: Schedule, level: float) -> tuple[float, float]:
    """∫η before the learning rate first exceeds a level, and ∫(η − level) wherever it does [steps], by exact integrals."""
    from scipy.optimize import brentq

    high = schedule(np.arange(schedule.steps + 1)) > level
    # between whole steps a schedule is monotone, so it crosses the level at most once there
    crossings = [
        float(brentq(lambda t: schedule(t) - level, step, step + 1)) for step in np.flatnonzero(high[1:] != high[:-1])
    ]
    above = [
        (a, schedule.integral(a, b) - level * (b - a))
        for a, b in pairwise([0.0, *crossings, float(schedule.steps)])
        if schedule((a + b) / 2) > level
    ]
    if not above:
        return schedule.integral(0, schedule.steps), 0.0
    return schedule.integral(0, above[0][0]), math.fsum(area for _, area in above)
