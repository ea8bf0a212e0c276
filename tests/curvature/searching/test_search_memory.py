"""What is predicted from one search to the next, and that it survives a checkpoint."""

from __future__ import annotations

import json
import math

import pytest

from thalweg.curvature import SearchMemory, search


def parabola(crossing):
    return lambda m: m * (m - crossing)


def taught(crossings, memory=None):
    memory = memory or SearchMemory()
    for c in crossings:
        search(parabola(c), slope=-c, memory=memory)
    return memory


def test_nothing_is_expected_before_the_first():
    assert SearchMemory().expect(-1.0) is None


def test_a_trend_is_followed():
    """log m_c grows by .05 a measurement: the prediction is nearer to the next than to the last."""
    memory = taught([3 * math.exp(0.05 * t) for t in range(30)])
    expected = memory.expect(-3 * math.exp(0.05 * 30))
    assert expected.x == pytest.approx(math.log(3) + 0.05 * 30, abs=0.03)


def test_a_parabola_has_exponent_one():
    memory = taught([3 * math.exp(0.5 * math.sin(t * t)) for t in range(40)])
    assert memory.a == pytest.approx(1.0, abs=0.15)
    assert memory.offset == pytest.approx(0.0, abs=0.1)


def test_the_factor_of_clipped_slopes_is_learned():
    """Every hint is a tenth of the slope: the offset takes in the factor, and y is expected where it is."""
    memory = SearchMemory()
    for t in range(40):
        c = 3 * math.exp(0.5 * (-1) ** t)
        search(parabola(c), slope=-c / 10, memory=memory)
    assert memory.offset == pytest.approx(math.log(10), abs=0.1)


def test_another_learning_rate_keeps_the_critical_one():
    """The multiples double where the learning rate is halved."""
    memory = taught([3.0, 3.0])
    memory.convert(0.5)
    assert memory.expect(-1.5).x == pytest.approx(math.log(6.0), abs=0.05)
    assert search(parabola(6.0), slope=-6.0, memory=memory).evaluations == 2
    for unit in (0.0, math.nan, math.inf):
        memory.convert(unit)
        assert memory.unit == 0.5


def test_a_slope_that_is_no_descent_is_not_used():
    memory = taught([3.0, 4.0, 3.0])
    same = memory.expect(-math.exp(memory.slope))
    for slope in (None, 0.0, 1.0, math.nan, -math.inf):
        assert memory.expect(slope) == same


def test_it_goes_through_json_and_continues_the_same():
    memory = taught([3.0, 4.0, 3.5])
    again = SearchMemory.from_state(json.loads(json.dumps(memory.state_dict())))
    assert again == memory
    for c in (3.2, 3.9):
        assert search(parabola(c), slope=-c, memory=again) == search(parabola(c), slope=-c, memory=memory)
    assert again == memory


def test_a_state_is_a_copy():
    memory = taught([3.0, 4.0])
    state = memory.state_dict()
    kept = json.dumps(state)
    taught([5.0, 2.0], memory)
    assert json.dumps(state) == kept
