"""Where along an update does the loss come back to where it began? Algorithms 1 and 2, and what certifies an answer.

Everything is told in multiples m of the applied step and asks only for f(m) = L(θ + m·d) - L(θ). No tensors here.
"""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass

from thalweg.outcomes import Outcome, bad_input

__all__ = ["Bracket", "Change", "Values", "bisect", "check", "paper_search"]

Change = Callable[[float], float]

_EVALUATIONS = 40  # N_max of Algorithm 1


@dataclass(frozen=True, slots=True)
class Bracket:
    """An interval of multiples that holds a crossing, and what it rests on.

    Attributes:
        lower: largest multiple known not to raise the loss [1].
        upper: smallest multiple known to raise it [1].
        centre: (lower + upper) / 2 [1].
        evaluations: calls of f [count].
        wall: the loss is not finite at `upper`.
        outcome: OK where the certificate holds: f(lower) ≤ 0, f < 0 at an evaluated multiple ≤ lower, f(upper) > 0 or not
            finite, 1 - lower/upper ≤ tolerance.
    """

    lower: float
    upper: float
    centre: float
    evaluations: int
    wall: bool
    outcome: Outcome


class Values:
    """f with its evaluations written down; a loss that is not finite is a rise."""

    def __init__(self, f: Change) -> None:
        self._f = f
        self.seen: dict[float, float] = {}

    def __call__(self, m: float) -> float:
        if m not in self.seen:
            value = self._f(m)
            self.seen[m] = value if math.isfinite(value) else math.inf
        return self.seen[m]

    def bracket(self, lower: float, upper: float, outcome: Outcome) -> Bracket:
        """The answer between two ends."""
        wall = self.seen.get(upper) == math.inf
        return Bracket(lower, upper, 0.5 * (lower + upper), len(self.seen), wall, outcome)


def paper_search(f: Change, *, guess: float = 1.0, tolerance: float = 1 / 16) -> Bracket:
    """The line search as the paper prints it: doubling or halving from a guess, then bisection.

    The comparisons are strict as printed, so a tie f = 0 at the guess sends the search down; where the doubling meets its
    limit of 40 evaluations the interval is [η, η]. The outcome says whether the certificate of `Bracket` holds.

    Args:
        f: change of the loss at a multiple of the step; a value that is not finite counts as a rise.
        guess: first multiple [1]; the centre of the previous measurement is a good one.
        tolerance: 1 - lower/upper at the end [1].

    Raises:
        ThalwegError: a guess that is not positive and finite, a tolerance outside (0, 1).

    Source: critical-sharpness paper, appendix A, Algorithms 1 and 2.

    Example:
        >>> bracket = paper_search(lambda m: m * (m - 3.0), guess=1.0)
        >>> bracket.lower, bracket.upper, bracket.evaluations, bracket.outcome.name
        (3.0, 3.125, 7, 'OK')
    """
    check(guess, tolerance)
    values = Values(f)
    lower, upper = bisect(values, *_exponential(values, guess), tolerance)
    fell = any(change < 0 for m, change in values.seen.items() if m <= lower)
    rose = any(change > 0 for change in values.seen.values())
    if fell and values(upper) > 0:
        return values.bracket(lower, upper, Outcome.OK)
    return values.bracket(lower, upper, Outcome.NOT_DESCENT if rose and not fell else Outcome.NOT_BRACKETED)


def _exponential(f: Change, guess: float) -> tuple[float, float]:
    """Algorithm 1: the interval [m, 2m], or [m, m] where the limit of evaluations is met first."""
    m, i = guess, 1
    up = f(m) < 0
    while i < _EVALUATIONS:
        m = 2 * m if up else m / 2
        change = f(m)
        i += 1
        if up and change > 0:
            return m / 2, m
        if not up and change < 0:
            return m, 2 * m
    return m, m


def bisect(f: Change, lower: float, upper: float, tolerance: float) -> tuple[float, float]:
    """Algorithm 2: bisection until |1 - lower/upper| ≤ tolerance."""
    while abs(1 - lower / upper) > tolerance:
        middle = 0.5 * (lower + upper)
        if f(middle) > 0:
            upper = middle
        else:
            lower = middle
    return lower, upper


def check(guess: float, tolerance: float) -> None:
    """Refuse a guess or a tolerance that no search can use."""
    if not (math.isfinite(guess) and guess > 0):
        raise bad_input("guess", guess, "a positive finite multiple of the step", "Write guess=1.0")
    if not 0 < tolerance < 1:
        raise bad_input("tolerance", tolerance, "a number between 0 and 1", "Write tolerance=1/16")
