"""Ridge-penalised logistic regression against scikit-learn, and what its cross-validation may not see."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from sklearn.linear_model import LogisticRegression

from thalweg.laws.divergence import logistic
from thalweg.laws.divergence.logistic import STRENGTHS, fit_logistic, held_out_log_odds


def drawn(
    seed: int, rows: int = 60, steep: float = 3.0, noise: float = 1.0
) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    generator = np.random.default_rng(seed)
    x = generator.standard_normal((rows, 3)) * [1, 10, 0.1] + [0, 5, -2]
    events = steep * (x @ [1, 0.1, 5] + 9) + noise * generator.logistic(size=rows) > 0
    return x, events, np.arange(rows) % 6


@pytest.mark.parametrize("seed", range(5))
@pytest.mark.parametrize("noise", [0.0, 1.0])
def test_the_minimum_is_scikit_learns(seed, noise):
    """At the strength it chose, on the same standardised features, separable or not."""
    x, events, groups = drawn(seed, noise=noise)
    fit = fit_logistic(x[None], events, groups)
    mean, scale = x.mean(axis=0), x.std(axis=0)
    reference = LogisticRegression(C=1 / (fit.strength * len(x)), solver="newton-cholesky", tol=1e-10)
    reference.fit((x - mean) / scale, events)
    np.testing.assert_allclose(fit.coefficients * scale, reference.coef_[0], rtol=1e-6)
    assert fit.intercept + fit.coefficients @ mean == pytest.approx(reference.intercept_[0], rel=1e-6)


@given(
    seed=st.integers(0, 10_000),
    rows=st.integers(6, 50),
    steep=st.sampled_from([0.1, 1.0, 100.0]),
    noise=st.sampled_from([0.0, 1.0]),
)
def test_the_gradient_vanishes_at_every_strength(seed, rows, steep, noise):
    x, events, _ = drawn(seed, rows, steep, noise)
    if events.all() or not events.any():
        return
    design = np.ones((1, rows, 4))
    design[0, :, :-1] = (x - x.mean(axis=0)) / x.std(axis=0)
    weights, _ = logistic._newton(design, events, STRENGTHS)
    chance = 1 / (1 + np.exp(-weights[:, 0] @ design[0].T))
    gradient = (chance - events) @ design[0] / rows
    gradient[:, :-1] += STRENGTHS[:, None] * weights[:, 0, :-1]
    assert np.abs(gradient).max() < 1e-9


def test_the_strength_is_that_of_least_held_out_log_loss():
    x, events, groups = drawn(3)
    losses = []
    for strength in STRENGTHS:
        loss = 0.0
        for group in np.unique(groups):
            rest = groups != group
            mean, scale = x[rest].mean(axis=0), x[rest].std(axis=0)
            model = LogisticRegression(C=1 / (strength * rest.sum()), solver="newton-cholesky", tol=1e-10)
            odds = model.fit((x[rest] - mean) / scale, events[rest]).decision_function((x[~rest] - mean) / scale)
            loss += np.sum(np.logaddexp(0, odds) - events[~rest] * odds)
        losses.append(loss)
    assert 0 < np.argmin(losses) < len(STRENGTHS) - 1
    assert fit_logistic(x[None], events, groups).strength == STRENGTHS[np.argmin(losses)]


def test_of_alternatives_the_one_that_explains_is_taken():
    x, events, groups = drawn(0)
    shuffled = np.random.default_rng(0).permutation(x)
    assert fit_logistic(np.stack([shuffled, x, -shuffled]), events, groups).alternative == 1
    alone, among = fit_logistic(x[None], events, groups), fit_logistic(np.stack([shuffled, x]), events, groups)
    np.testing.assert_allclose(among.coefficients, alone.coefficients, rtol=1e-9)


def test_held_out_odds_never_saw_their_own_outcome():
    """Turning over every outcome of one group does not move what is said of it, and does move what is said of others."""
    x, events, groups = drawn(1)
    before = held_out_log_odds(x[None], events, groups)
    here = groups == 2
    after = held_out_log_odds(x[None], np.where(here, ~events, events), groups)
    np.testing.assert_array_equal(before[here], after[here])
    assert (before[~here] != after[~here]).all()


def test_held_out_odds_are_those_of_a_fit_without_the_group():
    x, events, groups = drawn(2)
    odds = held_out_log_odds(x[None], events, groups)
    for group in np.unique(groups):
        here = groups == group
        fit = fit_logistic(x[None, ~here], events[~here], groups[~here])
        np.testing.assert_allclose(odds[here], x[here] @ fit.coefficients + fit.intercept, rtol=1e-9)


def test_a_group_that_holds_all_events_is_met_with_the_chance_of_the_others():
    x, _, groups = drawn(0)
    events = groups == 4
    odds = held_out_log_odds(x[None], events, groups)
    assert odds[groups == 4] == pytest.approx(np.log(0.5 / 50.5))


def test_many_groups_are_left_out_in_few_folds_of_whole_groups():
    x, events, _ = drawn(0)
    groups = np.arange(60) // 2
    odds = held_out_log_odds(x[None], events, groups)
    together = np.isin(groups, [3, 13, 23])
    fit = fit_logistic(x[None, ~together], events[~together], groups[~together])
    np.testing.assert_allclose(odds[together], x[together] @ fit.coefficients + fit.intercept, rtol=1e-9)


def test_a_constant_feature_gets_no_coefficient():
    x, events, groups = drawn(0)
    x[:, 1] = np.log(1e6)
    fit = fit_logistic(x[None], events, groups)
    assert fit.coefficients[1] == 0
    np.testing.assert_allclose(
        fit_logistic(x[None][..., [0, 2]], events, groups).coefficients, fit.coefficients[[0, 2]]
    )
