"""Anchors of Eq. 4 (spec §4) and its limits; its fit and its areas against slow twins."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.laws.divergence_tables import marin, marked, ratios_of, runs_of
from tests.reference import divergence as reference
from thalweg.laws import DivergenceCriterion
from thalweg.laws.divergence import divergence_criterion as divergence
from thalweg.laws.divergence.logistic import fit_logistic
from thalweg.laws.fitting import folds
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import Budget, constant, cosine, cyclic, four_phase, from_values, linear, wsd

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


@pytest.fixture(scope="module")
def runs() -> Runs:
    return runs_of(CRITERION)


@pytest.fixture(scope="module")
def fitted(runs) -> DivergenceCriterion:
    return DivergenceCriterion.fit(runs)


def test_a_fit_recovers_the_criterion_that_the_runs_follow(runs, fitted):
    """256 runs that diverge where the published R > 1: its constants come back, c3 to its grid of four a decade."""
    assert abs(np.log10(fitted.c3 / CRITERION.c3)) <= 0.25
    assert fitted.critical_lr(SMALL) == pytest.approx(CRITERION.critical_lr(SMALL), rel=0.1)
    assert fitted.alpha1 == pytest.approx(CRITERION.alpha1, abs=0.02)
    assert fitted.alpha2 == pytest.approx(CRITERION.alpha2, abs=0.03)
    agree = (ratios_of(fitted, runs) > 1) == runs.diverged
    assert agree.mean() > 0.98
    assert fitted.evidence.f1 > 0.95


def test_a_fit_is_that_of_a_general_minimiser(runs):
    """The slow twin minimises the same penalised log loss over all four constants at once, from several starts."""
    part = runs.subset(np.random.default_rng(2).permutation(len(runs)) < 60)
    features = divergence._features(part)
    found = fit_logistic(features, part.diverged, folds(part)[0])
    law = DivergenceCriterion.fit(part)
    peak = np.array([s.peak_lr for s in part.schedules]) / 0.015
    S = np.array([s.steps * b.batch_tokens / 1e9 for s, b in zip(part.schedules, part.budgets, strict=True)]) ** 2
    warm = np.array([s.phases[0] for s in part.schedules])
    a1 = np.array([a * b.batch_tokens / 1e9 for a, b in zip(warm, part.budgets, strict=True)]) ** 2
    N = np.array([b.params / 1e9 for b in part.budgets])
    near = divergence.C3[max(0, found.alternative - 1) : found.alternative + 2]
    constants, _ = reference.fit(near, peak, S, a1, N, part.diverged, found.strength)
    np.testing.assert_allclose([law.K, law.c3, law.alpha1, law.alpha2], constants, rtol=1e-3)
    with np.errstate(divide="ignore"):
        ratios = np.log(ratios_of(law, part))
    np.testing.assert_allclose(reference.log_ratio(constants, peak, S, a1, N), ratios, rtol=0.02, atol=0.02)


def test_twice_the_learning_rates_are_twice_the_critical_one(runs):
    part = runs.subset(np.random.default_rng(3).permutation(len(runs)) < 60)
    rows = part.frame.drop(columns="schedule")
    one, two = (
        DivergenceCriterion.fit(part),
        DivergenceCriterion.fit(Runs.from_frame(rows.assign(peak_lr=2 * rows.peak_lr))),
    )
    assert (two.K, two.c3) == pytest.approx((2 * one.K, one.c3), rel=1e-6)
    assert (two.alpha1, two.alpha2) == pytest.approx((one.alpha1, one.alpha2), rel=1e-6)
    assert two.evidence.f1 == one.evidence.f1


def test_runs_that_diverge_below_a_learning_rate_are_not_described_by_equation_4(runs):
    part = runs.subset(np.random.default_rng(4).permutation(len(runs)) < 40)
    turned = marked(part, np.array([schedule.peak_lr < 3e-3 for schedule in part.schedules]))
    with pytest.raises(ThalwegError, match="LogisticDivergence"):
        DivergenceCriterion.fit(turned)


def test_runs_that_warmup_did_not_matter_to_do_not_fix_c3(runs):
    part = runs.subset(np.random.default_rng(5).permutation(len(runs)) < 60)
    peaks = np.array([schedule.peak_lr for schedule in part.schedules])
    with pytest.warns(ThalwegWarning, match="c3 1 lies at the end") as caught:
        DivergenceCriterion.fit(marked(part, peaks > 3e-3))
    assert caught[0].filename == __file__


def test_published_constants_say_whose_they_are():
    assert "the authors' setup" in CRITERION.summary()
    assert CRITERION.evidence.f1 is None


@given(
    peak_lr=st.floats(1e-4, 5e-2),
    steps=st.integers(100, 5000),
    warmup=st.floats(0.0, 0.99),
    params=st.floats(1e7, 1e10),
)
def test_the_areas_of_a_triangle_give_equation_4(peak_lr, steps, warmup, params):
    budget = Budget(params=params, tokens=steps * 1e6, batch_tokens=1e6)
    schedule = linear(peak_lr, steps, warmup=int(warmup * steps))
    expected = CRITERION.ratio(schedule, budget)
    assert CRITERION.area_ratio(schedule, budget) == pytest.approx(expected, rel=1e-4, abs=1e-12)


SHAPES = [
    linear(6e-3, SMALL.steps, warmup=300),
    constant(6e-3, SMALL.steps, warmup=300),
    cosine(8e-3, SMALL.steps, warmup=300, final_lr=4e-3),
    wsd(6e-3, SMALL.steps, warmup=200, decay=0.3),
    cyclic(9e-3, SMALL.steps, cycles=3, warmup=100, final_lr=1e-3),
    from_values(np.repeat([1e-3, 2e-3, 7e-3, 1e-3], [500, 500, 500, SMALL.steps - 1500])),
]


@pytest.mark.parametrize("schedule", SHAPES, ids=lambda schedule: str(schedule)[:12])
def test_areas_are_those_of_a_fine_sum(schedule):
    critical = CRITERION.critical_lr(SMALL)
    below, above = reference.areas(schedule, schedule.steps, critical, points=10 * schedule.steps)
    # the sum finds the crossing to one of its points, a tenth of a step
    assert divergence._areas(schedule, critical) == pytest.approx((below, above), rel=1e-4, abs=0.1 * critical)
    x = schedule.peak_lr / critical - 1
    expected = (above / below) ** 2 / (CRITERION.c3 * x**2)
    assert CRITERION.area_ratio(schedule, SMALL) == pytest.approx(expected, rel=1e-2)


def test_a_schedule_and_its_values_have_nearly_the_same_areas():
    for schedule in SHAPES[:4]:
        sampled = from_values(schedule.values(), phases=tuple(schedule.phases))
        assert CRITERION.area_ratio(sampled, SMALL) == pytest.approx(CRITERION.area_ratio(schedule, SMALL), rel=0.05)


def test_area_limits():
    critical = CRITERION.critical_lr(SMALL)
    assert CRITERION.area_ratio(constant(0.999 * critical, SMALL.steps), SMALL) == 0
    assert CRITERION.area_ratio(constant(1.01 * critical, SMALL.steps), SMALL) == math.inf
    with pytest.raises(ThalwegError, match="2384"):
        CRITERION.area_ratio(linear(6e-3, 5000, warmup=256), SMALL)


@pytest.mark.data
def test_real_runs(data_dir):
    """Measured; spec §4 asks for F1 ≥ .85 of the better of the two criteria."""
    runs = marin(data_dir)
    assert (len(runs), runs.diverged.sum(), len(np.unique(runs.cells))) == (56, 14, 9)
    evidence = DivergenceCriterion.fit(runs).evidence
    assert evidence.held_out == "one (params, tokens) cell at a time"
    assert (evidence.precision, evidence.recall) == (1.0, pytest.approx(11 / 14))
    assert evidence.f1 == pytest.approx(0.88)
    assert len(evidence.missed) == 3
