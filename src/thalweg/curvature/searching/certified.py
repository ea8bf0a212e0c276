"""The search that beats the paper's: every evaluation is placed where the crossing most likely is, and certified all the same.

What is expected (`search_memory.py`) and what was seen give a distribution of log m_c; the next evaluation is the one that
most likely ends the search. The distribution only chooses where to look: outcomes and certificates rest on evaluations
alone, and where it misleads, guards fall back to doubling, halving and bisection.
"""

from __future__ import annotations

import math

from thalweg.curvature.searching.belief import Belief, Expectation, Sighting
from thalweg.curvature.searching.line_search import Bracket, Change, Values, check
from thalweg.curvature.searching.search_memory import SearchMemory
from thalweg.outcomes import Outcome

__all__ = ["search"]

_CAP = 2.0**39  # of the guess or of the first multiple, the larger: as far as the 40 evaluations of Algorithm 1 go
_FLOOR = 2.0**-16  # of the smaller of the two
_LEAP = math.log(8)  # longest stride beyond what was seen [log multiple]
_TRUST = 5  # evaluations on one side of the crossing before strides have to grow
_FINISHES = 3  # of them in one search
_FINISH = 0.4  # probability from which an attempt to end the search is worth an evaluation


def search(
    f: Change,
    *,
    guess: float = 1.0,
    slope: float | None = None,
    tolerance: float = 1 / 16,
    memory: SearchMemory | None = None,
    rounding: float = 0.0,
) -> Bracket:
    """An interval of multiples with its certificate, or the reason why there is none, from about 2 to 4 evaluations.

    Two evaluations are the least: one on each side of the crossing. A tie within rounding says neither fall nor rise: at
    the first multiple it is doubled until the loss speaks (as printed, Algorithm 1 would go down, into more ties), and only
    a fall by more than rounding counts as descent. Where the loss rises, the search goes down to 2^-16 of its guess
    and no farther: below, f is rounding noise, and there Algorithm 1 reports a huge sharpness for a direction that only
    climbs. It finds a crossing; where there are several, not always the first.

    Args:
        f: change of the loss at a multiple of the step; a value that is not finite counts as a rise.
        guess: first multiple [1]; where `memory` has a prediction the search begins there, and the guess only sets how far
            it may go: down to 2^-16 of it, up to 2^39.
        slope: f'(0) up to a factor, or None [loss]. A hint: it never decides an outcome.
        tolerance: 1 − lower/upper at the end [1].
        memory: carries the prediction from one measurement to the next; updated in place where the outcome is OK.
        rounding: a change of the loss no larger than this is no evidence [loss].

    Returns:
        A bracket whose outcome is OK, NOT_DESCENT (lower = 0, upper = smallest multiple seen to rise) or NOT_BRACKETED
        (lower = largest multiple seen, upper = ∞).

    Raises:
        ThalwegError: a guess that is not positive and finite, a tolerance outside (0, 1).

    Example:
        On a parabola, whose crossing lies far from the guess:

        >>> bracket = search(lambda m: m * (m - 30.0), guess=1.0, slope=-30.0)
        >>> bracket.lower <= 30.0 < bracket.upper, bracket.evaluations, bracket.outcome.name
        (True, 5, 'OK')
        >>> search(lambda m: m, guess=1.0).outcome.name
        'NOT_DESCENT'
        >>> search(lambda m: 0.0, guess=1.0).outcome.name
        'NOT_BRACKETED'
    """
    check(guess, tolerance)
    expected = memory.expect(slope) if memory is not None else None
    belief = Belief(expected or _without_memory(guess, slope))
    values = Values(f)
    first = math.exp(expected.x) if expected else guess
    seen = _Seen(values, _FLOOR * min(first, guess), _CAP * max(first, guess), tolerance, rounding)
    values(first)
    while (outcome := seen.outcome()) is None:
        values(seen.next(belief))
    if outcome is Outcome.NOT_DESCENT:
        return values.bracket(0.0, seen.lowest_rise(), outcome)
    if outcome is Outcome.NOT_BRACKETED:
        return values.bracket(max(values.seen), math.inf, outcome)
    lower, upper = seen.ends()
    assert lower is not None and upper is not None
    if memory is not None:
        memory.learn(belief.after(seen.sightings(), math.log(lower), math.log(upper)), slope)
    return values.bracket(lower, upper, outcome)


def _without_memory(guess: float, slope: float | None) -> Expectation:
    """Somewhere within some e-folds of the guess; a parabola, whose k is its slope, where there is one."""
    known = slope is not None and -math.inf < slope < 0
    y = math.log(-slope) if slope is not None and known else 0.0
    return Expectation(math.log(guess), 3.0, y, 0.5 if known else 20.0)


class _Seen:
    """What the evaluations so far prove, and where the next one goes."""

    def __init__(self, values: Values, floor: float, cap: float, tolerance: float, rounding: float) -> None:
        self._values = values
        self._floor = floor
        self._cap = cap
        self._tolerance = tolerance
        self._window = -math.log1p(-tolerance * (1 - 1e-9))  # widest certified interval [log multiple]
        self._rounding = rounding
        self._widths: list[float] = []  # of the interval while it has both ends
        self._finishes = 0  # attempts to end the search
        self._finishing = False  # the next evaluation is one

    def ends(self) -> tuple[float | None, float | None]:
        """The interval: its upper end is the smallest rise above the smallest multiple with evidence of descent."""
        seen = self._values.seen
        falls = [m for m, change in seen.items() if change < -self._rounding]
        if not falls:
            return None, self.lowest_rise() if self._rises() else None
        upper = min((m for m, change in seen.items() if m > min(falls) and change > 0), default=None)
        return max(m for m in seen if upper is None or m < upper), upper

    def lowest_rise(self) -> float:
        """Smallest multiple with evidence of a rise."""
        return min(self._rises())

    def outcome(self) -> Outcome | None:
        """How the search ends, or None while it goes on."""
        lower, upper = self.ends()
        if lower is not None and upper is not None:
            return Outcome.OK if 1 - lower / upper <= self._tolerance else None
        if upper is None:
            return Outcome.NOT_BRACKETED if max(self._values.seen) >= self._cap else None
        done = min(self._values.seen) <= self._floor and self._gap(upper) is None
        return Outcome.NOT_DESCENT if done else None

    def sightings(self) -> list[Sighting]:
        """The evaluations that tell where the crossing is: falls below the interval, rises above it."""
        lower, upper = self.ends()
        return [
            Sighting(math.log(m), change / m, self._rounding / abs(change))
            for m, change in self._values.seen.items()
            if math.isfinite(change / m)
            and ((change < 0 and lower is not None and m <= lower) or (change > 0 and upper is not None and m >= upper))
        ]

    def next(self, belief: Belief) -> float:
        """The next multiple to evaluate."""
        lower, upper = self.ends()
        if lower is None:
            return self._descend(belief, upper)
        if upper is None:
            there = self._best(belief, math.log(lower), None)
            reach = math.log(lower) + max(self._window, self._stride())
            return min(math.exp(min(max(there, reach), math.log(lower) + _LEAP)), self._cap)
        return self._interpolate(belief, math.log(lower), math.log(upper))

    def _descend(self, belief: Belief, upper: float | None) -> float:
        """No fall was seen: up while there are only ties; down from a rise, and by halves below a tie."""
        seen = self._values.seen
        if upper is None:
            return min(2 * max(seen), self._cap)
        if (gap := self._gap(upper)) is not None:
            return gap
        if any(m < upper for m in seen):
            there = math.log(min(seen) / 2)
        else:
            there = self._best(belief, None, math.log(upper))
            reach = math.log(upper) - max(self._window, self._stride())
            there = max(min(there, reach), math.log(upper) - _LEAP)
        return max(math.exp(there), self._floor)

    def _interpolate(self, belief: Belief, lower: float, upper: float) -> float:
        """Inside the interval, not too close to its ends; its middle where two evaluations have not halved it."""
        width = upper - lower
        self._widths.append(width)
        there = self._best(belief, lower, upper)
        if not self._finishing and len(self._widths) > 2 and width > 0.5 * self._widths[-3]:
            return math.exp(0.5 * (lower + upper))
        margin = min(0.25 * self._window, 0.25 * width)
        return math.exp(min(max(there, lower + margin), upper - margin))

    def _best(self, belief: Belief, lower: float | None, upper: float | None) -> float:
        """The log multiple that ends the search at once if that is likely; otherwise the middle of the belief."""
        crossing = belief.crossing(self.sightings(), lower, upper)
        tries = []
        if lower is not None:
            tries.append((crossing.below(lower + self._window), lower + self._window))
        if upper is not None:
            tries.append((1 - crossing.below(upper - self._window), upper - self._window))
        probability, there = max(tries)
        if probability >= _FINISH and self._finishes < _FINISHES:
            self._finishes += 1
            self._finishing = True
            return there
        self._finishing = False
        return crossing.median

    def _stride(self) -> float:
        """The least stride beyond what was seen: grows where the belief has been wrong several times."""
        return 0.0 if self._finishing else min(max(0, len(self._values.seen) - _TRUST) * math.log(2), _LEAP)

    def _gap(self, upper: float) -> float | None:
        """Between the lowest rise and the highest tie below it, where they are more than an octave apart."""
        below = max((m for m in self._values.seen if m < upper), default=None)
        return math.sqrt(below * upper) if below is not None and upper / below > 2 * (1 + 1e-9) else None

    def _rises(self) -> list[float]:
        return [m for m, change in self._values.seen.items() if change > self._rounding]
