"""Sums over learning rates and their drops, against sums written out."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schedules.strategies import schedules as any_schedule
from thalweg.laws.drops import drops, lag_sum


@given(schedule=any_schedule, data=st.data())
def test_drops_are_the_changes_and_their_sums(schedule, data):
    lrs = schedule.values()
    steps = np.array(data.draw(st.lists(st.integers(0, len(lrs) - 1), min_size=1, max_size=4)))
    found = drops(lrs, steps)
    assert len(found.at) == np.count_nonzero(np.diff(lrs))
    np.testing.assert_allclose(found.area, [lrs[: step + 1].sum() for step in steps], rtol=1e-12)
    expected = [[lrs[k : step + 1].sum() for k in found.at] for step in steps]
    np.testing.assert_allclose(
        found.since(), np.reshape(expected, found.since().shape), rtol=1e-9, atol=1e-12 * max(lrs.sum(), 1e-300)
    )
    # all drops together lead from the first rate to the last
    assert found.size.sum() == pytest.approx(lrs[0] - lrs[-1], abs=1e-12 * lrs.max())


@given(schedule=any_schedule, group=st.integers(2, 200))
def test_groups_keep_the_sum_and_the_sign_of_drops(schedule, group):
    lrs = schedule.values()
    last = np.array([len(lrs) - 1])
    each, grouped = drops(lrs, last), drops(lrs, last, group=group)
    assert grouped.size.sum() == pytest.approx(each.size.sum(), abs=1e-12 * lrs.max())
    assert np.abs(grouped.size).sum() == pytest.approx(np.abs(each.size).sum(), abs=1e-12 * lrs.max())
    assert set(grouped.at) <= set(each.at)
    np.testing.assert_allclose(
        grouped.size @ grouped.before, each.size @ each.before, rtol=1e-9, atol=1e-12 * lrs.max() * lrs.sum()
    )


def test_grouping_errs_in_second_order():
    """A sum of a smooth function over the drops of a cosine: half the group, a quarter of the error."""
    lrs = 1 + np.cos(np.linspace(0, np.pi, 4001))[:-1]
    last = np.array([len(lrs) - 1])

    def total(group: int) -> float:
        found = drops(lrs, last, group=group)
        return float(found.size @ np.sqrt(1 + found.before / 1000))

    errors = [abs(total(group) - total(1)) for group in (200, 100, 50)]
    assert errors[0] / errors[1] == pytest.approx(4, rel=0.2)
    assert errors[1] / errors[2] == pytest.approx(4, rel=0.2)


def test_a_rate_of_zero_stays_alone():
    lrs = np.array([1.0, 0.5, 0.25, 0.0, 0.0])
    found = drops(lrs, np.array([4]), group=10)
    np.testing.assert_array_equal(found.at, [2, 3])
    np.testing.assert_allclose(found.size, [0.75, 0.25])
    assert found.log_lr[1] == -np.inf


@given(schedule=any_schedule, memory=st.floats(0.1, 0.9999))
def test_lag_sum_is_the_double_sum(schedule, memory):
    lrs = schedule.values()[:60]
    change = np.concatenate([[0.0], lrs[:-1] - lrs[1:]])
    expected = [sum(change[k] * memory ** (i - k) for i in range(t + 1) for k in range(i + 1)) for t in range(len(lrs))]
    np.testing.assert_allclose(lag_sum(lrs, memory), expected, rtol=1e-9, atol=1e-11 * lrs.max())
