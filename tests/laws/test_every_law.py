"""The battery that every law of the lazy table passes; a new row is taken up by itself."""

from __future__ import annotations

import dataclasses
import functools

import numpy as np
import pandas as pd
import pytest

from tests.laws.tables import BATCH, grid_of_runs, inside, noise_free, with_loss
from thalweg import laws
from thalweg.laws import Law
from thalweg.outcomes import ThalwegError
from thalweg.runs import Runs
from thalweg.schedules import Budget, from_values, linear

pytestmark = pytest.mark.parametrize("name", laws.LAWS)


ONLY = {"OptLawFixedSize": 3e8}  # laws of one model size, and the size they get


@functools.cache
def table(name: str) -> Runs:
    """The runs that a law is fitted on: all, or those of its size."""
    runs = grid_of_runs()
    return runs.subset((runs.frame.params == ONLY[name]).to_numpy()) if name in ONLY else runs


@functools.cache
def fitted(name: str) -> Law:
    """The law fitted on a table that follows another law."""
    return laws.find(name).fit(table(name))


@functools.cache
def exact(name: str) -> Law:
    """The law fitted on a table that follows it without noise."""
    return laws.find(name).fit(noise_free(fitted(name), table(name)))


def test_the_row_names_a_frozen_law_with_sources(name):
    law = laws.find(name)
    assert issubclass(law, Law)
    assert law.__name__ == name
    assert law.sources
    assert fitted(name).cite().count("@article") == len(law.sources)
    with pytest.raises(dataclasses.FrozenInstanceError):
        fitted(name).evidence = None  # type: ignore[misc]


def test_recovers_its_own_predictions(name):
    """Fitted on its own noise-free runs, it predicts what it predicted, also for runs it has not seen."""
    np.testing.assert_allclose(exact(name).predict_runs(table(name)), fitted(name).predict_runs(table(name)), rtol=1e-4)
    budget, schedules = inside(ONLY.get(name, 2e8))
    for schedule in schedules:
        expected = fitted(name).predict(schedule, budget).loss
        assert exact(name).predict(schedule, budget).loss == pytest.approx(expected, rel=1e-3)


def test_held_out_residuals_vanish_without_noise(name):
    assert np.abs(exact(name).evidence.residuals).max() < 2e-3
    assert np.abs(fitted(name).evidence.residuals).max() > 2e-3  # and do not where the table follows another law


def test_json_round_trip(name, tmp_path):
    law = fitted(name)
    again = laws.load(law.save(tmp_path / "law.json"))
    assert type(again) is type(law)
    np.testing.assert_array_equal(again.predict_runs(table(name)), law.predict_runs(table(name)))
    budget, schedules = inside(ONLY.get(name, 2e8))
    assert again.predict(schedules[0], budget) == law.predict(schedules[0], budget)
    assert again.summary() == law.summary()
    outside = Budget(params=9e9, tokens=6e9, batch_tokens=BATCH)
    assert again.predict(schedules[0], outside).extrapolates == law.predict(schedules[0], outside).extrapolates != ()


def test_invariant_to_resampling_the_schedule(name):
    """A schedule and the table of its per-step values are one schedule."""
    budget, schedules = inside(ONLY.get(name, 2e8))
    for schedule in schedules:
        sampled = from_values(schedule.values(), phases=tuple(schedule.phases))
        prediction = fitted(name).predict(schedule, budget)
        assert fitted(name).predict(sampled, budget).loss == pytest.approx(prediction.loss, rel=2e-3)
        assert fitted(name).predict(sampled, budget).extrapolates == prediction.extrapolates


def test_names_extrapolation_outside_its_range_only(name):
    law = fitted(name)
    budget, schedules = inside(ONLY.get(name, 2e8))
    assert law.predict(schedules[0], budget).extrapolates == ()
    far = Budget(params=7e9, tokens=300e9, batch_tokens=BATCH)
    phrases = law.predict(linear(2e-3, far.steps, warmup=100), far).extrapolates
    assert [phrase.split()[0] for phrase in phrases] == ["params", "tokens"]
    assert "7B" in phrases[0]
    assert ("300M alone" if name in ONLY else "50M to 1B") in phrases[0]
    if "peak_lr" in law.inputs:
        hot = law.predict(linear(5e-2, budget.steps, warmup=100), budget)
        assert [phrase.split()[0] for phrase in hot.extrapolates] == ["peak_lr"]


def test_intervals_after_a_fit_cover_new_runs(name):
    """90 % intervals hold 82 to 97 % of fresh runs with the noise of the table (3 sd of 320 draws)."""
    generator = np.random.default_rng(0)
    exact_loss = fitted(name).predict_runs(table(name))

    def noise() -> np.ndarray:
        return np.exp(0.01 * generator.standard_normal(len(exact_loss)))

    law = laws.find(name).fit(with_loss(table(name), exact_loss * noise()))
    fresh = exact_loss * noise()
    low, high = law.evidence.interval(np.log(law.predict_runs(table(name))))
    assert 0.82 <= np.mean((low <= fresh) & (fresh <= high)) <= 0.97
    budget, schedules = inside(ONLY.get(name, 2e8))
    prediction = law.predict(schedules[0], budget)
    assert prediction.interval[0] < prediction.loss < prediction.interval[1]


def test_predict_runs_equals_predict(name):
    runs = table(name).subset(np.arange(len(table(name))) < 5)
    each = [
        fitted(name).predict(schedule, budget).loss
        for schedule, budget in zip(runs.schedules, runs.budgets, strict=True)
    ]
    np.testing.assert_allclose(fitted(name).predict_runs(runs), each, rtol=1e-12)


def test_rank_is_the_order_of_predictions(name):
    budget, schedules = inside(ONLY.get(name, 2e8))
    ranking = fitted(name).rank(schedules, budget)
    losses = np.array([fitted(name).predict(schedule, budget).loss for schedule in schedules])
    np.testing.assert_array_equal(ranking.order, np.argsort(losses, kind="stable"))
    np.testing.assert_allclose(ranking.gaps, np.log(np.sort(losses) / losses.min()), atol=1e-12)


def test_diverged_runs_are_left_out_of_the_fit(name):
    doomed = table(name).frame.iloc[:7].assign(loss=[np.nan, 7.0, 7.0, 11.0, 7.0, np.nan, 7.0], diverged=True)
    with_doomed = Runs.from_frame(pd.concat([table(name).frame, doomed]))
    assert len(with_doomed) == len(table(name)) + 7
    law = laws.find(name).fit(with_doomed)
    np.testing.assert_array_equal(law.predict_runs(table(name)), fitted(name).predict_runs(table(name)))
    assert law.evidence.runs == len(table(name))


def test_the_order_of_rows_does_not_matter(name):
    shuffled = Runs.from_frame(table(name).frame.sample(frac=1, random_state=0))
    law = laws.find(name).fit(shuffled)
    np.testing.assert_allclose(law.predict_runs(table(name)), fitted(name).predict_runs(table(name)), rtol=1e-5)


def test_too_few_runs_are_refused_in_one_line(name):
    few = table(name).subset(np.arange(len(table(name))) < 4)
    with pytest.raises(ThalwegError, match=r"got 4 runs .* expected at least") as error:
        laws.find(name).fit(few)
    assert "\n" not in str(error.value)


def test_a_schedule_of_another_length_is_refused(name):
    budget, _ = inside(ONLY.get(name, 2e8))
    with pytest.raises(ThalwegError, match="6000"):
        fitted(name).predict(linear(2e-3, 7000, warmup=100), budget)


def test_seed_noise_is_read_off_repeated_configurations(name):
    assert fitted(name).evidence.seed_noise is None
    generator = np.random.default_rng(1)
    frame = pd.concat([table(name).frame] * 3)
    noisy = Runs.from_frame(frame.assign(loss=frame.loss * np.exp(0.02 * generator.standard_normal(len(frame)))))
    assert laws.find(name).fit(noisy).evidence.seed_noise == pytest.approx(0.02, rel=0.1)
