"""What fits share: which runs are usable, which are left out together, the evidence that remains, and ridge regression."""

from __future__ import annotations

from collections.abc import Callable
from typing import TYPE_CHECKING, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.evidence import Evidence, inputs
from thalweg.outcomes import ThalwegError

if TYPE_CHECKING:
    from thalweg.runs import Runs

__all__ = ["Ridge", "evidence_of", "fit_ridge", "folds", "held_out", "seed_noise", "usable"]

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

FEWEST_CELLS = 4  # with fewer, leaving one out no longer leaves enough to tell size from data
STRENGTHS = 10.0 ** np.arange(-10.0, 1.01, 0.5)


def usable(runs: Runs, *, needed: int, law: str) -> Runs:
    """The runs that did not diverge.

    Raises:
        ThalwegError: they are of fewer different configurations than the law has coefficients.
    """
    kept = runs.subset(~runs.diverged)
    found = len(np.unique(kept.configurations))
    if found < needed:
        diverged = f" ({len(runs) - len(kept)} diverged)" if len(kept) < len(runs) else ""
        raise ThalwegError(
            f"runs: got {len(runs)} runs{diverged} of {found} configurations, expected at least {needed}: {law} has {needed} "
            "coefficients. Add runs, or fit a law with fewer coefficients."
        )
    return kept


def folds(runs: Runs) -> tuple[Integers, str]:
    """Which runs are left out together, as a group number for each run, and in words.

    A new run usually lies in a (params, tokens) cell that no run of the table shares, so whole cells are left out; a table of
    fewer than 4 cells leaves out one configuration (all its seeds) at a time.
    """
    cells = runs.cells
    if len(np.unique(cells)) >= FEWEST_CELLS:
        return cells, "one (params, tokens) cell at a time"
    return runs.configurations, "one configuration at a time (too few cells to leave one out)"


def held_out(predict: Callable[[NDArray[np.bool_]], Floats], groups: Integers) -> Floats:
    """Predictions of each group by a fit on the others: `predict(left_out)` fits without these rows and predicts them."""
    predicted = np.empty(len(groups))
    for group in np.unique(groups):
        left_out = groups == group
        predicted[left_out] = predict(left_out)
    return predicted


def evidence_of(runs: Runs, names: tuple[str, ...], residuals: Floats, held_out: str) -> Evidence:
    """The evidence of a fit: ranges of its inputs, held-out residuals log(measured/predicted), and their spreads."""
    columns = inputs(runs.schedules, runs.budgets, names)
    return Evidence(
        ranges={name: (float(values.min()), float(values.max())) for name, values in columns.items()},
        runs=len(runs),
        cells=len(np.unique(runs.cells)),
        residuals=residuals,
        spread=_spread_within(residuals, runs.cells),
        seed_noise=seed_noise(runs),
        held_out=held_out,
    )


def seed_noise(runs: Runs) -> float | None:
    """Standard deviation of log(loss) between runs that differ only in seed; None where no configuration is repeated."""
    return _spread_within(np.log(runs.loss), runs.configurations)


def _spread_within(values: Floats, groups: Integers) -> float | None:
    """Pooled standard deviation around the means of groups; None where every group has one member."""
    _, group, sizes = np.unique(groups, return_inverse=True, return_counts=True)
    degrees = len(values) - len(sizes)
    if degrees == 0:
        return None
    means = np.bincount(group, values) / sizes
    return float(np.sqrt(np.sum((values - means[group]) ** 2) / degrees))


class Ridge(NamedTuple):
    """A ridge fit: coefficients of the raw features, shape (features,), the strength, and what was learnt on the way."""

    coefficients: Floats
    strength: float
    condition: float
    held_out: Floats  # prediction of each row by a fit without its group


def fit_ridge(features: Floats, target: Floats, groups: Integers, strength: float | None = None) -> Ridge:
    """Least squares on standardised features with a penalty strength · ‖coefficients‖² beside the mean squared residual.

    Args:
        features: shape (rows, features); the last column is the constant 1, which is not penalised.
        target: shape (rows,).
        groups: rows of one number are left out together.
        strength: 0 is plain least squares; None chooses from 10^-10 … 10 the one with the least held-out squared error.

    Example:
        >>> x = np.arange(6.0)
        >>> features = np.stack([x, np.ones(6)], axis=1)
        >>> fit_ridge(features, 2 * x + 1, np.arange(6), strength=0.0).coefficients.round(12)
        array([2., 1.])
    """
    strengths = STRENGTHS if strength is None else np.array([strength])
    errors = np.empty((len(strengths), len(target)))
    for group in np.unique(groups):
        left_out = groups == group
        path, _ = _ridge_path(features[~left_out], target[~left_out], strengths)
        errors[:, left_out] = target[left_out] - path @ features[left_out].T
    best = int(np.argmin(np.mean(errors**2, axis=1)))
    path, condition = _ridge_path(features, target, strengths[[best]])
    return Ridge(path[0], float(strengths[best]), condition, target - errors[best])


def _ridge_path(features: Floats, target: Floats, strengths: Floats) -> tuple[Floats, float]:
    """Coefficients of the raw features for each strength, shape (strengths, features), and the condition number."""
    raw = features[:, :-1]
    mean, scale = raw.mean(axis=0), raw.std(axis=0)
    varies = scale > 1e-9 * np.abs(mean)  # a feature that is constant in this table tells nothing: its coefficient is 0
    scale = np.where(varies, scale, 1.0)
    centre = target.mean()
    u, singular, vt = np.linalg.svd(np.where(varies, (raw - mean) / scale, 0.0), full_matrices=False)
    # directions that rounding cannot tell from zero are left out: plain least squares then has the solution of least norm
    kept = singular > np.finfo(float).eps * max(raw.shape) * singular[0]
    rotated = np.where(kept, u.T @ (target - centre), 0.0)
    shrunk = rotated * singular / (singular**2 + len(target) * strengths[:, None] + ~kept)
    slopes = np.where(varies, shrunk @ vt / scale, 0.0)
    intercept = centre - slopes @ mean
    return np.column_stack([slopes, intercept]), _condition(singular, int(varies.sum()))


def _condition(singular: Floats, columns: int) -> float:
    """Largest over smallest singular value of the columns that vary; infinite where they do not determine a fit."""
    if not 0 < columns <= len(singular) or singular[columns - 1] == 0:
        return float("inf")
    return float(singular[0] / singular[columns - 1])
