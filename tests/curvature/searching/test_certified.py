"""The certified search: every guarantee of its bracket, on changes with known crossings, with and without a memory."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.curvature.changes import Counted, assert_certified, crossings, shapes, tolerances
from thalweg.curvature import SearchMemory, paper_search, search
from thalweg.outcomes import Outcome

# a hint may be right, wrong by any factor, or of the wrong sign, or not there
hints = st.one_of(st.none(), st.floats(-1e6, 1e6), st.just(-math.inf), st.just(math.nan))


@given(shape=shapes, crossing=crossings, offset=st.floats(-15, 15), tolerance=tolerances, slope=hints)
def test_it_finds_a_crossing_whatever_the_hint(shape, crossing, offset, tolerance, slope):
    f = Counted(lambda m: shape(m / crossing))
    bracket = search(f, guess=crossing * 2**offset, slope=slope, tolerance=tolerance)
    assert bracket.outcome is Outcome.OK
    assert_certified(bracket, f, tolerance)
    assert min(f.asked) >= crossing * 2**offset * 2.0**-16 * (1 - 1e-12)


@given(
    moves=st.lists(st.tuples(shapes, st.floats(-3, 4), hints), min_size=2, max_size=8),
    tolerance=tolerances,
)
@settings(max_examples=40)
def test_a_memory_never_costs_the_certificate(moves, tolerance):
    """Steps that have nothing in common, and hints that are wrong: predictions fail, brackets do not."""
    memory = SearchMemory()
    for shape, place, slope in moves:
        f = Counted(lambda m, shape=shape, crossing=10.0**place: shape(m / crossing))
        bracket = search(f, slope=slope, tolerance=tolerance, memory=memory)
        assert bracket.outcome is Outcome.OK
        assert_certified(bracket, f, tolerance)


@given(
    crossing=crossings, offset=st.floats(-20, 8), scale=st.floats(-4, 0), loss=st.floats(0.5, 8.0), tolerance=tolerances
)
def test_float32_rounding_neither_misleads_nor_stops_it(crossing, offset, scale, loss, tolerance):
    """Losses in float32, depth of the valley from 1e-4 of the loss up."""
    loss = float(np.float32(loss))
    rounding = 4 * float(np.finfo(np.float32).eps) * loss

    def change(m):
        u = m / crossing
        return float(np.float32(loss + loss * 10**scale * u * (u - 1))) - loss

    f = Counted(change)
    bracket = search(f, guess=crossing * 2**offset, tolerance=tolerance, rounding=rounding)
    assert bracket.outcome is Outcome.OK
    assert_certified(bracket, f, tolerance, rounding)
    blur = 1 + 2 * rounding / (loss * 10**scale)
    assert bracket.lower / blur <= crossing <= bracket.upper * blur


@given(guess=crossings, slope=crossings, tolerance=tolerances, hint=hints)
def test_a_climb_in_float32_is_not_descent(guess, slope, tolerance, hint):
    """Bit-equal losses at small multiples are ties; Algorithm 1 as printed ends among them."""
    loss = np.float32(2.3)
    f = Counted(lambda m: float(loss + np.float32(min(slope * m, 1e30))) - float(loss))
    rounding = 4 * float(np.finfo(np.float32).eps) * 2.3
    bracket = search(f, guess=guess, slope=hint, tolerance=tolerance, rounding=rounding)
    assert bracket.outcome is Outcome.NOT_DESCENT
    assert bracket.lower == 0.0
    assert f.f(bracket.upper) > rounding
    assert guess * 2.0**-16 * (1 - 1e-12) <= min(f.asked) <= guess * 2.0**-15


def test_noise_misleads_the_printed_algorithm_but_not_the_certificate():
    """A direction that climbs, with rounding noise of ± 1e-7 around it."""

    def f(m):
        return m + 1e-7 * math.sin(1e9 * m)

    misled = paper_search(f, guess=1.0)
    assert misled.outcome is Outcome.OK
    assert misled.centre < 1e-6
    assert search(f, guess=1.0, rounding=4e-7).outcome is Outcome.NOT_DESCENT


@pytest.mark.parametrize("slope", [None, -1.0, 1.0])
def test_outcomes_without_a_crossing(slope):
    assert search(lambda m: m, slope=slope).outcome is Outcome.NOT_DESCENT
    assert search(lambda m: -m, slope=slope).outcome is Outcome.NOT_BRACKETED
    assert search(lambda m: 0.0, slope=slope).outcome is Outcome.NOT_BRACKETED
    assert search(lambda m: math.nan, slope=slope).outcome is Outcome.NOT_DESCENT


def test_a_fall_without_end_leaves_an_open_interval():
    bracket = search(lambda m: -m, guess=1.0)
    assert (bracket.lower, bracket.upper) == (2.0**39, math.inf)
    assert bracket.evaluations <= 20


def test_a_flat_loss_spends_no_more_than_the_limit():
    assert search(lambda m: 0.0, guess=1.0).evaluations == 40


def test_what_is_not_ok_teaches_nothing():
    memory = SearchMemory()
    search(lambda m: m * (m - 3.0), memory=memory)
    before = memory.state_dict()
    search(lambda m: m, memory=memory)
    search(lambda m: -m, memory=memory)
    assert memory.state_dict() == before


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_wall(value):
    f = Counted(lambda m: -m if m < 3 else value)
    bracket = search(f, guess=1.0)
    assert bracket.outcome is Outcome.OK
    assert bracket.wall
    assert bracket.lower < 3 <= bracket.upper
    assert_certified(bracket, f, 1 / 16)


def test_a_tie_is_not_a_rise():
    """f = 0 on all of [1, 3): the crossing is at 3, where f first rises."""

    def f(m):
        return m * (m - 1) if m < 1 else max(0.0, m - 3)

    for guess in (0.25, 2.0):  # the second is a tie itself
        bracket = search(f, guess=guess, tolerance=1 / 64)
        assert bracket.outcome is Outcome.OK
        assert bracket.lower <= 3 < bracket.upper


@given(crossing=crossings, power=st.floats(0.5, 3.0))
def test_two_evaluations_where_nothing_changes(crossing, power):
    memory = SearchMemory()
    spent = [
        search(lambda m: m * ((m / crossing) ** power - 1), guess=crossing, slope=-1.0, memory=memory).evaluations
        for _ in range(4)
    ]
    assert spent[1:] == [2, 2, 2]


@pytest.mark.parametrize("factor", [1e-3, 7.0, 1e3])
@pytest.mark.parametrize("seed", range(4))
def test_scales_do_not_matter(factor, seed):
    """The same runs in other units of the multiple cost the same and end at the same places."""
    places = np.exp(np.cumsum(np.random.default_rng(seed).normal(0, 0.3, 6)))
    first, second = SearchMemory(), SearchMemory()
    for c in places.tolist():
        one = search(lambda m, c=c: m * (m - c), guess=1.0, slope=-c, memory=first)
        scaled = factor * c
        two = search(lambda m, c=scaled: m * (m - c), guess=factor, slope=-scaled, memory=second)
        assert two.evaluations == one.evaluations
        assert two.lower == pytest.approx(factor * one.lower, rel=1e-4)


def test_it_beats_the_paper_on_a_random_walk():
    """Crossings that move by .2 in the logarithm, slopes known to a factor that wanders (clipping): 2.9 against 6."""
    random = np.random.default_rng(0)
    memory, guess = SearchMemory(), 1.0
    ours, papers = [], []
    for place in np.cumsum(random.normal(0, 0.2, 200)):
        c = math.exp(float(place))
        hint = -c * math.exp(float(random.normal(0, 0.2)))
        ours.append(search(lambda m, c=c: m * (m - c), slope=hint, memory=memory).evaluations)
        found = paper_search(lambda m, c=c: m * (m - c), guess=guess)
        papers.append(found.evaluations)
        guess = found.centre
    assert np.mean(ours[1:]) < 3.2
    assert np.mean(papers[1:]) > 5.5
    assert max(ours) <= 6
