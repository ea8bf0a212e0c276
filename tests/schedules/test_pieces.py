from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.outcomes import ThalwegError
from thalweg.schedules.pieces import Table, ramped
from thalweg.schedules.segments import Constant, Linear, Polynomial, Sqrt

values = st.lists(st.floats(0.0, 1.0), min_size=1, max_size=30).map(np.array)


def staircase_sum(heights: np.ndarray, u0: float, u1: float) -> float:
    """∫ of a staircase by its definition: every stair by its overlap with [u0, u1]."""
    return sum(h * max(0.0, min(u1, k + 1) - max(u0, k)) for k, h in enumerate(heights))


@given(values, st.floats(0, 1), st.floats(0, 1), st.floats(0, 1))
def test_sums_over_broken_steps(v: np.ndarray, f: float, g: float, following: float) -> None:
    table = Table(v, following)
    u0, u1 = sorted((f * len(v), g * len(v)))
    slopes = np.array([*v[1:], following]) - v
    assert table.integral(u0, u1) == pytest.approx(staircase_sum(v, u0, u1), abs=1e-12)
    assert table.square_integral(u0, u1) == pytest.approx(staircase_sum(v**2, u0, u1), abs=1e-12)
    assert table.roughness(u0, u1) == pytest.approx(staircase_sum(slopes**2, u0, u1), abs=1e-12)


def test_a_tabulated_line_is_as_rough_as_the_line() -> None:
    line = Linear(100, 0.0, 1.0)
    table = Table(line.lr(np.arange(100.0)), following=1.0)
    assert table.roughness(12.25, 77.5) == pytest.approx(line.roughness(12.25, 77.5), rel=1e-12)


def test_trimmed_table_leads_over_to_what_was_cut() -> None:
    table = Table(np.array([1.0, 2.0, 4.0, 8.0]), following=9.0)
    part = table.trimmed(1, 1)
    assert (part.length, part.first_lr, part.last_lr) == (2, 2.0, 8.0)
    assert part.roughness(0, 2) == table.roughness(1, 3) == 4 + 16
    assert table.trimmed(0, 0) == table and hash(table.trimmed(0, 0)) == hash(table)
    assert table.trimmed(1, 0) != table


def test_ramp_over_a_jump_reaches_the_curve_it_left() -> None:
    first, second = Constant(10, 1.0, 1.0), Linear(10, 3.0, 2.0)
    a, line, b = ramped((first, second), 4)
    assert a == first
    assert (line.first_lr, line.last_lr, line.length) == (1.0, second.lr_at(4), 4)
    assert (b.first_lr, b.last_lr, b.length) == (second.lr_at(4), 2.0, 6)


def test_ramp_at_infinite_slopes() -> None:
    line, rest = ramped((Sqrt(100, 1.0, 0.0),), 4)
    assert (line.first_lr, line.last_lr) == (1.0, rest.first_lr) and rest.first_lr == pytest.approx(0.8)
    rest, line = ramped((Polynomial(100, 1.0, 0.0, power=0.5),), 4)
    assert (line.first_lr, line.last_lr) == (rest.last_lr, 0.0) and rest.last_lr == pytest.approx(0.2)
    assert ramped((Sqrt(4, 1.0, 0.0),), 4) == (Linear(4, 1.0, 0.0),)


def test_nothing_to_ramp_is_left_alone() -> None:
    pieces = (Linear(10, 0.0, 1.0), Constant(5, 1.0, 1.0), Table(np.array([1.0, 0.5]), following=0.5))
    assert ramped(pieces, 3) == pieces


def test_ramp_longer_than_its_piece() -> None:
    with pytest.raises(ThalwegError, match="ramp: got 11, expected at most the 10 steps"):
        ramped((Constant(20, 1.0, 1.0), Constant(10, 2.0, 2.0)), 11)
