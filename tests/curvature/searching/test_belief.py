"""The template of h and the distribution that it gives, against closed forms."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.curvature.searching.belief import Belief, Expectation, Sighting, _template, depth


@given(a=st.floats(-1.5, 4.0))
def test_the_template_crosses_zero_with_slope_one_and_bend_a(a):
    """d²h/d(log u)² = a k at the crossing: that is what a means, on both sides."""
    step = 1e-4
    below, here, above = _template(np.array([-step, 0.0, step]), np.array(a))
    assert here == 0.0
    assert (above - below) / (2 * step) == pytest.approx(1.0, abs=1e-6)
    assert (above + below) / step**2 == pytest.approx(a, abs=2e-3)


@given(a=st.floats(-1.5, 4.0))
def test_depth_is_where_the_template_begins(a):
    assert -float(_template(np.array([-40.0]), np.array(a))[0]) == pytest.approx(float(depth(np.array(a))), rel=1e-6)


@pytest.mark.parametrize("u", [0.1, 0.5, 0.9, 1.5, 3.0])
def test_a_parabola_and_a_cubic_are_exact(u):
    """f = m(m - 1): h = u - 1, k = 1, a = 1; f = m(m² - 1): h = u² - 1, k = 2, a = 2."""
    distance = np.array([math.log(u)])
    assert float(_template(distance, np.array(1.0))[0]) == pytest.approx(u - 1)
    assert 2 * float(_template(distance, np.array(2.0))[0]) == pytest.approx(u * u - 1)


@given(u=st.floats(0.5, 2.5), place=st.floats(-5, 5), depth_of_loss=st.floats(-20, 20))
def test_one_evaluation_places_the_crossing_of_a_parabola(u, place, depth_of_loss):
    """With a known slope: wherever the crossing is and whatever the loss is counted in."""
    at = place + math.log(u)
    seen = [Sighting(at, math.exp(depth_of_loss) * (u - 1))]
    belief = Belief(Expectation(x=at, x_spread=0.7, y=depth_of_loss, y_spread=0.03, a_spread=0.1))
    lower, upper = (at, None) if u <= 1 else (None, at)
    if u == 1:
        seen = []
    crossing = belief.crossing(seen, lower, upper)
    if abs(u - 1) > 0.01:
        assert crossing.median == pytest.approx(place, abs=0.15)
        assert crossing.below(place + 0.3) > 0.8
        assert crossing.below(place - 0.3) < 0.2


def test_two_evaluations_place_it_without_a_slope():
    belief = Belief(Expectation(x=0.0, x_spread=3.0, y=0.0, y_spread=20.0, a_spread=0.1))
    seen = [Sighting(math.log(m), 1e3 * (m - 1)) for m in (0.8, 1.3)]
    assert belief.crossing(seen, math.log(0.8), math.log(1.3)).median == pytest.approx(0.0, abs=0.03)


def test_what_was_found_has_the_exponent():
    """Four evaluations of f = m(m² - 1) tell a = 2, k = 2 and m_c = 1 from an expectation of a parabola."""
    belief = Belief(Expectation(x=0.0, x_spread=1.0, y=0.0, y_spread=5.0, a=1.2, a_spread=0.6))
    seen = [Sighting(math.log(m), m * m - 1) for m in (0.5, 0.98, 1.02, 2.0)]
    found = belief.after(seen, math.log(0.98), math.log(1.02))
    assert found.x == pytest.approx(0.0, abs=0.01)
    assert found.a == pytest.approx(2.0, abs=0.3)
    assert found.y == pytest.approx(math.log(2), abs=0.15)
    assert found.a_spread < 0.3


def spread_of_crossing(side):
    """After one sighting of a parabola, half an e-fold below or above its crossing, where exponents are uncertain."""
    at = 0.5 * side
    ends = (at, None) if side < 0 else (None, at)
    belief = Belief(Expectation(x=at, x_spread=1.0, y=0.0, y_spread=0.03, a_spread=0.8))
    crossing = belief.crossing([Sighting(at, math.expm1(at))], *ends)
    return float(np.subtract(*np.interp([0.84, 0.16], crossing.cumulative, crossing.x)))


@pytest.mark.parametrize(("bends", "widened"), [((0.5, 0.0), -1), ((0.0, 0.5), 1)])
def test_a_sighting_tells_less_on_the_side_where_losses_bend(monkeypatch, bends, widened):
    monkeypatch.setattr("thalweg.curvature.searching.belief._BENDS", (0.0, 0.0))
    rigid = {side: spread_of_crossing(side) for side in (-1, 1)}
    monkeypatch.setattr("thalweg.curvature.searching.belief._BENDS", bends)
    assert spread_of_crossing(-widened) == rigid[-widened]
    assert spread_of_crossing(widened) > 1.05 * rigid[widened]
