"""Ridge-penalised logistic regression over alternative features, its strength chosen by grouped cross-validation."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

__all__ = ["LogisticFit", "fit_logistic", "held_out_log_odds"]

Floats = NDArray[np.float64]
Booleans = NDArray[np.bool_]
Integers = NDArray[np.intp]

STRENGTHS = 10.0 ** np.arange(-5.0, 0.01, 0.5)
MOST_FOLDS = 10  # more groups are merged into so many folds
ITERATIONS = 100
LONGEST_STEP = (
    4.0  # of one Newton step, in log-odds per standard deviation of a feature: keeps far starts from overshooting
)


class LogisticFit(NamedTuple):
    """A fit: log-odds = features · coefficients + intercept."""

    coefficients: Floats  # of the raw features, shape (features,)
    intercept: float
    strength: float
    alternative: int  # which of the alternative features was taken


class _Path(NamedTuple):
    coefficients: Floats  # shape (strengths, features)
    intercepts: Floats  # shape (strengths,)
    alternatives: Integers  # shape (strengths,)


def fit_logistic(features: Floats, events: Booleans, groups: Integers) -> LogisticFit:
    """Least mean log loss + strength/2 · ‖coefficients of standardised features‖², the intercept free.

    The strength is the one of 10^-5 … 1 with the least log loss on held-out groups, the alternative the one with the least
    penalised log loss on the rows themselves. (scikit-learn fits one strength of one alternative at a time; nested
    cross-validation needs thousands, so here all of them take their Newton steps together.)

    Args:
        features: shape (alternatives, rows, features); one alternative is plain logistic regression. A feature that is
            constant has coefficient 0.
        events: what is told from them, shape (rows,), both values present.
        groups: rows of one number are left out together, shape (rows,).

    Example:
        >>> x = np.linspace(-1, 1, 40)
        >>> fit = fit_logistic(x[None, :, None], x > 0.3, np.arange(40) % 8)
        >>> print(f"{-fit.intercept / fit.coefficients[0]:.1f}")  # where the odds are even
        0.3
    """
    best = _strength(features, events, groups)
    path = _path(features, events, STRENGTHS[[best]])
    return LogisticFit(
        path.coefficients[0], float(path.intercepts[0]), float(STRENGTHS[best]), int(path.alternatives[0])
    )


def held_out_log_odds(features: Floats, events: Booleans, groups: Integers) -> Floats:
    """Log-odds of each row, shape (rows,), by a fit that has not seen its fold, not even to choose its strength.

    Arguments as in `fit_logistic`.
    """
    odds = np.empty(len(events))
    for left_out in _folds(groups):
        rest = ~left_out
        best = _strength(features[:, rest], events[rest], groups[rest])
        path = _path(features[:, rest], events[rest], STRENGTHS[[best]])
        odds[left_out] = _log_odds(path, features[:, left_out])[0]
    return odds


def _folds(groups: Integers) -> list[Booleans]:
    """Masks of the rows that are left out together: whole groups, at most MOST_FOLDS of them."""
    _, numbers = np.unique(groups, return_inverse=True)
    folds = numbers % MOST_FOLDS
    return [folds == fold for fold in np.unique(folds)]


def _strength(features: Floats, events: Booleans, groups: Integers) -> int:
    """The number of the strength with the least log loss over held-out folds; a single group leaves nothing to hold out."""
    losses = np.zeros(len(STRENGTHS))
    folds = _folds(groups)
    if len(folds) == 1:
        return len(STRENGTHS) // 2
    for left_out in folds:
        odds = _log_odds(_path(features[:, ~left_out], events[~left_out], STRENGTHS), features[:, left_out])
        losses += np.sum(np.logaddexp(0, odds) - events[left_out] * odds, axis=1)
    return int(np.argmin(losses))


def _log_odds(path: _Path, features: Floats) -> Floats:
    """Shape (strengths, rows)."""
    chosen = features[path.alternatives]
    return np.asarray(np.einsum("srf,sf->sr", chosen, path.coefficients) + path.intercepts[:, None])


def _path(features: Floats, events: Booleans, strengths: Floats) -> _Path:
    """The fit of the best alternative for each strength."""
    count, rows = len(strengths), len(events)
    happened = int(events.sum())
    if happened in (0, rows):  # nothing to tell apart: even a separating line would be at infinity
        intercept = np.log((happened + 0.5) / (rows - happened + 0.5))
        nowhere = np.zeros(count, dtype=np.intp)
        return _Path(np.zeros((count, features.shape[2])), np.full(count, intercept), nowhere)
    mean, scale = features.mean(axis=1), features.std(axis=1)
    scale = np.where(
        scale > 1e-9 * (1 + np.abs(mean)), scale, np.inf
    )  # a constant feature becomes 0, and its coefficient
    design = np.ones((*features.shape[:2], features.shape[2] + 1))
    design[..., :-1] = (features - mean[:, None]) / scale[:, None]
    weights, objective = _newton(design, events, strengths)
    alternatives = np.argmin(objective, axis=1).astype(np.intp)
    chosen = weights[np.arange(count), alternatives]
    coefficients = chosen[:, :-1] / scale[alternatives]
    intercepts = chosen[:, -1] - np.sum(coefficients * mean[alternatives], axis=1)
    return _Path(coefficients, intercepts, alternatives)


def _newton(design: Floats, events: Booleans, strengths: Floats) -> tuple[Floats, Floats]:
    """Weights, shape (strengths, alternatives, columns), and objective, shape (strengths, alternatives), at the minimum.

    The last column of the design, shape (alternatives, rows, columns), is the constant, which is not penalised.
    """
    alternatives, rows, columns = design.shape
    penalty = strengths[:, None, None] * np.append(np.ones(columns - 1), 0.0)
    weights = np.zeros((len(strengths), alternatives, columns))
    transposed = np.swapaxes(design, 1, 2)

    def odds() -> Floats:
        return np.asarray((design @ weights[..., None])[..., 0])

    for _ in range(ITERATIONS):
        chance = 1 / (1 + np.exp(-np.clip(odds(), -500, 500)))
        gradient = ((chance - events)[..., None, :] @ design)[..., 0, :] / rows + penalty * weights
        curvature = (transposed * (chance * (1 - chance))[..., None, :]) @ design / rows
        # the tiny ridge keeps constant columns, and rows all far from the boundary, from a singular system
        curvature += (penalty + 1e-12)[..., None] * np.eye(columns)
        step = np.linalg.solve(curvature, gradient[..., None])[..., 0]
        longest = np.abs(step).max(axis=-1, keepdims=True)
        weights -= step * np.minimum(1, LONGEST_STEP / np.maximum(longest, LONGEST_STEP))
        if longest.max() < 1e-9:
            break
    likelihood = np.mean(np.logaddexp(0, odds()) - events * odds(), axis=-1)
    return weights, likelihood + np.sum(penalty * weights**2, axis=-1) / 2
