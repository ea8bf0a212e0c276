"""Ridge against its normal equations, Huber fits against a general minimiser, held-out predictions against refits by hand."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws.tables import grid_of_runs
from thalweg.laws.fitting import (
    STRENGTHS,
    evidence_of,
    fit_huber,
    fit_ridge,
    folds,
    held_out,
    huber_weights,
    log_sum_exp,
    sizes_of,
)
from thalweg.outcomes import ThalwegError


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


def test_robust_ridge_minimises_hubers_loss():
    """At the settled scale, no step along any slope lowers the sum of Huber's losses and the penalty."""
    features, target, groups = problem()
    target = target + np.where(np.arange(60) % 9 == 0, 3.0, 0.0)
    found = fit_ridge(features, target, groups, 1e-3, robust=True)
    turn = 1.345 * 1.4826 * np.median(np.abs(target - features @ found.coefficients))
    scale = np.append(features[:, :-1].std(0), 1.0)

    def objective(coefficients):
        size = np.abs(target - features @ coefficients)
        huber = np.where(size <= turn, size**2 / 2, turn * (size - turn / 2))
        return huber.sum() + 60 * 1e-3 * np.sum((coefficients * scale)[:-1] ** 2) / 2

    for which in range(6):
        for sign in (-1, 1):
            moved = found.coefficients.copy()
            moved[which] += sign * 0.02 / scale[which]
            assert objective(moved) > objective(found.coefficients)


def test_outliers_bend_squares_and_not_the_robust_fit():
    features, target, groups = problem()
    spiked = target + np.where(np.arange(60) == 7, 50.0, 0.0)
    clean = features @ fit_ridge(features, target, groups, 0.0).coefficients
    missed = [
        np.abs(features @ fit_ridge(features, spiked, groups, 0.0, robust=robust).coefficients - clean).max()
        for robust in (False, True)
    ]
    assert missed[0] > 1
    assert missed[1] < 0.1


def test_an_outlier_has_no_say_in_how_it_is_held_out():
    features, target, groups = problem()
    spiked = target + np.where(groups == 2, 50.0, 0.0)
    usual, moved = (fit_ridge(features, y, groups, 1e-3, robust=True) for y in (target, spiked))
    np.testing.assert_allclose(moved.held_out[groups == 2], usual.held_out[groups == 2], rtol=1e-2, atol=1e-2)


def test_weights_are_one_up_to_the_turn_and_fall_as_its_share_beyond():
    residuals = np.array([0.0, 1.0, -1.0, 2.0, -2.0, 100.0, 1.0])
    turn = 1.345 * 1.4826 * 1.0
    np.testing.assert_allclose(huber_weights(residuals), [1, 1, 1, turn / 2, turn / 2, turn / 100, 1][:7])
    np.testing.assert_array_equal(huber_weights(np.zeros(4)), np.ones(4))


def test_standard_errors_are_the_jackknife_over_groups():
    features, target, groups = problem()
    found = fit_ridge(features, target, groups, 0.01)
    parts = [
        fit_ridge(features[groups != g], target[groups != g], groups[groups != g], 0.01).coefficients for g in range(6)
    ]
    expected = np.sqrt(5 / 6 * np.sum((parts - np.mean(parts, axis=0)) ** 2, axis=0))
    np.testing.assert_allclose(found.standard_errors, expected, rtol=1e-9)


def test_standard_errors_are_of_the_size_of_the_real_ones():
    """Rows left out one at a time, independent noise: the textbook's σ²(XᵀX)⁻¹, to 15 %."""
    features, target, _ = problem(rows=400)
    found = fit_ridge(features, target, np.arange(400), 0.0)
    textbook = 0.1 * np.sqrt(np.diag(np.linalg.inv(features.T @ features)))
    np.testing.assert_allclose(found.standard_errors, textbook, rtol=0.15)


def curve(constants, columns):
    a, b, power = constants
    return log_sum_exp(a, b - power * columns[0])


def curved(rows=40):
    x = np.linspace(-2, 2, rows)
    noise = 0.01 * np.random.default_rng(0).standard_normal(rows)
    return x[None], curve(np.array([0.5, 0.2, 0.7]), x[None]) + noise, np.arange(rows) % 5


def test_fit_huber_finds_what_a_general_minimiser_finds():
    from scipy.optimize import minimize

    columns, measured, groups = curved()

    def objective(constants):
        size = np.abs(curve(constants, columns) - measured)
        return np.where(size <= 1e-2, size**2 / 2, 1e-2 * (size - 5e-3)).sum()

    starts = [np.array([0.0, 0.0, power]) for power in (0.1, 0.5, 2.0)]
    found = fit_huber(curve, columns, measured, groups, starts, delta=1e-2)
    general = minimize(objective, found.constants + 0.1, method="Nelder-Mead", options={"xatol": 1e-9, "fatol": 1e-14})
    np.testing.assert_allclose(found.constants, general.x, atol=1e-5)
    assert found.cost == pytest.approx(objective(found.constants), rel=1e-9)


def test_fit_huber_holds_out_by_refits():
    columns, measured, groups = curved()
    start = [np.array([0.0, 0.0, 0.5])]
    found = fit_huber(curve, columns, measured, groups, start)
    for group in range(5):
        out = groups == group
        part = fit_huber(curve, columns[:, ~out], measured[~out], groups[~out], start)
        np.testing.assert_allclose(found.held_out[out], curve(part.constants, columns[:, out]), atol=1e-6)


def test_fit_huber_takes_the_best_start_and_keeps_within_bounds():
    columns = np.linspace(0, 3, 30)[None]

    def wave(constants, columns):
        return np.sin(constants[0] * columns[0])

    measured, groups = np.sin(2.0 * columns[0]), np.arange(30)
    starts = [np.array([start]) for start in (9.0, 5.0, 1.8)]
    assert fit_huber(wave, columns, measured, groups, starts, followed=1).constants == pytest.approx([2.0])
    bounds = (np.array([0.0]), np.array([1.5]))
    held = fit_huber(wave, columns, measured, groups, [np.array([1.2])], bounds=bounds)
    assert held.constants[0] == pytest.approx(1.5, abs=1e-6)


def test_log_sum_exp_is_numpys_and_its_derivative():
    a, b = np.array([-800.0, 0.0, 3.0]), np.array([-801.0, 700.0, 3.0])
    np.testing.assert_allclose(log_sum_exp(a, b), np.logaddexp(a, b), rtol=1e-14)
    derivative = log_sum_exp(a + 1e-30j, b).imag * 1e30
    np.testing.assert_allclose(derivative, np.exp(a - np.logaddexp(a, b)), rtol=1e-12, atol=1e-300)


def test_sizes_are_centred_logarithms_and_move_apart():
    runs = grid_of_runs()
    columns, means = sizes_of(runs, "Law", params=3, tokens=3, pairs=5)
    np.testing.assert_allclose(columns[0] + means[0], np.log(runs.frame.params))
    np.testing.assert_allclose(columns.mean(axis=1), 0, atol=1e-12)
    together = runs.subset(
        np.isin(runs.frame.params, [5e7, 1e8]) & np.isclose(runs.frame.tokens, 40 * runs.frame.params)
    )
    with pytest.raises(ThalwegError, match="params and tokens that move together"):
        sizes_of(together, "Law", params=2, tokens=2, pairs=2)
