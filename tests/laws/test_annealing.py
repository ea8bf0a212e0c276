"""The annealing law against the paper's sums and known constants."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from tests.laws.curves import curves_of, toy
from tests.reference.curve_laws import annealing
from tests.schedules.strategies import schedules as any_schedule
from thalweg.laws import AnnealingLaw
from thalweg.outcomes import ThalwegError
from thalweg.schedules import constant

TOY = AnnealingLaw(L0=2.5, A=0.3, alpha=0.45, C=0.3, memory=0.998)


@settings(max_examples=15)
@given(schedule=any_schedule)
def test_it_is_the_papers_double_sum(schedule):
    lrs = 1e-5 + 3e-4 * schedule.values()[:120] / max(schedule.peak_lr, 1e-300)
    steps = np.unique(np.linspace(0, len(lrs) - 1, 5).astype(int))
    expected = [annealing(lrs.tolist(), int(t), **TOY.constants()) for t in steps]
    np.testing.assert_allclose(TOY.losses_at(lrs, steps), expected, rtol=1e-10)


def test_a_constant_rate_leaves_the_power_of_the_sum():
    expected = TOY.L0 + TOY.A * (3e-4 * np.arange(1, 1001)) ** -TOY.alpha
    np.testing.assert_allclose(TOY.curve(constant(3e-4, 1000)), expected, rtol=1e-12)


def test_the_fit_recovers_known_constants():
    curves = curves_of(lambda schedule, steps: TOY.curve(schedule, steps=steps))
    law = AnnealingLaw.fit(curves)
    for name, value in TOY.constants().items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-4), name


def test_the_memory_may_be_given():
    law = AnnealingLaw.fit(curves_of(toy), memory=0.99)
    assert law.memory == 0.99
    chosen = AnnealingLaw.fit(curves_of(toy))
    assert chosen.evidence.error <= law.evidence.error


@pytest.mark.parametrize("memory", [0.0, 1.0, float("nan")])
def test_a_memory_outside_its_range_is_refused(memory):
    with pytest.raises(ThalwegError, match="memory"):
        AnnealingLaw.fit(curves_of(toy), memory=memory)
