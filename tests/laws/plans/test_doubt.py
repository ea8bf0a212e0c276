"""Joint doubt of predictions: against the textbook posterior, against simulated tables, against the error of a mean."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np
import pandas as pd
import pytest

from tests.laws.tables import grid_of_runs, inside, noise_free, with_loss
from thalweg.laws import Chinchilla, Evidence, Law, OptLaw
from thalweg.laws.fitting import evidence_of, folds
from thalweg.laws.plans.doubt import doubt_of
from thalweg.runs import Runs
from thalweg.schedules import Budget, Schedule

RUNS = grid_of_runs()


@dataclass(frozen=True, slots=True, eq=False)
class ToyMean(Law):
    """Every run has the mean log(loss)."""

    sources: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    mean: float = 0.0
    evidence: Evidence = field(default_factory=Evidence)

    @classmethod
    def fit(cls, runs: Runs) -> Self:
        measured = np.log(runs.loss)
        return cls(float(measured.mean()), evidence_of(runs, cls.inputs, measured - measured.mean(), ""))

    def log_losses(
        self,
        schedules: Sequence[Schedule],
        budgets: Sequence[Budget],
        *,
        after: Sequence[tuple[Schedule, Budget]] = (),
    ) -> np.ndarray:
        return np.full(len(schedules), self.mean)


def covariance(law, runs=RUNS):
    budget, schedules = inside()
    doubt = doubt_of(law, runs, schedules, [budget] * 3)
    return doubt.factor @ doubt.factor.T, doubt


def test_opt_law_has_the_posterior_of_the_textbook():
    """(σ²)(XᵀX + Λ)⁻¹ in raw features, Λ the ridge on standardised slopes around the mean, by dense inversion."""
    law = OptLaw.fit(RUNS, ridge=1e-4)
    budget, schedules = inside()
    X = np.stack([law.features(s, b) for s, b in zip(RUNS.schedules, RUNS.budgets, strict=True)])
    x = np.stack([law.features(s, budget) for s in schedules])
    varies = X.std(axis=0) > 1e-9
    centred = X[:, varies] - X[:, varies].mean(axis=0)
    Z, z = (rows / X[:, varies].std(axis=0) for rows in (centred, x[:, varies] - X[:, varies].mean(axis=0)))
    slopes = z @ np.linalg.inv(Z.T @ Z + len(X) * 1e-4 * np.eye(Z.shape[1])) @ z.T
    expected = law.evidence.spread**2 * (slopes + 1 / len(X))
    found, doubt = covariance(law)
    np.testing.assert_allclose(found, expected, rtol=1e-8)
    assert doubt.noise == law.evidence.spread
    assert doubt.method == "Bayesian regression on 15 features"


def test_plain_least_squares_is_as_uncertain_as_its_refits_on_new_noise():
    """Without a prior the posterior is the sampling covariance: 400 tables of one truth, 1 % noise."""
    truth = OptLaw.fit(RUNS, ridge=1e-6)
    exact = noise_free(truth, RUNS).loss
    budget, schedules = inside()
    generator = np.random.default_rng(0)
    law = OptLaw.fit(with_loss(RUNS, exact * np.exp(0.01 * generator.standard_normal(len(exact)))), ridge=0.0)
    X = np.stack([law.features(s, b) for s, b in zip(RUNS.schedules, RUNS.budgets, strict=True)])
    x = np.stack([law.features(s, budget) for s in schedules])
    noise = 0.01 * generator.standard_normal((400, len(exact)))
    drawn = x @ np.linalg.lstsq(X, noise.T, rcond=None)[0]
    found, doubt = covariance(law)
    assert doubt.noise == pytest.approx(0.01, rel=0.15)
    gap = np.array([1.0, -1.0, 0.0])
    assert gap @ found @ gap == pytest.approx(np.var(gap @ drawn), rel=0.4)


def test_the_jackknife_of_a_mean_is_its_standard_error():
    """One run a group: the jackknife variance of a mean is s²/n exactly."""
    runs = RUNS.subset(np.arange(len(RUNS)) % 16 == 0)
    assert len(np.unique(folds(runs)[0])) == len(runs) == 20
    found, doubt = covariance(ToyMean.fit(runs), runs)
    np.testing.assert_allclose(found, np.var(np.log(runs.loss), ddof=1) / 20, rtol=1e-10)
    assert doubt.method == "jackknife over 20 groups of runs"


def test_every_law_has_a_doubt_and_a_law_without_schedules_none_about_gaps():
    few = RUNS.subset(np.arange(len(RUNS)) % 16 == 0)
    found, _ = covariance(Chinchilla.fit(few), few)
    assert found[0, 0] > 0
    np.testing.assert_allclose(found, found[0, 0])


def test_four_times_the_runs_halve_the_doubt():
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(RUNS)))
    once = with_loss(RUNS, RUNS.loss * noise)
    four = Runs.from_frame(pd.concat([once.frame] * 4))
    law = OptLaw.fit(once, ridge=1e-6)
    doubts = [covariance(law, runs)[0] for runs in (once, four)]
    np.testing.assert_allclose(doubts[1], doubts[0] / 4, rtol=1e-6)
