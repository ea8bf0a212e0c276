"""Ridge against its normal equations, held-out predictions against refits by hand, spreads against their definition."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws.tables import grid_of_runs
from thalweg.laws.fitting import STRENGTHS, evidence_of, fit_ridge, folds, held_out


def problem(rows=60, columns=5):
    generator = np.random.default_rng(0)
    raw = generator.standard_normal((rows, columns)) * np.array([1, 100, 1e-3, 1, 1]) + 3
    features = np.column_stack([raw, np.ones(rows)])
    target = raw @ np.array([1.0, 0.02, 300.0, 0.0, -2.0]) + 0.5 + 0.1 * generator.standard_normal(rows)
    return features, target, np.arange(rows) % 6


@pytest.mark.parametrize("strength", [0.0, 1e-3, 1.0])
def test_ridge_solves_the_normal_equations_of_standardised_features(strength):
    features, target, groups = problem()
    raw = features[:, :-1]
    z = (raw - raw.mean(0)) / raw.std(0)
    slopes = np.linalg.solve(z.T @ z / len(z) + strength * np.eye(5), z.T @ (target - target.mean()) / len(z))
    found = fit_ridge(features, target, groups, strength)
    np.testing.assert_allclose(features @ found.coefficients, z @ slopes + target.mean(), rtol=1e-9)
    assert found.condition == pytest.approx(np.linalg.cond(z))
    assert found.strength == strength


def test_held_out_predictions_come_from_fits_without_the_group():
    features, target, groups = problem()
    found = fit_ridge(features, target, groups, 0.01)
    for group in range(6):
        out = groups == group
        part = fit_ridge(features[~out], target[~out], groups[~out], 0.01)
        np.testing.assert_allclose(found.held_out[out], features[out] @ part.coefficients, rtol=1e-9)


def test_the_strength_is_the_one_with_the_least_held_out_error():
    features, target, groups = problem(rows=12)
    found = fit_ridge(features, target, groups)
    errors = [np.mean((target - fit_ridge(features, target, groups, strength).held_out) ** 2) for strength in STRENGTHS]
    assert found.strength == STRENGTHS[int(np.argmin(errors))]
    assert found.strength not in (STRENGTHS[0], STRENGTHS[-1])


def test_a_constant_feature_gets_no_weight_and_is_not_counted_in_the_condition_number():
    features, target, groups = problem()
    padded = np.insert(features, 2, 7.0, axis=1)
    found, plain = fit_ridge(padded, target, groups, 0.0), fit_ridge(features, target, groups, 0.0)
    assert found.coefficients[2] == 0
    np.testing.assert_allclose(np.delete(found.coefficients, 2), plain.coefficients, rtol=1e-9)
    assert found.condition == pytest.approx(plain.condition)


def test_a_repeated_feature_has_no_finite_condition_and_shares_its_weight():
    features, target, groups = problem()
    doubled = np.column_stack([features[:, 0], features])
    found, plain = fit_ridge(doubled, target, groups, 0.0), fit_ridge(features, target, groups, 0.0)
    assert found.condition > 1e12
    np.testing.assert_allclose(doubled @ found.coefficients, features @ plain.coefficients, rtol=1e-9)


def test_fewer_rows_than_features():
    features, target, groups = problem(rows=4)
    found = fit_ridge(features, target, groups, 0.0)
    assert found.condition == float("inf")
    np.testing.assert_allclose(features @ found.coefficients, target, rtol=1e-9)


def test_cells_are_left_out_whole_unless_there_are_too_few():
    runs = grid_of_runs()
    groups, words = folds(runs)
    np.testing.assert_array_equal(groups, runs.cells)
    assert "cell at a time" in words
    few = runs.subset(runs.cells < 3)
    groups, words = folds(few)
    assert len(np.unique(groups)) == len(few) == 48
    assert "configuration at a time" in words


def test_held_out_calls_each_group_once():
    groups = np.array([0, 1, 0, 2])
    asked = []

    def predict(left_out):
        asked.append(left_out.tolist())
        return np.flatnonzero(left_out).astype(float)

    np.testing.assert_array_equal(held_out(predict, groups), [0, 1, 2, 3])
    assert asked == [[True, False, True, False], [False, True, False, False], [False, False, False, True]]


def test_evidence_states_ranges_and_spreads():
    runs = grid_of_runs()
    shared = np.repeat([0.03, -0.03], len(runs) // 2)  # an error of whole cells is no error of the ranking
    own = np.tile([0.01, -0.01], len(runs) // 2)
    evidence = evidence_of(runs, ("params", "warmup"), shared + own, "by hand")
    assert evidence.ranges == {"params": (5e7, 1e9), "warmup": (50, 200)}
    assert evidence.spread == pytest.approx(0.01 * np.sqrt(320 / 300))
    assert (evidence.runs, evidence.cells, evidence.seed_noise) == (320, 20, None)
