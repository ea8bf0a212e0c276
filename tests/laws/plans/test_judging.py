"""Verdicts: the law's losses, the criterion's ratios, and which criterion is asked."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws.tables import grid_of_runs, inside
from thalweg.laws import Chinchilla, DivergenceCriterion, OptLaw, plan
from thalweg.laws.plans.judging import Judge, Verdict
from thalweg.outcomes import ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import Budget, linear, wsd


def test_a_verdict_is_what_law_and_criterion_say():
    budget = Budget(params=0.58e9, tokens=10e9, batch_tokens=2048 * 2048)
    law, criterion = OptLaw.published(), DivergenceCriterion.published()
    schedules = [linear(9e-3, budget.steps, warmup=warmup) for warmup in (256, 512)]
    verdict = Judge(law, budget, (), criterion)(schedules)
    np.testing.assert_allclose(np.exp(verdict.log_losses), [law.predict(s, budget).loss for s in schedules])
    np.testing.assert_allclose(verdict.ratios, [1.385, 0.346], atol=1e-3)  # spec §4
    assert verdict.doomed.tolist() == [True, False]
    assert Judge(law, budget, (), None)(schedules).ratios is None


def test_the_order_puts_those_that_diverge_last_unless_all_do():
    losses = np.array([0.3, 0.1, 0.2, 0.4])
    assert Verdict(losses, None).order.tolist() == [1, 2, 0, 3]
    assert Verdict(losses, np.array([0, 9, 1, 2.0])).order.tolist() == [2, 0, 1, 3]
    assert Verdict(losses, np.full(4, 2.0)).order.tolist() == [1, 2, 0, 3]


def test_earlier_training_reaches_the_law():
    budget = Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048)
    before = [(linear(1e-3, budget.steps, warmup=500), budget)]
    schedules = [linear(1e-3, budget.steps, warmup=500), wsd(2e-3, budget.steps, warmup=500)]
    law = OptLaw.published()
    found = Judge(law, budget, before, None)(schedules).log_losses
    np.testing.assert_array_equal(found, law.log_losses(schedules, [budget] * 2, after=before))


def diverged_where(hot: np.ndarray) -> Runs:
    """The grid of runs, of which these diverged."""
    frame = grid_of_runs().frame
    return Runs.from_frame(frame.assign(loss=frame.loss.where(~hot), diverged=hot))


@pytest.mark.filterwarnings("ignore:LogisticDivergence. batch_tokens did not vary")
def test_runs_that_diverged_make_the_criterion_unless_one_is_given():
    """Peaks of 8e-3 diverged after a warmup of 50 steps, and only there."""
    texts = grid_of_runs().frame.schedule
    runs = diverged_where(np.array(["(0.008" in text and "warmup=50" in text for text in texts]))
    law = OptLaw.fit(runs)
    budget, _ = inside()
    candidates = [linear(8e-3, 6000, warmup=50), linear(8e-3, 6000, warmup=200), linear(2e-3, 6000, warmup=50)]
    found = plan(law, budget, candidates, runs=runs)
    assert [str(schedule) for schedule in found.diverging] == [str(candidates[0])]
    assert found.criterion == "LogisticDivergence, fitted on 320 runs in 20 cells, 40 diverged"
    assert found.criterion in found.summary()
    given = plan(law, budget, candidates, runs=runs, divergence=DivergenceCriterion.published())
    assert given.criterion.startswith("DivergenceCriterion, fitted on the authors' setup")
    assert plan(law, budget, candidates, runs=grid_of_runs()).divergence is None, "none diverged"


def test_where_no_criterion_can_be_fitted_the_plan_says_so():
    frame = grid_of_runs().frame
    one_peak = frame[frame.schedule.str.contains("(0.003", regex=False)]
    runs = Runs.from_frame(one_peak.assign(diverged=np.arange(len(one_peak)) == 0))
    budget, _ = inside()
    with pytest.warns(ThalwegWarning, match=r"divergence is not assessed: peak_lr: got one value"):
        found = plan(Chinchilla.fit(runs), budget, [linear(3e-3, 6000, warmup=100)], runs=runs)
    assert found.divergence is None
