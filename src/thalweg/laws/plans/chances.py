"""How likely each of several runs is to be the best of them."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["probability_best"]

Floats = NDArray[np.float64]


def probability_best(log_losses: Floats, spread: float | None, doomed: NDArray[np.bool_]) -> Floats | None:
    """Probability that each run has the lowest loss when all miss their prediction independently; None without a spread.

    P(i) = ∫ φ(z − μ_i) Π_{j≠i} [1 − Φ(z − μ_j)] dz with μ = log_losses/spread. Runs that diverge are never the best. Very
    similar schedules in truth miss together, so they share what is given here to one.

    Args:
        log_losses: predicted log(loss), shape (runs,).
        spread: standard deviation of its error within one budget.
        doomed: which runs diverge, shape (runs,).

    Example:
        >>> probability_best(np.array([0.0, 0.0, 1.0]), 0.01, np.zeros(3, bool)).round(6)
        array([0.5, 0.5, 0. ])
    """
    if spread is None:
        return None
    from scipy.special import log_ndtr

    alive = np.flatnonzero(~doomed) if not doomed.all() else np.arange(len(doomed))
    lowest = log_losses[alive].min()
    # noise-free tables have a spread of rounding errors: whatever is not the best then has no chance
    mean = (log_losses[alive] - lowest) / max(spread, 1e-12)
    near = mean < 12  # a run further behind wins with a probability below 1e-16
    mean = mean[near]
    # the best of n runs lies about √(2 ln n) below their mean, and not 9 above the prediction of the best
    z, step = np.linspace(-8 - np.sqrt(2 * np.log(len(mean))), 9, 257, retstep=True)
    survival = log_ndtr(mean[:, None] - z)  # log of the probability that run j stays above z
    density = np.exp(survival.sum(axis=0) - survival - (z - mean[:, None]) ** 2 / 2) / np.sqrt(2 * np.pi)
    chances = density.sum(axis=1) * step
    result = np.zeros(len(log_losses))
    result[alive[near]] = chances / chances.sum()
    return result
