"""Opt-Laws' bounds as the paper prints them, one formula after the other, and the probabilities that they bound."""

from __future__ import annotations

import numpy as np
from scipy import stats


def theorem_1(passed, squares, *, eta0, L, gap, N, sigma0_squared):
    """Eq. 11."""
    return gap / passed + eta0 * L * sigma0_squared * N * squares / (2 * passed)


def theorem_2(passed, squares, *, L, gap, N, sigma, l, M, c1, c1_noise, c2, epsilon, V, gradient, m0, v0):
    """Eqs. 12 and 13 as printed, without the factor N in the noise of Eq. 12."""
    scaled = m0 / np.sqrt(v0 + epsilon)
    m = np.sqrt(V + epsilon) * (gap + scaled @ m0 / (2 * c1)) / ((1 - c2 / (4 * c1)) * passed)
    noise = c1_noise**2 / (2 * c1) * sigma * np.sqrt(V + epsilon) * squares
    m += noise / ((1 - c2 / (4 * c1)) * np.sqrt(epsilon) * passed)
    g = (
        2
        * np.sqrt(V + epsilon)
        * (gap - gradient @ scaled / c1 + l * M * np.sqrt(N) / (c1 * np.sqrt(epsilon)))
        / passed
    )
    factor = 2 * L * np.sqrt(V + epsilon) / (c1 * epsilon)
    factor += (1 + sigma**2 / epsilon**2) * c2**2 * (V + epsilon) / (2 * c1**2 * epsilon)
    return m, g + factor * m


def theorem_4(whole_covariance, squared_radius):
    """√(eε/Tr P̂) with the trace of weights, momentum and second moment together."""
    return np.sqrt(np.e * squared_radius / np.trace(whole_covariance))


def log_trace_tail_1d(samples, deviation):
    """log P(|s − 1| ≥ t) for the mean s of D squares of standard normals."""
    high = stats.chi2.logsf(samples * (1 + deviation), samples)
    return np.logaddexp(high, stats.chi2.logcdf(samples * max(1 - deviation, 0.0), samples))


def within_1d(variance, squared_radius):
    """P(X² ≤ ε) of a normal variable."""
    return stats.chi2.cdf(squared_radius / variance, 1)
