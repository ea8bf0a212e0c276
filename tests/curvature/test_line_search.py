from __future__ import annotations

import ast
import inspect
import math

import numpy as np
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from tests.reference import paper_line_search as printed
from thalweg.curvature import line_search
from thalweg.curvature.line_search import Bracket, certified_search, paper_search
from thalweg.outcomes import Outcome, ThalwegError


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
    assert not values[bracket.upper] <= 0
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


@given(shape=shapes, crossing=crossings, guess=crossings, tolerance=tolerances)
@example(shape=lambda u: u * (u - 1), crossing=1.0, guess=1.0, tolerance=1 / 16)  # a tie at the guess
@example(shape=lambda u: u * (u - 1), crossing=4.0, guess=1.0, tolerance=1 / 16)  # a tie at a doubling
@example(shape=lambda u: u, crossing=1.0, guess=1.0, tolerance=1 / 16)  # climbs
@example(shape=lambda u: -u, crossing=1.0, guess=1.0, tolerance=1 / 16)  # never rises
def test_paper_search_is_the_printed_algorithm(shape, crossing, guess, tolerance):
    start = 2.0  # a loss before the step: a power of two, so that comparing losses is comparing changes
    f = Counted(lambda m: np.float64(start + shape(m / crossing)) - start)
    bracket = paper_search(f, guess=guess, tolerance=tolerance)
    asked = []

    def compute_loss(m):
        asked.append(m)
        return f.f(m) + start

    interval = printed.exponential_search(compute_loss, start, guess)
    assert (bracket.lower, bracket.upper) == printed.binary_search(compute_loss, start, interval, tolerance)
    assert f.asked == asked
    assert bracket.evaluations == len(asked)
    if bracket.outcome is Outcome.OK:
        assert_certified(bracket, f, tolerance)


@given(shape=shapes, crossing=crossings, offset=st.floats(-15, 15), tolerance=tolerances)
def test_certified_search_finds_a_crossing(shape, crossing, offset, tolerance):
    f = Counted(lambda m: shape(m / crossing))
    bracket = certified_search(f, guess=crossing * 2**offset, tolerance=tolerance)
    assert bracket.outcome is Outcome.OK
    assert_certified(bracket, f, tolerance)


@given(
    crossing=crossings, offset=st.floats(-20, 8), scale=st.floats(-4, 0), loss=st.floats(0.5, 8.0), tolerance=tolerances
)
def test_certified_search_under_float32_rounding(crossing, offset, scale, loss, tolerance):
    """Losses in float32, depth of the valley from 1e-4 of the loss up: rounding neither misleads nor stops the search."""
    loss = float(np.float32(loss))
    rounding = 4 * np.finfo(np.float32).eps * loss

    def change(m):
        u = m / crossing
        return float(np.float32(loss + loss * 10**scale * u * (u - 1))) - loss

    f = Counted(change)
    bracket = certified_search(f, guess=crossing * 2**offset, tolerance=tolerance, rounding=rounding)
    assert bracket.outcome is Outcome.OK
    assert_certified(bracket, f, tolerance, rounding)
    blur = 1 + 2 * rounding / (loss * 10**scale)
    assert bracket.lower / blur <= crossing <= bracket.upper * blur


@given(guess=crossings, slope=crossings, tolerance=tolerances)
def test_a_climb_in_float32_is_not_descent(guess, slope, tolerance):
    """Bit-equal losses at small multiples are ties; Algorithm 1 as printed ends among them."""
    loss = np.float32(2.3)
    f = Counted(lambda m: float(loss + np.float32(min(slope * m, 1e30))) - float(loss))
    bracket = certified_search(f, guess=guess, tolerance=tolerance, rounding=4 * np.finfo(np.float32).eps * 2.3)
    assert bracket.outcome is Outcome.NOT_DESCENT
    assert bracket.lower == 0.0
    assert f.f(bracket.upper) > 0
    assert min(f.asked) >= guess * 2.0**-16


def test_noise_misleads_the_printed_algorithm_but_not_the_certificate():
    """A direction that climbs, with rounding noise of ± 1e-7 around it."""

    def f(m):
        return m + 1e-7 * math.sin(1e9 * m)

    misled = paper_search(f, guess=1.0)
    assert misled.outcome is Outcome.OK
    assert misled.centre < 1e-6
    assert certified_search(f, guess=1.0, rounding=4e-7).outcome is Outcome.NOT_DESCENT


@pytest.mark.parametrize("search", [paper_search, certified_search])
def test_outcomes_without_a_crossing(search):
    assert search(lambda m: m, guess=1.0).outcome is Outcome.NOT_DESCENT
    assert search(lambda m: -m, guess=1.0).outcome is Outcome.NOT_BRACKETED
    assert search(lambda m: 0.0, guess=1.0).outcome is Outcome.NOT_BRACKETED
    assert search(lambda m: math.nan, guess=1.0).outcome is Outcome.NOT_DESCENT


def test_a_fall_without_end_leaves_an_open_interval():
    bracket = certified_search(lambda m: -m, guess=1.0)
    assert (bracket.lower, bracket.upper, bracket.evaluations) == (2.0**39, math.inf, 40)


def test_a_flat_loss_spends_no_more_than_the_limit():
    assert certified_search(lambda m: 0.0, guess=1.0).evaluations == 40


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_wall(value):
    f = Counted(lambda m: -m if m < 3 else value)
    bracket = paper_search(f, guess=1.0)
    assert bracket.outcome is Outcome.OK
    assert bracket.wall
    assert bracket.lower < 3 <= bracket.upper
    assert certified_search(f.f, guess=1.0) == bracket


def test_a_tie_is_not_a_rise():
    """f = 0 on all of [1, 3): the crossing is at 3, where f first rises."""

    def f(m):
        return m * (m - 1) if m < 1 else max(0.0, m - 3)

    bracket = certified_search(f, guess=0.25, tolerance=1 / 64)
    assert bracket.lower <= 3 < bracket.upper
    again = certified_search(f, guess=2.0, tolerance=1 / 64)  # the guess itself is a tie
    assert again.outcome is Outcome.OK
    assert again.lower <= 3 < again.upper


def test_cost_from_a_good_guess_is_that_of_the_paper():
    """A guess within a factor of two: one doubling or halving and four bisections."""
    for crossing in (0.55, 0.9, 1.1, 1.9):
        assert 5 <= certified_search(lambda m, c=crossing: m * (m - c), guess=1.0).evaluations <= 6


@pytest.mark.parametrize("search", [paper_search, certified_search])
@pytest.mark.parametrize("options", [{"guess": 0.0}, {"guess": math.inf}, {"guess": 1.0, "tolerance": 1.0}])
def test_bad_input(search, options):
    with pytest.raises(ThalwegError, match="Write"):
        search(lambda m: m, **options)


def test_no_torch_inside():
    modules = {
        node.module for node in ast.walk(ast.parse(inspect.getsource(line_search))) if isinstance(node, ast.ImportFrom)
    }
    names = {
        a.name
        for node in ast.walk(ast.parse(inspect.getsource(line_search)))
        if isinstance(node, ast.Import)
        for a in node.names
    }
    assert modules | names == {"__future__", "collections.abc", "dataclasses", "thalweg.outcomes", "math"}
