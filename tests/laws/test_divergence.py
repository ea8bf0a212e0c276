"""Anchors of Eq. 4 (spec §4) and its limits."""

from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.laws import DivergenceCriterion
from thalweg.outcomes import ThalwegError
from thalweg.schedules import Budget, four_phase, linear

CRITERION = DivergenceCriterion.published()
BATCH = 2048 * 2048
SMALL = Budget(params=0.58e9, tokens=10e9, batch_tokens=BATCH)  # 8×0.1B


@pytest.mark.parametrize(
    ("warmup", "peak_lr", "ratio"), [(256, 6e-3, 0.364), (512, 9e-3, 0.346), (512, 6e-3, 0.091), (256, 9e-3, 1.385)]
)
def test_anchors(warmup, peak_lr, ratio):
    schedule = linear(peak_lr, SMALL.steps, warmup=warmup)
    assert round(CRITERION.ratio(schedule, SMALL), 3) == ratio
    assert CRITERION.diverges(schedule, SMALL) == (ratio > 1)


def test_table_1_row_2():
    budget = Budget(params=4.05e9, tokens=300e9, batch_tokens=BATCH)
    schedule = four_phase(6e-3, 6e-3, budget.steps, warmup=2000, decay_until=2000, cooldown_from=2000)
    assert round(CRITERION.ratio(schedule, budget), 4) == 0.3037


def test_equation_4_written_out():
    """S and a1 in 1e9 tokens, squared; the peak divided by .015."""
    budget = Budget(params=1.9e9, tokens=30e9, batch_tokens=BATCH)
    schedule = linear(8e-3, budget.steps, warmup=900)
    S, a1, N, peak = (budget.steps * BATCH / 1e9) ** 2, (900 * BATCH / 1e9) ** 2, 1.9, 8e-3 / 0.015
    eta_l = min(peak, 1.76 / 33.21 * S**0.218 / N**0.5)
    assert CRITERION.ratio(schedule, budget) == pytest.approx(S * (peak - eta_l) ** 2 / (292.03 * a1 * eta_l**2))
    assert CRITERION.critical_lr(budget) == pytest.approx(0.015 * eta_l)


def test_a_peak_below_the_critical_learning_rate_never_diverges():
    critical = CRITERION.critical_lr(SMALL)
    assert CRITERION.ratio(linear(0.999 * critical, SMALL.steps), SMALL) == 0
    assert CRITERION.ratio(linear(critical, SMALL.steps, warmup=5), SMALL) == 0


def test_no_warmup_above_it_is_infinite():
    assert CRITERION.ratio(linear(1.01 * CRITERION.critical_lr(SMALL), SMALL.steps), SMALL) == math.inf
    assert CRITERION.diverges(linear(6e-3, SMALL.steps), SMALL)


def test_many_schedules_equal_each_by_itself():
    schedules = [linear(peak, SMALL.steps, warmup=warmup) for peak in (1e-3, 5e-3, 1e-2) for warmup in (0, 100, 900)]
    peaks, warmups, steps = (
        np.array([getattr(schedule, name) for schedule in schedules]) for name in ("peak_lr", "phases", "steps")
    )
    together = CRITERION.ratios(SMALL, peaks, warmups[:, 0], steps)
    np.testing.assert_array_equal(together, [CRITERION.ratio(schedule, SMALL) for schedule in schedules])


def test_another_length_is_refused():
    with pytest.raises(ThalwegError, match="2384"):
        CRITERION.ratio(linear(6e-3, 5000, warmup=256), SMALL)
