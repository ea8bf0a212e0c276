"""What every schedule and budget asks of its numbers: learning rates ≥ 0, step counts that are whole."""

from __future__ import annotations

import math
import operator
from typing import SupportsFloat

from thalweg.outcomes import bad_input

__all__ = ["as_lr", "as_peak", "as_positive", "as_steps"]


def _number(name: str, value: object, expected: str) -> float:
    # a bool is an int to Python and a slip to a person; text must not be read as a number by accident
    if isinstance(value, bool | str | bytes) or not isinstance(value, SupportsFloat):
        raise bad_input(name, value, expected)
    number = float(value)
    if not math.isfinite(number):
        raise bad_input(name, value, expected)
    return number + 0.0  # -0.0 and 0.0 are one learning rate


def as_lr(name: str, value: object) -> float:
    """A learning rate [1]: finite, at least 0.

    Raises:
        ThalwegError: anything else.

    Example:
        >>> as_lr("final_lr", 0)
        0.0
    """
    number = _number(name, value, "a learning rate, a finite number of at least 0")
    if number < 0:
        raise bad_input(name, value, "a learning rate of at least 0", f"Write for example {name}={-number!r}")
    return number


def as_peak(name: str, value: object) -> float:
    """A learning rate [1] that training can be done with: finite, above 0.

    Raises:
        ThalwegError: anything else.

    Example:
        >>> as_peak("peak_lr", 1)
        1.0
    """
    number = as_lr(name, value)
    if number == 0:
        raise bad_input(name, value, "a learning rate above 0", f"Write for example {name}=3e-4")
    return number


def as_positive(name: str, value: object) -> float:
    """A raw count or power: finite, above 0.

    Raises:
        ThalwegError: anything else.

    Example:
        >>> as_positive("tokens", 100e9)
        100000000000.0
    """
    expected = "a finite number above 0"
    number = _number(name, value, expected)
    if number <= 0:
        raise bad_input(name, value, expected)
    return number


def as_steps(name: str, value: object, *, least: int = 1, most: int | None = None, limit: str = "") -> int:
    """A whole number of optimizer steps [count] between `least` and `most`; `limit` says what `most` is.

    Raises:
        ThalwegError: not a whole number, or outside the bounds.

    Example:
        >>> as_steps("steps", 10_000)
        10000
    """
    expected = f"a whole number of steps, at least {least}"
    if most is not None:
        expected += f" and at most {most}" + (f" ({limit})" if limit else "")
    try:
        if isinstance(value, bool):
            raise TypeError
        steps = operator.index(value)  # type: ignore[arg-type]  # any integer type, NumPy's too; others raise
    except TypeError:
        whole = isinstance(value, float) and value.is_integer() and least <= value
        raise bad_input(name, value, expected, f"Write {name}={int(value):d}" if whole else "") from None  # type: ignore[call-overload]
    if steps < least or (most is not None and steps > most):
        raise bad_input(name, value, expected)
    return steps
