"""How uncertain a fitted law's predictions are together: which would move with which, had the runs come out otherwise."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.fitting import finished, folds
from thalweg.laws.law import Law
from thalweg.outcomes import ThalwegWarning
from thalweg.schedules import Budget, Schedule

if TYPE_CHECKING:
    from thalweg.laws.opt_law import OptLaw
    from thalweg.runs import Runs

__all__ = ["Doubt", "doubt_of"]

Floats = NDArray[np.float64]

WEAKEST = 1e-10  # ridge strength: directions that the runs leave open are doubted much, but not without end


class Doubt(NamedTuple):
    """Joint uncertainty of a law's predictions of log(loss).

    Attributes:
        factor: shape (predictions, directions); their covariance is factor · factorᵀ.
        noise: standard deviation of log(loss) of a run around the law's prediction.
        method: how it was found, in words.
    """

    factor: Floats
    noise: float
    method: str


def doubt_of(law: Law, runs: Runs, schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Doubt:
    """The joint uncertainty of the predictions of some schedules on their budgets.

    Opt-Law is linear in its coefficients: Bayesian linear regression with the prior its ridge penalty stands for, exponents
    held fixed. Any other law is refitted with one group of runs left out at a time, the groups of its held-out residuals
    (grouped jackknife: (g − 1)/g times the sum of squares of the refits' predictions around their mean): a fit a group.

    Args:
        law: fitted on the runs.
        runs: the table it was fitted on; diverged runs are left out.
        schedules: of each prediction.
        budgets: of each prediction.

    Raises:
        ThalwegError: the law has no form for one of these, or cannot be fitted with a group left out.
    """
    from thalweg.laws.opt_law import OptLaw  # imported when it is used, like every law

    table = finished(runs)
    if isinstance(law, OptLaw):
        return _regression(law, table, schedules, budgets)
    return _jackknife(law, table, schedules, budgets)


def _noise(law: Law) -> float:
    evidence = law.evidence
    if evidence.spread is not None:
        return evidence.spread
    return 0.0 if evidence.residuals is None else float(np.std(evidence.residuals))


def _regression(law: OptLaw, runs: Runs, schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Doubt:
    """Posterior of c with covariance σ² (ZᵀZ + n·ridge·I)⁻¹ in standardised features Z, the constant without a prior."""
    fitted = _rows(law, runs.schedules, runs.budgets)
    mean, scale = fitted.mean(axis=0), fitted.std(axis=0)
    varies = scale > 1e-9 * np.abs(mean)  # the fit gives the others no coefficient, so they have no doubt either

    def standardised(rows: Floats) -> Floats:
        return np.column_stack([(rows[:, varies] - mean[varies]) / scale[varies], np.ones(len(rows))])

    table = standardised(fitted)
    prior = np.full(table.shape[1], len(runs) * max(law.ridge, WEAKEST))
    prior[-1] = 0.0
    precision = table.T @ table + np.diag(prior)
    # with precision = L Lᵀ the covariance of rows z is σ² (L⁻¹z)ᵀ(L⁻¹z)
    lower = np.linalg.cholesky(precision)
    noise = _noise(law)
    factor = noise * np.linalg.solve(lower, standardised(_rows(law, schedules, budgets)).T).T
    return Doubt(factor, noise, f"Bayesian regression on {int(varies.sum())} features")


def _rows(law: OptLaw, schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Floats:
    return np.stack([law.features(schedule, budget) for schedule, budget in zip(schedules, budgets, strict=True)])


def _jackknife(law: Law, runs: Runs, schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Doubt:
    groups, _ = folds(runs)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", ThalwegWarning)  # the fit itself has given them
        refits = [law.refit(runs.subset(groups != group)) for group in np.unique(groups)]
    predicted = np.stack([refit.log_losses(schedules, budgets) for refit in refits], axis=1)
    around = predicted - predicted.mean(axis=1, keepdims=True)
    count = len(refits)
    return Doubt(np.sqrt((count - 1) / count) * around, _noise(law), f"jackknife over {count} groups of runs")
