"""Counts as people write and read them: 100B, 2k, 4.19M."""

from __future__ import annotations

import re

from thalweg.outcomes import bad_input

__all__ = ["format_count", "format_lr", "parse_count"]

_SUFFIXES = {"": 1.0, "k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}
_COUNT = re.compile(r"([+-]?(?:\d[\d_]*\.?\d*|\.\d+)(?:e[+-]?\d+)?)\s*([kmbgt]?)", re.IGNORECASE)


def parse_count(text: str | float) -> float:
    """Read a raw count [count] from text with an optional decimal suffix k, M, B (or G), T.

    Raises:
        ThalwegError: the text is not a number with such a suffix.

    Example:
        >>> parse_count("100B"), parse_count("2k"), parse_count("4.05e9")
        (100000000000.0, 2000.0, 4050000000.0)
    """
    if isinstance(text, int | float):
        return float(text)
    match = _COUNT.fullmatch(text.strip())
    if match is None:
        raise bad_input(
            "count", text, "a number with an optional suffix k, M, B or T", "Write for example 100B or 1e11"
        )
    return float(match[1].replace("_", "")) * _SUFFIXES[match[2].lower()]


def format_count(value: float) -> str:
    """Three significant digits and a suffix, the inverse of `parse_count` to rounding.

    Example:
        >>> format_count(4194304), format_count(100e9), format_count(512)
        ('4.19M', '100B', '512')
    """
    for size, suffix in ((1e12, "T"), (1e9, "B"), (1e6, "M"), (1e3, "k")):
        if abs(value) >= 0.9995 * size:
            return f"{value / size:.3g}{suffix}"
    return f"{value:.3g}"


def format_lr(value: float) -> str:
    """A learning rate [1] with two to three significant digits, in the notation of training configs.

    Example:
        >>> format_lr(0.003), format_lr(1.25e-05)
        ('3e-3', '1.25e-5')
    """
    if value == 0:
        return "0"
    mantissa, exponent = f"{value:.2e}".split("e")
    return f"{mantissa.rstrip('0').rstrip('.')}e{int(exponent)}"
