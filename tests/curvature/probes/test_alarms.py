"""Alarms and evidence on margins made by hand."""

from __future__ import annotations

import itertools

import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.curvature.probes.alarms import Alarm, Evidence
from thalweg.outcomes import ThalwegError


def test_the_alarm_rings_once_a_dip():
    margins = [5.0, 1.0, 0.99, 0.2, 1.99, 0.5, 2.0, 1.0, 0.9, 0.9, 7.0, 0.0]
    alarm = Alarm(1.0)
    assert [i for i, margin in enumerate(margins) if alarm.rings(margin)] == [2, 8, 11]
    low = Alarm(0.5, recovered=0.6)
    assert [i for i, margin in enumerate(margins) if low.rings(margin)] == [3, 11]


@given(st.lists(st.floats(0, 5)), st.floats(0.1, 2), st.floats(1.01, 4))
def test_between_two_rings_the_margin_has_recovered(margins, below, times):
    alarm = Alarm(below, below * times)
    rang = [i for i, margin in enumerate(margins) if alarm.rings(margin)]
    assert all(margins[i] < below for i in rang)
    for first, second in itertools.pairwise(rang):
        assert max(margins[first:second]) >= below * times
    assert bool(rang) == any(margin < below for margin in margins)


@pytest.mark.parametrize(("below", "recovered"), [(0, None), (-1, None), (float("nan"), None), (1, 1), (1, 0.5)])
def test_levels_that_make_no_sense_are_refused(below, recovered):
    with pytest.raises(ThalwegError, match="Write"):
        Alarm(below, recovered)


def told(margins, lrs=None):
    """The step, from 1, at which there is enough evidence, as a list; it is forgotten then."""
    evidence = Evidence()
    rang = []
    for step, (margin, lr) in enumerate(zip(margins, lrs or itertools.repeat(1.0), strict=False), start=1):
        if evidence.hear(margin, lr):
            rang.append(step)
            evidence.reset()
    return rang


def test_one_low_margin_alone_is_not_believed_however_low():
    assert told([4.0, 0.01, 4.0, 4.0, 4.0, 0.7]) == []
    assert told([4.0, 0.0, 4.0]) == []
    assert told([4.0, 0.4, 0.4]) == [3]
    assert told([4.0, 0.6, 0.7, 0.7]) == [4]
    assert told([0.0, 0.0]) == [2]
    assert told([0.3, 4.0] * 2) == [3]  # every second step


@given(st.lists(st.floats(0.9, 5), max_size=200))
def test_the_edge_of_stability_never_rings(margins):
    assert told(margins) == []


@given(st.lists(st.floats(0.01, 5), max_size=60), st.lists(st.floats(0.01, 1), min_size=60, max_size=60))
def test_lower_margins_ring_no_later(margins, factors):
    higher, lower = told(margins), told([m * f for m, f in zip(margins, factors, strict=False)])
    assert not higher or lower[0] <= higher[0]


def test_a_learning_rate_that_comes_back_has_to_be_twice_as_bad():
    """A restart at the peak of the first cycle; the same margins in a first warmup."""
    dip = [0.5, 0.5, 3.0, 3.0, 3.0]
    cycle, low = [3.0] * 30, [9.0] * 25
    margins = cycle + low + dip
    assert told(margins, lrs=[1.0] * 30 + [0.1] * 25 + [1.0] * 5) == []
    assert told(margins, lrs=[1.0] * 30 + [0.1] * 25 + [1.1] * 5) == [57]  # higher than ever
    assert told(margins, lrs=[1.0] * 60) == [57]  # it has not been away
    assert told(cycle + low + [0.4] * 4, lrs=[1.0] * 30 + [0.1] * 25 + [1.0] * 4) == [58]
