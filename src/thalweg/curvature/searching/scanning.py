"""An earlier crossing than the one that was found: a grid below it shows where the loss has risen before.

A line search ends at a crossing. Along most steps it is the only one; where the loss rises, falls again and rises again, the
critical learning rate is the first of them by definition, and only evaluations below the found one can tell.
"""

from __future__ import annotations

import math
from dataclasses import replace

from thalweg.curvature.searching.line_search import Bracket, Change, Values, bisect, check
from thalweg.outcomes import Outcome

__all__ = ["scan_below"]

_OCTAVES = 10  # below the found crossing that are looked at
_FLOOR = 16  # octaves to which a rise is followed down, as far as a search goes
_CLEAR = 8  # roundings: a change of the loss below them is noise, which rises as often as it falls
_SURE = 3.0  # times the noise: the same for noise that was not told


def scan_below(f: Change, found: Bracket, *, tolerance: float = 1 / 16, rounding: float = 0.0) -> Bracket:
    """The smallest crossing that a grid of octaves below a certified one shows, certified by the same rule; or that one.

    Evaluates f at lower/2, lower/4, … down to lower/1024, or until two in a row are lost in rounding: at most 10 evaluations.
    Below the smallest multiple where the loss has risen, the interval between the last fall and this rise is bisected, at most
    4 evaluations for a tolerance of 1/16. Where there was no fall below it down to 2^-16 of the found crossing, the loss
    climbs from the start, and the outcome says so.

    A loss can be noisier than its rounding: bfloat16 products, as they change with the weights, add noise that grows like √m
    and drowns f where m is small. So where something has risen, three evaluations at the floor, from 2^-14 to 2^-16 of the
    found crossing, tell how far f is from a straight line there, and a rise has to stand out of that. (Where noise drowns the
    lower half of the grid, one scan in 16 is still misled: test_scanning.py.)

    It finds every rise that lasts an octave (from some m to 2m) or longer within these ten octaves and stands out of noise, so
    that the answer is below each of them. A shorter rise is found where it happens to lie on the grid, one farther down not
    at all.

    Args:
        f: change of the loss at a multiple of the step, the one that was searched.
        found: the answer of a search; one whose outcome is not OK is given back as it is.
        tolerance: 1 - lower/upper at the end [1].
        rounding: as in `search`; only a rise by more than eight of it is followed [loss].

    Returns:
        A bracket with the evaluations of both [count]; outcome OK, or NOT_DESCENT (lower = 0, upper = smallest multiple seen to
        rise).

    Raises:
        ThalwegError: a tolerance outside (0, 1).

    Source: critical-sharpness paper, Definition 2.1: the minimum over all learning rates that raise the loss.

    Example:
        Crossings at 1, 3 and 20, and a search that has found the last.

        >>> f = lambda m: m * (m - 1.0) * (m - 3.0) * (m - 20.0)
        >>> first = scan_below(f, Bracket(19.5, 20.5, 20.0, 3, False, Outcome.OK))
        >>> first.lower <= 1.0 < first.upper, first.evaluations
        (True, 20)
    """
    check(1.0, tolerance)
    if found.outcome is not Outcome.OK:
        return found
    values = Values(f)
    rise = _lowest_rise(values, found.lower, _CLEAR * rounding)
    if rise is None:
        return replace(found, evaluations=found.evaluations + len(values.seen))
    falls = [m for m, change in values.seen.items() if m < rise and change < -rounding]
    if falls:
        upper = min(m for m, change in values.seen.items() if m > max(falls) and change > 0)
        lower = max(m for m in values.seen if m < upper)
        earlier = values.bracket(*bisect(values, lower, upper, tolerance), Outcome.OK)
    else:
        earlier = values.bracket(0.0, rise, Outcome.NOT_DESCENT)
    return replace(earlier, evaluations=found.evaluations + len(values.seen))


def _lowest_rise(values: Values, top: float, clear: float) -> float | None:
    """The smallest of the octaves below `top` with a rise that stands out of rounding and noise, or None."""
    rises: list[float] = []
    ties = 0
    for octave in range(1, _FLOOR + 1):
        m = top / 2**octave
        if octave > _OCTAVES and 2 * m not in rises:
            break
        if values(m) > clear:
            rises.append(m)
        ties = ties + 1 if abs(values(m)) <= clear else 0
        if ties == 2:
            break
    if not rises:
        return None
    noise = _SURE * _noise(values, top / 2**_FLOOR, clear)
    sure = [m for m in rises if m >= top / 2**_OCTAVES and values(m) > noise * math.sqrt(m)]
    if not sure:
        return None
    lowest = min(sure)
    while lowest / 2 in rises:  # the same rise, farther down
        lowest /= 2
    return lowest


def _noise(values: Values, least: float, clear: float) -> float:
    """Noise of f over √m, from three octaves so small that f is a straight line but for noise; 0 within rounding.

    Of noise with a variance in proportion to m, f(2m) - 2f(m) has 2 + 4 times the variance that f(m) has.
    """
    kinks = {m: abs(values(2 * m) - 2 * values(m)) for m in (least, 2 * least)}
    return max(kink / math.sqrt(6 * m) if kink > clear else 0.0 for m, kink in kinks.items())
