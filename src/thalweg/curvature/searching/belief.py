"""Where the crossing of h(m) = f(m)/m lies, given what is expected and what was seen: a distribution of log m_c.

Along a step h climbs from the slope at m = 0 through 0 at the crossing m_c. Over some octaves around it

    h(m) = k (u^a - 1)/a,   u = m/m_c:

a = 1 where the loss is a parabola, a = 2 where its cubic part bends it up, a → 0 a logarithm. So three numbers describe a
step: x = log m_c, y = log k and a. Below the crossing a parabola in u with the same bend takes the place of powers a < 2,
which do not end at m = 0 where h is the slope. Logarithms throughout: scales are factors. (Small networks by full-batch descent have
a = 2.2 on the way to the edge of stability and 1 on it; minibatches 1; GPTs anything from -1 to 3.)
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Belief", "Crossing", "Expectation", "Sighting", "depth"]

Array = NDArray[np.float64]

_MISFIT = 0.05  # of the template, relative to h, one e-fold from the crossing [1]
_BENDS = (0.1, 0.5)  # and for each unit of the spread of a, below and above it: losses that vary saturate above
_FAR = 2.0  # and no worse than there
_SHARPEST = 0.003  # no value of h is taken more seriously, relative [1]
_DEGREES = 4.0  # of Student's t, the prior of x: predictions have tails
_UNLIKE = 0.3  # how much of a surprise in x, in spreads, widens y
_TILTED = 3.0  # spreads of x up to which y and a move with it
_A = (-1.5, 4.0)  # range of a
_SPAN = 5.0  # beyond an open end [log multiple]
_POINTS = 120
_NEAREST = 1e-5  # a crossing closer than this to a sighting is there [log multiple]
_NEAR = np.geomspace(1e-4, 1.0, 60)  # distances from a sighting that the grid holds [log multiple]
_EXPONENTS = np.linspace(-2.5, 2.5, 11)  # of a, in its spreads


@dataclass(frozen=True, slots=True)
class Expectation:
    """Means and standard deviations of x = log m_c, y = log k and a [1].

    `y` and `a` are expected at `x`; away from it they move by their tilt for each unit of x.
    """

    x: float
    x_spread: float
    y: float
    y_spread: float
    a: float = 1.0
    a_spread: float = 0.5
    y_tilt: float = 0.0
    a_tilt: float = 0.0


@dataclass(frozen=True, slots=True)
class Sighting:
    """One evaluation: log m [1], h = f(m)/m [loss], and the relative rounding of f [1]."""

    at: float
    h: float
    rounding: float = 0.0


@dataclass(frozen=True, slots=True)
class Crossing:
    """A distribution of x on a grid: its points and the probabilities up to each of them, both of shape (n,)."""

    x: Array
    cumulative: Array

    def below(self, x: float) -> float:
        """Probability that the crossing lies below [1]."""
        return float(np.interp(x, self.x, self.cumulative))

    @property
    def median(self) -> float:
        """As likely below as above [log multiple]."""
        return float(np.interp(0.5, self.cumulative, self.x))


class Belief:
    """The distribution of (x, y, a) before a search, and what evaluations make of it.

    Example:
        The slope of a parabola is known to be about -1, and at m = 1 half of it is left: the crossing is near 2.

        >>> belief = Belief(Expectation(x=0.0, x_spread=2.0, y=0.0, y_spread=0.1, a_spread=0.1))
        >>> round(float(np.exp(belief.crossing([Sighting(0.0, -0.5)], lower=0.0, upper=None).median)), 1)
        2.1
    """

    def __init__(self, expected: Expectation) -> None:
        self.expected = expected

    def crossing(self, seen: Sequence[Sighting], lower: float | None, upper: float | None) -> Crossing:
        """The distribution of x between two ends (log multiples), at least one of which is known."""
        x, weights, *_ = self._posterior(seen, lower, upper)
        cumulative = np.cumsum(weights.sum(axis=0))
        return Crossing(x, cumulative - 0.5 * weights.sum(axis=0))

    def after(self, seen: Sequence[Sighting], lower: float, upper: float) -> Expectation:
        """Means and spreads of x, y and a once the interval is certified."""
        x, weights, y, a = self._posterior(seen, lower, upper)
        means, spreads = [], []
        for quantity in (np.broadcast_to(x, weights.shape), y, a):
            means.append(float((weights * quantity).sum()))
            spreads.append(float(np.sqrt((weights * (quantity - means[-1]) ** 2).sum())))
        return Expectation(means[0], spreads[0], means[1], spreads[1], means[2], spreads[2])

    def _posterior(
        self, seen: Sequence[Sighting], lower: float | None, upper: float | None
    ) -> tuple[Array, Array, Array, Array]:
        """Points x (n,); probabilities, mean of y and a, all (11, n): on a coarse grid, then where the mass is."""
        if lower is None:
            assert upper is not None
            lower = upper - _SPAN
        upper = lower + _SPAN if upper is None else upper
        # close to a sighting, log|h| changes with the logarithm of the distance
        near = [sighting.at + side * _NEAR for sighting in seen for side in (-1, 1)]
        for _ in range(2):
            x = np.unique(np.concatenate([np.linspace(lower, upper, _POINTS), *near]).clip(lower, upper))
            weights, y, a = self._weigh(seen, x)
            cumulative = np.cumsum(weights.sum(axis=0))
            first, last = np.searchsorted(cumulative, [1e-3, 1 - 1e-3])
            lower, upper = float(x[max(first - 1, 0)]), float(x[min(last + 1, len(x) - 1)])
        return x, weights, y, a

    def _weigh(self, seen: Sequence[Sighting], x: Array) -> tuple[Array, Array, Array]:
        """Probabilities, mean of y, and a, for each a in its spread and each x, all (11, n).

        y is integrated out: at given (a, x) each sighting measures it, with the template's misfit as its error.
        """
        e = self.expected
        moved = np.clip(x - e.x, -_TILTED * e.x_spread, _TILTED * e.x_spread)
        a = np.clip(e.a + e.a_tilt * moved + e.a_spread * _EXPONENTS[:, None], *_A)
        mean = e.y + e.y_tilt * moved - np.log(depth(a))
        unlike = ((x - e.x) / e.x_spread) ** 2  # a step that surprises in x may surprise in y
        precision = np.broadcast_to(1 / (e.y_spread**2 * (1 + _UNLIKE * unlike)), mean.shape)
        log = -0.5 * _EXPONENTS[:, None] ** 2 - 0.5 * (_DEGREES + 1) * np.log1p(unlike / _DEGREES)
        faintest = e.y + math.log(_NEAREST) - 2 * e.y_spread
        below, above = (_MISFIT + bends * e.a_spread for bends in _BENDS)
        for sighting in seen:
            distance = sighting.at - x
            y = max(math.log(abs(sighting.h)), faintest) - np.log(np.maximum(np.abs(_template(distance, a)), _NEAREST))
            misfit = np.where(distance < 0, below, above) * np.minimum(np.abs(distance), _FAR)
            told = 1 / (misfit**2 + _SHARPEST**2 + sighting.rounding**2)
            log = log + 0.5 * np.log(precision / (precision + told))
            log = log + 0.5 * np.log(told) - 0.5 * (y - mean) ** 2 * precision * told / (precision + told)
            mean = (precision * mean + told * y) / (precision + told)
            precision = precision + told
        weights = np.exp(log - log.max()) * np.gradient(x)
        return weights / weights.sum(), mean, a


def depth(a: Array) -> Array:
    """-h(0)/k of the template: the slope at m = 0 in units of k [1]."""
    result: Array = np.where(a <= 2, 1.5 - 0.5 * a, 1 / np.maximum(a, 2))
    return result


def _template(distance: Array, a: Array) -> Array:
    """h/k at log u = distance: a power of u; below the crossing and for a ≤ 2 a parabola in u, which ends at u = 0."""
    u1 = np.expm1(np.clip(distance, -50, 50))
    power = np.where(np.abs(a) < 1e-6, 1e-6, a)  # the logarithm, to rounding
    below = (distance < 0) & (a <= 2)
    result: Array = np.where(below, u1 * (1 + 0.5 * (a - 1) * u1), np.expm1(np.clip(power * distance, -50, 50)) / power)
    return result
