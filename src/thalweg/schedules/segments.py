"""Six shapes with closed-form integrals, of which schedules are made.

Every segment lives in its own time u ∈ [0, steps], x = u/steps, and runs from `start_lr` (h₀) to `end_lr` (h₁); a piece
may be cut at both sides, so that only u ∈ [first, last] is played. All shapes are monotone and hit both ends exactly.
"""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from dataclasses import dataclass, replace
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

__all__ = ["SHAPES", "Constant", "Cosine", "Exponential", "Linear", "Polynomial", "Segment", "Sqrt"]

Floats: TypeAlias = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class Segment(ABC):
    """One closed-form piece. `steps` [count] is the length of the uncut shape, `cut` the steps left out at both sides.

    `integral`, `square_integral` and `roughness` take own times first ≤ u0 ≤ u1 ≤ last and integrate over them exactly.
    """

    steps: int
    start_lr: float
    end_lr: float
    cut: tuple[int, int] = (0, 0)

    @property
    def first(self) -> int:
        """Own time at which the piece begins."""
        return self.cut[0]

    @property
    def last(self) -> int:
        """Own time at which the piece ends."""
        return self.steps - self.cut[1]

    @property
    def length(self) -> int:
        """Steps played [count]."""
        return self.last - self.first

    @property
    def first_lr(self) -> float:
        """Learning rate at the beginning."""
        return self.lr_at(self.first)

    @property
    def last_lr(self) -> float:
        """Learning rate that is approached at the end."""
        return self.lr_at(self.last)

    @property
    def rough_start(self) -> bool:
        """Whether ∫(η')² diverges at the beginning."""
        return False

    @property
    def rough_end(self) -> bool:
        """Whether ∫(η')² diverges at the end."""
        return False

    def lr_at(self, u: float) -> float:
        """Learning rate at one own time, with the same bits as in an array; every shape hits both ends exactly."""
        if u == 0:
            return self.start_lr
        if u == self.steps:
            return self.end_lr
        return float(self.lr(np.array([u], dtype=np.float64))[0])

    def peak(self, u0: float, u1: float) -> float:
        """Largest learning rate over [u0, u1]: shapes are monotone, so one of the ends has it."""
        return max(self.lr_at(u0), self.lr_at(u1))

    def trimmed(self, front: int, back: int) -> Segment:
        """The same curve without its first and last steps."""
        return replace(self, cut=(self.cut[0] + front, self.cut[1] + back))

    @abstractmethod
    def lr(self, u: Floats) -> Floats:
        """Learning rates [1] at own times u, an array of shape (n,)."""

    @abstractmethod
    def integral(self, u0: float, u1: float) -> float:
        """∫η [steps]."""

    @abstractmethod
    def square_integral(self, u0: float, u1: float) -> float:
        """∫η² [steps]."""

    @abstractmethod
    def roughness(self, u0: float, u1: float) -> float:
        """∫(η')² [1/steps]."""


class Constant(Segment):
    """η = h₀.

    Example:
        >>> Constant(10, 0.5, 0.5).integral(0, 4)
        2.0
    """

    __slots__ = ()

    def lr(self, u: Floats) -> Floats:
        return np.full(u.shape, self.start_lr)

    def integral(self, u0: float, u1: float) -> float:
        return self.start_lr * (u1 - u0)

    def square_integral(self, u0: float, u1: float) -> float:
        return self.start_lr**2 * (u1 - u0)

    def roughness(self, u0: float, u1: float) -> float:
        return 0.0


class Linear(Segment):
    """η = h₀(1 − x) + h₁x.

    Example:
        >>> Linear(10, 0.0, 1.0).integral(0, 10), Linear(10, 0.0, 1.0).roughness(0, 10)
        (5.0, 0.1)
    """

    __slots__ = ()

    def lr(self, u: Floats) -> Floats:
        x = u / self.steps
        return self.start_lr * (1 - x) + self.end_lr * x

    def _ends(self, u0: float, u1: float) -> tuple[float, float]:
        x0, x1 = u0 / self.steps, u1 / self.steps
        return self.start_lr * (1 - x0) + self.end_lr * x0, self.start_lr * (1 - x1) + self.end_lr * x1

    def integral(self, u0: float, u1: float) -> float:
        y0, y1 = self._ends(u0, u1)
        return (u1 - u0) * (y0 + y1) / 2

    def square_integral(self, u0: float, u1: float) -> float:
        y0, y1 = self._ends(u0, u1)
        return (u1 - u0) * (y0 * y0 + y0 * y1 + y1 * y1) / 3

    def roughness(self, u0: float, u1: float) -> float:
        return (u1 - u0) * (self.end_lr - self.start_lr) ** 2 / self.steps / self.steps


class Cosine(Segment):
    """η = h₀g + h₁(1 − g) with g = (1 + cos πx)/2, that is m + c·cos πx with mean m and amplitude c.

    Example:
        >>> Cosine(10, 1.0, 0.0).integral(0, 10)
        5.0
    """

    __slots__ = ()

    def lr(self, u: Floats) -> Floats:
        g = (1 + np.cos(np.pi * (u / self.steps))) / 2
        return self.start_lr * g + self.end_lr * (1 - g)

    def _parts(self, u0: float, u1: float) -> tuple[float, float, float, float]:
        # m, c, ∫cos πx du and ∫cos 2πx du; differences of sines as products, exact on short intervals
        middle, half = math.pi * (u0 + u1) / (2 * self.steps), math.pi * (u1 - u0) / (2 * self.steps)
        waves = 2 * self.steps / math.pi * math.cos(middle) * math.sin(half)
        ripples = self.steps / math.pi * math.cos(2 * middle) * math.sin(2 * half)
        return (self.start_lr + self.end_lr) / 2, (self.start_lr - self.end_lr) / 2, waves, ripples

    def integral(self, u0: float, u1: float) -> float:
        m, c, waves, _ = self._parts(u0, u1)
        return m * (u1 - u0) + c * waves

    def square_integral(self, u0: float, u1: float) -> float:
        m, c, waves, ripples = self._parts(u0, u1)
        return m * m * (u1 - u0) + 2 * m * c * waves + c * c * (u1 - u0 + ripples) / 2

    def roughness(self, u0: float, u1: float) -> float:
        _, c, _, ripples = self._parts(u0, u1)
        return (c * math.pi / self.steps) ** 2 * (u1 - u0 - ripples) / 2


class Sqrt(Segment):
    """The 1−sqrt decay: η = h₀(1 − √x) + h₁√x. Its squared slope ~ 1/u has no finite integral at u = 0.

    Source: Hägele et al. 2024, "Scaling laws and compute-optimal training beyond fixed training durations".

    Example:
        >>> round(Sqrt(9, 1.0, 0.0).integral(0, 9), 12)
        3.0
    """

    __slots__ = ()

    @property
    def rough_start(self) -> bool:
        return self.first == 0 and self.start_lr != self.end_lr

    def lr(self, u: Floats) -> Floats:
        root = np.sqrt(u / self.steps)
        return self.start_lr * (1 - root) + self.end_lr * root

    def _roots(self, u0: float, u1: float) -> float:
        return 2 / 3 * (u1 * math.sqrt(u1 / self.steps) - u0 * math.sqrt(u0 / self.steps))  # ∫√x du

    def integral(self, u0: float, u1: float) -> float:
        return self.start_lr * (u1 - u0) + (self.end_lr - self.start_lr) * self._roots(u0, u1)

    def square_integral(self, u0: float, u1: float) -> float:
        d = self.end_lr - self.start_lr
        ramp = (u1 - u0) * (u1 + u0) / (2 * self.steps)  # ∫x du
        return self.start_lr**2 * (u1 - u0) + 2 * self.start_lr * d * self._roots(u0, u1) + d * d * ramp

    def roughness(self, u0: float, u1: float) -> float:
        d = self.end_lr - self.start_lr
        if d == 0:
            return 0.0
        return d * d / (4 * self.steps) * math.log(u1 / u0) if u0 > 0 else math.inf


class Exponential(Segment):
    """η = h₀^(1−x) h₁^x: a straight line in log η; both ends above 0.

    Example:
        >>> Exponential(2, 4.0, 1.0).lr_at(1)
        2.0
    """

    __slots__ = ()

    def lr(self, u: Floats) -> Floats:
        x = u / self.steps
        return np.asarray(np.power(self.start_lr, 1 - x) * np.power(self.end_lr, x))

    def _power_integral(self, power: float, u0: float, u1: float) -> float:
        rate = power * math.log(self.end_lr / self.start_lr) / self.steps
        z = rate * (u1 - u0)
        growth = math.expm1(z) / z if z else 1.0
        return float(self.start_lr**power) * math.exp(rate * u0) * (u1 - u0) * growth

    def integral(self, u0: float, u1: float) -> float:
        return self._power_integral(1, u0, u1)

    def square_integral(self, u0: float, u1: float) -> float:
        return self._power_integral(2, u0, u1)

    def roughness(self, u0: float, u1: float) -> float:
        return (math.log(self.end_lr / self.start_lr) / self.steps) ** 2 * self._power_integral(2, u0, u1)


@dataclass(frozen=True, slots=True)
class Polynomial(Segment):
    """η = h₀y^p + h₁(1 − y^p), y = 1 − x. For p ≤ ½ the squared slope has no finite integral at the end.

    Example:
        >>> Polynomial(10, 1.0, 0.0, power=2.0).lr_at(5)
        0.25
    """

    power: float = 1.0

    @property
    def rough_end(self) -> bool:
        return self.power <= 0.5 and self.cut[1] == 0 and self.start_lr != self.end_lr

    def lr(self, u: Floats) -> Floats:
        g = np.power(1 - u / self.steps, self.power)
        return np.asarray(self.start_lr * g + self.end_lr * (1 - g))

    def _moment(self, exponent: float, u0: float, u1: float) -> float:
        # ∫ y^exponent du; diverges at y = 0 for exponents of −1 and less
        y0, y1 = 1 - u0 / self.steps, 1 - u1 / self.steps
        if y1 == 0 and exponent <= -1:
            return math.inf
        q = exponent + 1
        return self.steps * (math.log(y0 / y1) if q == 0 else (y0**q - y1**q) / q)

    def integral(self, u0: float, u1: float) -> float:
        return self.end_lr * (u1 - u0) + (self.start_lr - self.end_lr) * self._moment(self.power, u0, u1)

    def square_integral(self, u0: float, u1: float) -> float:
        c = self.start_lr - self.end_lr
        cross = 2 * self.end_lr * c * self._moment(self.power, u0, u1)
        return self.end_lr**2 * (u1 - u0) + cross + c * c * self._moment(2 * self.power, u0, u1)

    def roughness(self, u0: float, u1: float) -> float:
        c = self.start_lr - self.end_lr
        return (c * self.power / self.steps) ** 2 * self._moment(2 * self.power - 2, u0, u1) if c else 0.0


SHAPES: dict[str, type[Segment]] = {
    "constant": Constant,
    "linear": Linear,
    "cosine": Cosine,
    "sqrt": Sqrt,
    "exponential": Exponential,
    "polynomial": Polynomial,
}
