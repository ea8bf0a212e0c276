"""What a line search expects before its first evaluation, learned from the measurements before it.

`belief.py` describes a step by x = log m_c, y = log k and the exponent a. From one measured step to the next

- x follows a regression on its last change, its distance from its own mean, and the same two of the slope's logarithm,
- y follows the slope with an offset, which also takes in the unknown factor of gradient clipping,
- a wanders,

and the products of past errors say how wide each is and how they err together.
"""

from __future__ import annotations

import math
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.curvature.searching.belief import Expectation, depth

__all__ = ["SearchMemory"]

# Chosen on seeds 0 to 3 of benchmarks/line_search.py, frozen before its test seeds were run. None is delicate.
_FORGET = 0.97  # what a past change counts for in the regression after one more measurement
_RIDGE = 6.0  # 1 over the prior variance of its weights
_PRIOR = (0.0, 0.3, 0.0, 0.0)  # their means: go .3 of the way back to the mean
_MEAN_RATE = 0.3  # of the running means of x and of the slope's logarithm
_OFFSET_RATE = 0.7  # of the running mean of y - log|slope|
_SPREAD_RATE = 0.15  # of the running products of errors
_EXPONENT_RATE = 0.5  # of the running mean of a
_FARTHEST = math.log(8)  # no change of x is predicted beyond it
_START = (0.3, 0.0, 0.01, 0.0, 0.25)  # products of errors before the first
_LEAST = (1e-4, 1e-3, 1e-2)  # squares of errors of x, y, a do not fall below
_WORST = 3.0  # an error counts as at most that many spreads


@dataclass(slots=True)
class SearchMemory:
    """Carries the prediction from one search to the next; updated in place by `search`.

    Plain Python numbers inside, in logarithms: `state_dict` and `from_state` carry them through a checkpoint.

    Attributes:
        measurements: searches learned from [count].
        unit: what the multiples are multiples of, for example the learning rate [1]; `convert` changes it.
        x, x_change, x_mean: log m_c at the last measurement, its last change, its running mean [1].
        slope, slope_mean: log of the slope's hint at the last measurement, its running mean [1].
        offset: running mean of the log of slope over hint; log 10 where clipping leaves a tenth of the gradient [1].
        a: running mean of the exponent [1].
        products: running means of products of errors: of x and x, x and y, y and y, x and a, a and a [1].
        gram, moment: the regression of the change of x, shapes (4, 4) and (4,).

    Example:
        The crossing stays, after the first search it is found with two evaluations.

        >>> from thalweg.curvature.searching.certified import search
        >>> memory = SearchMemory()
        >>> [search(lambda m: m * (m - 30.0), slope=-30.0, memory=memory).evaluations for _ in range(4)]
        [5, 2, 2, 2]
    """

    measurements: int = 0
    unit: float = 1.0
    x: float = 0.0
    x_change: float = 0.0
    x_mean: float = 0.0
    slope: float = 0.0
    slope_mean: float = 0.0
    offset: float = 0.0
    a: float = 1.0
    products: list[float] = field(default_factory=lambda: list(_START))
    gram: list[list[float]] = field(default_factory=lambda: [[0.0] * 4 for _ in range(4)])
    moment: list[float] = field(default_factory=lambda: [0.0] * 4)

    def expect(self, slope: float | None) -> Expectation | None:
        """What the coming search will find, given its slope; None before the first measurement."""
        if not self.measurements:
            return None
        log_slope = self._log(slope)
        xx, xy, yy, xa, aa = self.products
        return Expectation(
            x=self.x + min(max(float(self._features(log_slope) @ self._weights()), -_FARTHEST), _FARTHEST),
            x_spread=math.sqrt(xx),
            y=log_slope + self.offset,
            y_spread=math.sqrt(max(yy - xy * xy / xx, _LEAST[1])),
            a=self.a,
            a_spread=math.sqrt(max(aa - xa * xa / xx, _LEAST[2])),
            y_tilt=xy / xx,
            a_tilt=xa / xx,
        )

    def learn(self, found: Expectation, slope: float | None) -> None:
        """Take in what a search has found; the slope as it was given to `expect`."""
        x, y, a = found.x, found.y + math.log(depth(np.array(found.a))), found.a  # the slope's scale instead of k's
        log_slope = self._log(slope)
        expected = self.expect(slope)
        if expected is None:
            self.x_mean, self.slope_mean, self.offset, self.a = x, log_slope, y - log_slope, a
        else:
            self._learn_errors(x - expected.x, y - expected.y, a - expected.a, found.a_spread**2)
            features = self._features(log_slope)
            weight = 1 / max(1.0, (x - expected.x) ** 2 / (_WORST * self.products[0]))
            self.gram = (_FORGET * np.array(self.gram) + weight * np.outer(features, features)).tolist()
            self.moment = (_FORGET * np.array(self.moment) + weight * features * (x - self.x)).tolist()
            self.x_change = x - self.x
            early = 1 / (self.measurements + 1)  # plain means, while they are over fewer than the rates reach back
            self.x_mean += max(_MEAN_RATE, early) * (x - self.x_mean)
            self.slope_mean += max(_MEAN_RATE, early) * (log_slope - self.slope_mean)
            self.offset += max(_OFFSET_RATE, early) * (y - log_slope - self.offset)
            told = max(0.0, 1 - (found.a_spread / expected.a_spread) ** 2)  # two evaluations tell little of a
            self.a += _EXPONENT_RATE * told * (a - self.a)
        self.x, self.slope = x, log_slope
        self.measurements += 1

    def convert(self, unit: float) -> None:
        """From here on multiples are told of a step of this size, for example its learning rate; a critical size stays."""
        if not (math.isfinite(unit) and unit > 0):
            return
        shift = math.log(self.unit / unit)
        self.unit = unit
        self.x += shift
        self.x_mean += shift
        self.slope -= shift
        self.slope_mean -= shift

    def state_dict(self) -> dict[str, Any]:
        """Plain numbers and lists."""
        return {name: getattr(self, name) for name in self.__slots__}

    @classmethod
    def from_state(cls, state: Mapping[str, Any]) -> Self:
        """The memory that `state_dict` wrote."""
        return cls(**state)

    def _log(self, slope: float | None) -> float:
        """log|slope|; without one, or with one that is not a descent, the last."""
        return math.log(-slope) if slope is not None and -math.inf < slope < 0 else self.slope

    def _features(self, log_slope: float) -> NDArray[np.float64]:
        return np.array(
            [self.x_change, self.x_mean - self.x, log_slope - self.slope, self.slope_mean - self.slope],
            dtype=np.float64,
        )

    def _weights(self) -> NDArray[np.float64]:
        ridge = _RIDGE * self.products[0] * np.eye(4)
        weights: NDArray[np.float64] = np.linalg.solve(
            np.array(self.gram) + ridge, np.array(self.moment) + ridge @ np.array(_PRIOR)
        )
        return weights

    def _learn_errors(self, x: float, y: float, a: float, a_variance: float) -> None:
        squares = [0, 2, 4]
        worst = _WORST * np.sqrt(np.array(self.products)[squares])
        x, y, a = (float(error) for error in np.clip([x, y, a], -worst, worst))
        new = np.array([x * x, x * y, y * y, x * a, a * a + a_variance])
        rate = max(_SPREAD_RATE, 1 / (self.measurements + 2))
        products = (1 - rate) * np.array(self.products) + rate * new
        products[squares] = np.maximum(products[squares], _LEAST)
        self.products = products.tolist()
