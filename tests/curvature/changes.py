"""Changes of a loss with known crossings, and what a certificate has to stand for."""

from __future__ import annotations

import math

from hypothesis import strategies as st

from thalweg.curvature import Bracket


class Counted:
    """f with a record of where it was asked."""

    def __init__(self, f):
        self.f, self.asked = f, []

    def __call__(self, m):
        self.asked.append(m)
        return self.f(m)

    def values(self):
        return {m: self.f(m) for m in self.asked}


def assert_certified(bracket: Bracket, f: Counted, tolerance: float, rounding: float = 0.0) -> None:
    values = f.values()
    assert values[bracket.lower] <= 0
    assert any(value < -rounding for m, value in values.items() if m <= bracket.lower)
    assert values[bracket.upper] > 0 or not math.isfinite(values[bracket.upper])
    assert 1 - bracket.lower / bracket.upper <= tolerance
    assert bracket.wall == (not math.isfinite(values[bracket.upper]))
    assert bracket.centre == (bracket.lower + bracket.upper) / 2
    assert bracket.evaluations == len(f.asked) == len(set(f.asked))


crossings = st.floats(-6, 6).map(lambda e: 10.0**e)
tolerances = st.sampled_from([1 / 4, 1 / 16, 1 / 64])
# changes of loss with a known first crossing c: quadratic, steeper, flat-bottomed, wavy beyond it, stepped
shapes = st.sampled_from(
    [
        lambda u: u * (u - 1),
        lambda u: math.expm1(min(3 * u, 600)) - u * math.expm1(3),
        lambda u: u**6 - u,
        lambda u: math.sin(math.pi * (u + 1)) if u < 2.5 else 1.0,
        lambda u: math.floor(8 * u * (u - 1)),
        lambda u: -u if u < 1 else math.inf,
    ]
)
