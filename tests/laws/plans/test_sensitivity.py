"""The sensitivities: invariant where they must be, and right where the other assumption is the true one."""

from __future__ import annotations

import dataclasses

import numpy as np
import pandas as pd
import pytest

from tests.laws.tables import BATCH, grid_of_runs, inside, with_loss
from thalweg.laws import Chinchilla, OptLaw, plan
from thalweg.laws.plans.sensitivity import Sensitivity, sensitivities
from thalweg.outcomes import ThalwegError
from thalweg.runs import Runs
from thalweg.schedules import Budget

RUNS = grid_of_runs()
BUDGET = Budget(params=1e9, tokens=8e9, batch_tokens=BATCH)


def of(law, runs, budget=None, schedules=None):
    """The two sensitivities of a plan."""
    inner_budget, inner = inside()
    return plan(law, budget or inner_budget, schedules or inner, runs=runs).sensitivities


def test_a_law_with_an_irreducible_term_of_its_own_does_not_mind():
    """Chinchilla of an exact Chinchilla table: E moves by what was taken away, predictions do not."""
    loss = 1.7 + np.array([400 * b.params**-0.34 + 1500 * b.tokens**-0.36 for b in RUNS.budgets])
    runs = with_loss(RUNS, loss)
    floor, small = of(Chinchilla.fit(runs), runs)
    assert floor.moved == pytest.approx(0, abs=1e-5)
    assert small.moved == pytest.approx(0, abs=1e-5)
    assert f"{loss.min() / 2:.3g} nats" in floor.assumption


def test_a_law_in_log_loss_moves_towards_the_truth_when_the_floor_is_true():
    """Runs whose loss above half the lowest is an exact Opt-Law: with that floor the prediction is right, without it not."""
    law = OptLaw.fit(RUNS)
    above = law.predict_runs(RUNS)
    floor = float(above.min())
    runs = with_loss(RUNS, above + floor)  # half of the lowest loss is the floor
    budget = Budget(params=3e9, tokens=30e9, batch_tokens=BATCH)
    schedules = _longer(budget)
    fitted = OptLaw.fit(runs)
    found, _ = of(fitted, runs, budget, schedules)
    best = plan(fitted, budget, schedules).best
    truth = law.predict(best, budget).loss + floor
    plain = fitted.predict(best, budget).loss
    assert abs(plain / truth - 1) > 1e-3
    assert abs(plain * (1 + found.moved) / truth - 1) < 0.1 * abs(plain / truth - 1)


def _longer(budget):
    from thalweg.schedules import cosine, linear, wsd

    return [shape(lr, budget.steps, warmup=200) for shape in (cosine, linear, wsd) for lr in (1e-3, 3e-3)]


def test_without_the_smallest_models_is_a_refit_without_them():
    law = OptLaw.fit(RUNS)
    budget, schedules = inside()
    _, small = of(law, RUNS)
    params = RUNS.frame.params.to_numpy()
    refitted = OptLaw.fit(RUNS.subset(params > params.min()))
    found = plan(refitted, budget, schedules)
    best = plan(law, budget, schedules).best
    assert small.best == found.best
    assert small.behind == pytest.approx(refitted.log_losses([best, found.best], [budget] * 2) @ [1, -1])
    assert small.stays == (small.behind < 1e-4)
    assert small.moved == pytest.approx(refitted.predict(best, budget).loss / law.predict(best, budget).loss - 1)
    assert f"{(params == params.min()).sum()} runs of the smallest models (50M params)" in small.assumption


def test_small_models_that_want_the_opposite_change_the_winner():
    """Where the smallest models prefer a low peak by far and the others a high one, leaving them out turns the ranking."""
    params = RUNS.frame.params.to_numpy()
    peak = np.log(np.array([schedule.peak_lr for schedule in RUNS.schedules]) / 2e-3)
    runs = with_loss(RUNS, 3 + np.where(params == params.min(), 0.5, -0.05) * peak)
    law = OptLaw.fit(runs)
    budget = Budget(params=7e7, tokens=8e9, batch_tokens=BATCH)
    _, without = of(law, runs, budget, _longer(budget))
    assert not without.stays
    assert without.behind > 0
    assert without.best.peak_lr == 3e-3
    assert f"winner changes to {without.best}, {without.behind:.2%} ahead" in without.summary()


def test_a_winner_that_is_tied_with_the_new_one_stays():
    tied, changed = (
        Sensitivity("If", _longer(BUDGET)[0], True, 0.001, 0.02),
        Sensitivity("If", _longer(BUDGET)[0], False, 0.03, 0.02),
    )
    assert "winner stays, tied with cosine(0.001, 8000, warmup=200)" in tied.summary()
    assert "winner changes to cosine(0.001, 8000, warmup=200), 3.00% ahead of it" in changed.summary()
    law, (budget, schedules) = OptLaw.fit(RUNS), inside()
    quiet = sensitivities(law, RUNS, budget, schedules, law.log_losses(schedules, [budget] * 3))[1]
    evidence = dataclasses.replace(law.evidence, seed_noise=1.0)
    loud = sensitivities(
        dataclasses.replace(law, evidence=evidence),
        RUNS,
        budget,
        schedules[::-1],
        law.log_losses(schedules[::-1], [budget] * 3),
    )[1]
    assert quiet.best == loud.best
    assert loud.stays and loud.behind > 0.001, "the seed noise is larger than any gap"


def test_diverged_runs_do_not_count():
    doomed = RUNS.frame.iloc[:3].assign(loss=[np.nan, 0.1, 7.0], diverged=True)
    runs = Runs.from_frame(pd.concat([RUNS.frame, doomed]))
    law = OptLaw.fit(RUNS)
    budget, schedules = inside()
    losses = law.log_losses(schedules, [budget] * 3)
    for with_doomed, without in zip(
        sensitivities(law, runs, budget, schedules, losses),
        sensitivities(law, RUNS, budget, schedules, losses),
        strict=True,
    ):
        assert with_doomed.summary() == without.summary()


@pytest.mark.filterwarnings("ignore::thalweg.outcomes.ThalwegWarning")  # one size does not fix all coefficients
def test_what_cannot_be_fitted_is_said():
    one_size = RUNS.subset(RUNS.frame.params.to_numpy() == 1e8)
    law = OptLaw.fit(one_size)
    _, small = of(law, one_size)
    assert small.best is None
    assert "there are no others" in small.summary()
    few = np.arange(len(RUNS)) % 3 == 0
    few &= (RUNS.frame.params.to_numpy() == 5e7) | (np.arange(len(RUNS)) > 300)
    _, small = of(OptLaw.fit(RUNS.subset(few)), RUNS.subset(few))
    assert "expected at least 16" in small.summary()


def test_a_plan_says_both_and_only_with_runs(tmp_path):
    law = OptLaw.fit(RUNS)
    budget, schedules = inside()
    found = plan(law, budget, schedules, runs=RUNS)
    assert [line for line in found.summary().splitlines() if "predicted loss moves by" in line] == [
        sensitivity.summary() for sensitivity in found.sensitivities
    ]
    assert len(found.sensitivities) == 2
    assert type(found).load(found.save(tmp_path / "plan.json")).summary() == found.summary()
    assert plan(law, budget, schedules).sensitivities == ()
    previous = (schedules[0], budget)
    assert plan(law, budget, schedules, runs=RUNS, after=previous).sensitivities == ()


def test_runs_beside_a_published_law_are_refused():
    budget, schedules = inside()
    with pytest.raises(ThalwegError, match=r"OptLaw\.fit\(runs\)"):
        plan(OptLaw.published(), budget, schedules, runs=RUNS)
