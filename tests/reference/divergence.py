"""Divergence as the paper writes it, slowly: areas by quadrature, constants by a general minimiser from several starts."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
from scipy.optimize import minimize


def areas(lr: Callable[[float], float], steps: int, level: float, points: int = 400_000) -> tuple[float, float]:
    """Fig. 3: the area under the learning rate until it first exceeds a level, and that above the level wherever it does."""
    width = steps / points
    below = above = 0.0
    exceeded = False
    for point in range(points):
        eta = lr((point + 0.5) * width)
        exceeded = exceeded or eta > level
        below += 0.0 if exceeded else eta * width
        above += max(eta - level, 0.0) * width
    return below, above


def log_ratio(constants: np.ndarray, peak: np.ndarray, S: np.ndarray, a1: np.ndarray, N: np.ndarray) -> np.ndarray:
    """log R of Eq. 4, S and a1 already squared as in A.3; −inf where the peak stays below η_L."""
    K, c3, alpha1, alpha2 = constants
    eta_l = np.minimum(peak, K * S**alpha1 / N**alpha2)
    with np.errstate(divide="ignore"):
        return np.log(S * (peak - eta_l) ** 2 / (c3 * a1 * eta_l**2))


def log_loss(unknown: np.ndarray, c3: float, peak: np.ndarray, S: np.ndarray, a1: np.ndarray, N: np.ndarray,
             diverged: np.ndarray, strength: float) -> float:  # fmt: skip
    """Penalised mean log loss of slope · log(η_max/η*), η* the peak at which R = 1; the penalty as the fast fit has it:

    on the coefficients of log(η_max/(1 + √c3 a1/S)), log S and log N, in their standard deviations.
    """
    slope, log_K, alpha1, alpha2 = unknown
    peak_at_one = np.exp(log_K) * S**alpha1 / N**alpha2 * (1 + np.sqrt(c3) * np.sqrt(a1 / S))
    odds = slope * np.log(peak / peak_at_one)
    features = np.log(peak / (1 + np.sqrt(c3) * np.sqrt(a1 / S))), np.log(S), np.log(N)
    weights = slope * np.array([1, -alpha1, alpha2]) * np.array([feature.std() for feature in features])
    return float(np.mean(np.logaddexp(0, odds) - diverged * odds) + strength / 2 * np.sum(weights**2))


def fit(grid: np.ndarray, peak: np.ndarray, S: np.ndarray, a1: np.ndarray, N: np.ndarray, diverged: np.ndarray,
        strength: float) -> tuple[np.ndarray, float]:  # fmt: skip
    """K, c3, α1, α2 of the least penalised log loss over a grid of c3, and that loss."""
    best = (np.empty(0), np.inf)
    for c3 in grid:
        for slope in (1.0, 10.0):
            for K in (0.01, 0.1):
                start = np.array([slope, np.log(K), 0.2, 0.5])
                found = minimize(log_loss, start, (c3, peak, S, a1, N, diverged, strength), tol=1e-10)
                if found.fun < best[1]:
                    best = np.array([np.exp(found.x[1]), c3, found.x[2], found.x[3]]), float(found.fun)
    return best
