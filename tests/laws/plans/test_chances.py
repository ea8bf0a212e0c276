"""The chances of being best: against simulation and closed forms."""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.laws.plans.chances import probability_best


def test_chances_equal_a_simulation():
    means = np.array([0.0, 0.005, 0.02, 0.3])
    generator = np.random.default_rng(0)
    draws = means + 0.01 * generator.standard_normal((200_000, 4))
    simulated = np.bincount(draws.argmin(axis=1), minlength=4) / len(draws)
    np.testing.assert_allclose(probability_best(means, 0.01, np.zeros(4, bool)), simulated, atol=4e-3)


def test_chances_of_two_have_a_closed_form():
    """P(first) = Φ(gap/(√2·spread)) = Φ(1) where the gap is √2 spreads."""
    chances = probability_best(np.array([0.0, 0.01 * np.sqrt(2)]), 0.01, np.zeros(2, bool))
    np.testing.assert_allclose(chances, [0.8413447, 0.1586553], atol=1e-7)


def test_runs_that_diverge_are_never_the_best():
    chances = probability_best(np.array([0.0, 0.01, 0.01]), 0.01, np.array([True, False, False]))
    np.testing.assert_allclose(chances, [0, 0.5, 0.5])
    assert probability_best(np.zeros(2), 0.01, np.ones(2, bool)).sum() == pytest.approx(1)


def test_chances_of_thousands_sum_to_one():
    chances = probability_best(np.linspace(0, 0.1, 3000), 0.01, np.zeros(3000, bool))
    assert chances.sum() == pytest.approx(1)
    assert (np.diff(chances) <= 0).all()
    np.testing.assert_allclose(probability_best(np.zeros(3000), 0.01, np.zeros(3000, bool)), 1 / 3000)


def test_a_spread_of_nothing_leaves_the_best_alone():
    np.testing.assert_allclose(probability_best(np.array([0.0, 1e-6]), 0.0, np.zeros(2, bool)), [1, 0])
