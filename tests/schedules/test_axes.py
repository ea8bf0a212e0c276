"""Axes of a space: what a user gives, and what comes of it in a run."""

from __future__ import annotations

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from thalweg.schedules.axes import Choices, Fixed, Range, axis_of


@pytest.mark.parametrize(
    ("given", "expected"),
    [
        (3e-3, Fixed("peak_lr", 3e-3)),
        ((1e-3, 1e-2), Range("peak_lr", 1e-3, 1e-2)),
        ([1e-3, 1e-2], Choices("peak_lr", (1e-3, 1e-2))),
    ],
)
def test_a_value_a_tuple_and_a_list_are_three_kinds(given, expected):
    assert axis_of("peak_lr", given) == expected
    assert expected.free == (not isinstance(expected, Fixed))


@given(st.integers(0, 10**6), st.integers(1, 10**6), st.floats(0, 1))
def test_whole_steps_stay_between_whole_ends(low, width, u):
    value = axis_of("warmup", (low, low + width)).at(u, 10**7)
    assert isinstance(value, int)
    assert low <= value <= low + width


@given(st.floats(1e-6, 1.0), st.floats(1.01, 1e4), st.floats(0, 1))
@example(0.001, 1.23444, 0.5)  # four digits of the high end lie below it
def test_learning_rates_stay_between_their_ends_and_grow(low, factor, u):
    axis = axis_of("peak_lr", (low, low * factor))
    assert low <= axis.at(u, 100) <= low * factor
    assert axis.at(0, 100) == low
    assert axis.at(1, 100) == low * factor
    assert axis.at(u, 100) <= axis.at(min(u + 0.1, 1), 100)


def test_a_final_lr_from_zero_is_spaced_evenly():
    assert axis_of("final_lr", (0.0, 1e-4)).at(0.5, 100) == 5e-5


def test_a_decay_has_at_least_a_step():
    assert axis_of("decay", (0.0001, 0.5)).at(0.0, 100) == 1


def test_ends_are_named_and_zero_is_none_to_go_below():
    axis = axis_of("warmup", (10, 100))
    assert [axis.end(u) for u in (0.0, 0.5, 1.0)] == ["lower", "", "upper"]
    assert axis_of("final_lr", (0.0, 1e-4)).end(0.0) == ""
    assert Choices("warmup", (10, 20)).end(0.0) == ""


def test_choices_share_the_coordinate_equally():
    axis = axis_of("decay", [0.1, 0.2, 300])
    assert [axis.at(u, 100) for u in (0.0, 0.32, 0.34, 0.66, 0.67, 1.0)] == [0.1, 0.1, 0.2, 0.2, 300, 300]
    assert [axis.at(u, 100) for u in axis.grid(99)] == [0.1, 0.2, 300]
