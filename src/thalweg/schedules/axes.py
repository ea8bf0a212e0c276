"""One option of a search space: fixed, free within a range, or one of some choices."""

from __future__ import annotations

import math
from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, ClassVar, TypeAlias

import numpy as np

from thalweg.outcomes import bad_input
from thalweg.schedules.arguments import as_lr, as_peak, as_steps

__all__ = ["Axis", "Choices", "Fixed", "Range", "axis_of"]

Value: TypeAlias = float | int | str

STEPS = frozenset({"warmup", "decay", "decay_until", "cooldown_from", "ramp"})
POSITIONS = frozenset({"decay_until", "cooldown_from"})
MAY_BE_ZERO = frozenset({"final_lr"})
DIGITS = 4  # of a learning rate that a search finds


@dataclass(frozen=True, slots=True)
class Axis(ABC):
    """An option by its name; `at` gives its value at a coordinate in [0, 1], `grid` some coordinates."""

    free: ClassVar[bool] = True
    name: str

    @abstractmethod
    def at(self, u: float, steps: int) -> Value:
        """The value at coordinate u in a run of so many steps."""

    @abstractmethod
    def grid(self, n: int) -> Sequence[float]:
        """Coordinates of n values, or of all where they are counted."""

    def end(self, u: float) -> str:
        """Which end of a range u is on, "lower" or "upper"; "" on neither."""
        return ""


@dataclass(frozen=True, slots=True)
class Fixed(Axis):
    """One value.

    Example:
        >>> print(Fixed("warmup", 0.02).at(0.0, 10_000), Fixed("warmup", 0.02))
        200 warmup=0.02
    """

    free: ClassVar[bool] = False
    value: Value

    def at(self, u: float, steps: int) -> Value:
        return _in_run(self.name, self.value, steps)

    def grid(self, n: int) -> Sequence[float]:
        return (0.0,)

    def __str__(self) -> str:
        return f"{self.name}={self.value!r}"


@dataclass(frozen=True, slots=True)
class Choices(Axis):
    """One of some values, at equal parts of [0, 1].

    Example:
        >>> Choices("shape", ("linear", "sqrt")).at(0.5, 10_000)
        'sqrt'
    """

    values: tuple[Value, ...]

    def at(self, u: float, steps: int) -> Value:
        return _in_run(self.name, self.values[min(int(u * len(self.values)), len(self.values) - 1)], steps)

    def grid(self, n: int) -> Sequence[float]:
        return [(i + 0.5) / len(self.values) for i in range(len(self.values))]

    def __str__(self) -> str:
        return f"{self.name}={list(self.values)!r}"


@dataclass(frozen=True, slots=True)
class Range(Axis):
    """All values from `low` to `high`: learning rates [1], int steps [count], or float shares of the run.

    Example:
        >>> Range("peak_lr", 1e-3, 1e-2).at(0.5, 10_000), Range("warmup", 0.0, 0.1).at(0.5, 10_000)
        (0.003162, 500)
    """

    low: float
    high: float

    def at(self, u: float, steps: int) -> Value:
        value = self.low + u * (self.high - self.low)
        if self.low > 0 and self.name not in POSITIONS:
            value = self.low * (self.high / self.low) ** u
        if self.name not in STEPS:
            if u in (0, 1):
                return self.low if u == 0 else self.high
            return min(max(float(f"{value:.{DIGITS}g}"), self.low), self.high)
        whole = round(value * steps) if isinstance(self.high, float) else round(value)
        return max(whole, 1) if self.name == "decay" else whole

    def grid(self, n: int) -> Sequence[float]:
        return [float(u) for u in np.linspace(0, 1, n)]

    def end(self, u: float) -> str:
        if u < END and self.low > 0:  # nothing lies below 0, so nobody is told to go there
            return "lower"
        return "upper" if u > 1 - END else ""

    def __str__(self) -> str:
        return f"{self.name}=({self.low!r}, {self.high!r})"


END = 1e-3  # a coordinate closer to an end is on it


def axis_of(name: str, given: Any) -> Axis:
    """The axis of an option as a user gives it: a value, a tuple (low, high), or a list of choices.

    Raises:
        ThalwegError: a range whose ends are not two numbers in order or mix steps and shares, an empty list, a value that
            no schedule takes.

    Example:
        >>> axis_of("peak_lr", (1e-3, 1e-2))
        Range(name='peak_lr', low=0.001, high=0.01)
    """
    if isinstance(given, tuple):
        return _range(name, given)
    if isinstance(given, list | np.ndarray):
        if len(given) == 0:
            raise bad_input(name, given, "at least one choice")
        return Choices(name, tuple(_value(name, value) for value in given))
    return Fixed(name, _value(name, given))


def _range(name: str, given: tuple[Any, ...]) -> Range:
    example = {True: "(0.01, 0.1) or (100, 2000)", False: "(1e-3, 1e-2)"}[name in STEPS]
    instead = f"Write for example {name}={example}, or a list for choices"
    if (
        len(given) != 2
        or any(isinstance(end, str) for end in given)
        or (name not in STEPS and not name.endswith("_lr"))
    ):
        raise bad_input(name, given, "two numbers (low, high), a list of choices, or one value", instead)
    low, high = (_value(name, end) for end in given)
    assert not isinstance(low, str) and not isinstance(high, str)
    if isinstance(low, int) != isinstance(high, int):
        raise bad_input(name, given, "two ints of steps or two float shares of the run", instead)
    if not low < high:
        raise bad_input(name, given, "a low end below the high end", instead)
    return Range(name, low, high)


def _value(name: str, given: Any) -> Value:
    value = given.item() if isinstance(given, np.generic) else given
    if name.endswith("_lr"):
        return as_lr(name, value) if name in MAY_BE_ZERO else as_peak(name, value)
    if name not in STEPS:
        return value  # type: ignore[no-any-return]  # the factory checks it
    if isinstance(value, float):
        if not (math.isfinite(value) and 0 <= value < 1):
            instead = f"Write {name}={value:.0f} for steps" if value >= 1 and value.is_integer() else ""
            raise bad_input(name, given, "a share of the run in [0, 1), or an int of steps", instead)
        return value
    return as_steps(name, value, least=0)


def _in_run(name: str, value: Value, steps: int) -> Value:
    """Shares become steps; wsd takes its decay as a share itself."""
    if name in STEPS and name != "decay" and isinstance(value, float):
        return round(value * steps)
    return value
