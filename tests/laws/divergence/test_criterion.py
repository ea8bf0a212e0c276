"""What the divergence criteria share: their evidence, and which runs they refuse or warn of."""

from __future__ import annotations

import dataclasses
import warnings

import numpy as np
import pandas as pd
import pytest

from tests.laws.divergence_tables import marked, runs_of
from thalweg.laws import DivergenceCriterion, DivergenceEvidence, LogisticDivergence
from thalweg.laws.divergence.criterion import bootstrap_f1, check_divergence, evidence_of_divergence
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs

BOTH = pytest.mark.parametrize("criterion", [DivergenceCriterion, LogisticDivergence])


@pytest.fixture(scope="module")
def few() -> Runs:
    """48 runs that vary in every input, 13 of them diverged."""
    runs = runs_of(DivergenceCriterion.published())
    return runs.subset(np.random.default_rng(1).permutation(len(runs)) < 48)


def test_the_evidence_counts_what_was_told_wrong(few):
    """A feature that knows the outcomes, but for two runs it has the wrong way round."""
    wrong = [int(np.flatnonzero(few.diverged)[0]), int(np.flatnonzero(~few.diverged)[0])]
    known = few.diverged.copy()
    known[wrong] = ~known[wrong]
    diverged = int(few.diverged.sum())
    evidence = evidence_of_divergence(few, known[None, :, None].astype(float))
    assert (evidence.runs, evidence.diverged, evidence.cells) == (48, diverged, len(np.unique(few.cells)))
    assert evidence.precision == pytest.approx((diverged - 1) / diverged)
    assert evidence.recall == pytest.approx((diverged - 1) / diverged)
    assert evidence.f1 == pytest.approx((diverged - 1) / diverged)
    assert evidence.f1_interval[0] < evidence.f1 < evidence.f1_interval[1] <= 1
    for row, told in zip(wrong, (evidence.missed, evidence.false_alarms), strict=True):
        assert len(told) == 1
        assert f"peak_lr {few.schedules[row].peak_lr:.2e}".replace("e-0", "e-") in told[0]
    assert evidence.held_out == "one (params, tokens) cell at a time, merged into 10 folds"
    assert f"F1 {evidence.f1:.3f}" in evidence.summary()
    assert evidence.missed[0] in evidence.summary()


def test_where_none_was_told_to_diverge_precision_is_not_a_number(few):
    nothing = evidence_of_divergence(few, np.zeros((1, 48, 1)))
    assert nothing.precision is None
    assert (nothing.recall, nothing.f1, nothing.f1_interval) == (0.0, 0.0, (0.0, 0.0))
    assert "undefined" in nothing.summary()


def test_the_bootstrap_draws_whole_groups():
    """Two groups, one all hits and one all misses: F1 of a draw is that of 0, 1 or 2 times the first, by 1 : 2 : 1."""
    hit = np.array([True] * 10 + [False] * 10)
    none = np.zeros(20, dtype=bool)
    assert bootstrap_f1(hit, none, ~hit, np.repeat([0, 1], 10)) == (0.0, 1.0)
    # a run at a time, F1 = 2h/(h + 20) with h hits, binomial with sd √5: its 5 and 95 % quantiles are h = 6 and 14, give or take one
    low, high = bootstrap_f1(hit, none, ~hit, np.arange(20))
    assert 10 / 25 < low < 16 / 28
    assert 26 / 33 < high < 30 / 35
    assert bootstrap_f1(hit, none, none, np.arange(20)) == (1.0, 1.0)


@BOTH
@pytest.mark.parametrize(("all_of_them", "count"), [(False, "got 0 of 48"), (True, "got 48 of 48")])
def test_runs_of_one_kind_tell_nothing(criterion, few, all_of_them, count):
    with pytest.raises(ThalwegError, match=count) as error:
        criterion.fit(marked(few, np.full(48, all_of_them)))
    assert "\n" not in str(error.value)


@BOTH
def test_fewer_runs_than_constants_are_refused(criterion, few):
    with pytest.raises(ThalwegError, match=r"got 3 runs, expected at least"):
        criterion.fit(few.subset(np.arange(48) < 3))


@BOTH
def test_one_peak_is_refused(criterion, few):
    rows = few.frame.drop(columns="schedule").assign(peak_lr=3e-3)
    with pytest.raises(ThalwegError, match="one value in all 48 runs"):
        criterion.fit(Runs.from_frame(rows))


@BOTH
def test_inputs_that_did_not_vary_are_named(criterion, few):
    same = few.frame.drop(columns="schedule").assign(warmup=100, params=1e8)
    with pytest.warns(ThalwegWarning, match="params and warmup did not vary") as caught:
        criterion.fit(Runs.from_frame(same))
    assert caught[0].filename == __file__


def test_inputs_that_varied_only_together_are_named(few):
    """A warmup of 2 % of the steps is known from tokens and batch, but for its rounding."""
    frame = few.frame.drop(columns="schedule")
    tied = Runs.from_frame(frame.assign(warmup=(0.02 * frame.tokens / frame.batch_tokens).round().astype(int)))
    with pytest.warns(ThalwegWarning, match="only varied together"):
        check_divergence(tied, needed=6, criterion="LogisticDivergence")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        check_divergence(few, needed=6, criterion="LogisticDivergence")


@BOTH
def test_the_order_of_rows_does_not_matter(criterion, few):
    shuffled = Runs.from_frame(few.frame.sample(frac=1, random_state=0))
    one, other = criterion.fit(few), criterion.fit(shuffled)
    same = [getattr(one, field.name) for field in dataclasses.fields(one) if field.name != "evidence"]
    again = [getattr(other, field.name) for field in dataclasses.fields(one) if field.name != "evidence"]
    for mine, theirs in zip(same, again, strict=True):
        np.testing.assert_allclose(mine, theirs, rtol=1e-6)
    assert (one.evidence.f1, set(one.evidence.missed)) == (other.evidence.f1, set(other.evidence.missed))


@BOTH
def test_json_round_trip(criterion, few, tmp_path):
    law = criterion.fit(few)
    again = criterion.load(law.save(tmp_path / "criterion.json"))
    assert again.evidence == law.evidence
    assert again.summary() == law.summary()
    schedule, budget = few.schedules[0], few.budgets[0]
    assert again.ratio(schedule, budget) == law.ratio(schedule, budget)
    with pytest.raises(ThalwegError):
        DivergenceEvidence.load(tmp_path / "criterion.json")


@BOTH
def test_many_schedules_equal_each_by_itself(criterion, few):
    law, budget = criterion.fit(few), few.budgets[0]
    steps = few.schedules[0].steps
    table = pd.DataFrame({"peak_lr": [1e-3, 3e-3, 9e-3], "warmup": [0, 100, 700]})
    schedules = Runs.from_frame(
        table.assign(
            params=budget.params, tokens=budget.tokens, batch_tokens=budget.batch_tokens, loss=3.0, final_lr=0.0
        ),
        assume={"shape": "cosine"},
    ).schedules
    together = law.ratios(budget, table.peak_lr.to_numpy(), table.warmup.to_numpy(), np.full(3, steps))
    np.testing.assert_allclose(together, [law.ratio(schedule, budget) for schedule in schedules], rtol=1e-12)
    assert [law.diverges(schedule, budget) for schedule in schedules] == (together > 1).tolist()
