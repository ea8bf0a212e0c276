"""Kaplan's law recovers known constants, has the limits that name them, and says when a table cannot fix them."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from thalweg.laws import Kaplan
from thalweg.outcomes import ThalwegError
from thalweg.runs import Runs
from thalweg.schedules import Budget, linear

SIZES = (5e7, 1e8, 3e8, 1e9)
DATA = (2e9, 5e9, 1e10, 3e10)
TABLE_2 = {"Nc": 6.4e13, "Dc": 1.8e13, "alpha_n": 0.076, "alpha_d": 0.103}  # Kaplan et al. 2020


def loss(N, D, Nc, Dc, alpha_n, alpha_d):
    return ((Nc / N) ** (alpha_n / alpha_d) + Dc / D) ** alpha_d


def runs_of(pairs, constants=TABLE_2, factor=1.0) -> Runs:
    frame = pd.DataFrame(pairs, columns=["params", "tokens"])
    shape = {"peak_lr": 1e-3, "warmup": 10, "final_lr": 0.0, "shape": "linear", "batch_tokens": 1e6}
    return Runs.from_frame(frame.assign(loss=loss(frame.params, frame.tokens, **constants) * factor), assume=shape)


@pytest.mark.parametrize("constants", [TABLE_2, {"Nc": 3e12, "Dc": 5e11, "alpha_n": 0.12, "alpha_d": 0.2}])
def test_recovers_known_constants(constants):
    law = Kaplan.fit(runs_of(list(itertools.product(SIZES, DATA)), constants))
    for name, value in constants.items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-3 if name.startswith("alpha") else 1e-2)


def test_the_huber_loss_ignores_a_few_outliers():
    factor = np.ones(16)
    factor[[3, 9]] = 1.5
    law = Kaplan.fit(runs_of(list(itertools.product(SIZES, DATA)), factor=factor))
    assert law.alpha_n == pytest.approx(0.076, rel=0.02)
    assert law.alpha_d == pytest.approx(0.103, rel=0.02)


def test_without_end_of_one_the_loss_is_a_power_law_of_the_other():
    law = Kaplan(**TABLE_2)
    endless_data = Budget(params=1e9, tokens=1e40, batch_tokens=1e36)
    endless_size = Budget(params=1e60, tokens=1e10, batch_tokens=1e6)
    assert law.predict(linear(1e-3, 10000), endless_data).loss == pytest.approx((6.4e13 / 1e9) ** 0.076)
    assert law.predict(linear(1e-3, 10000), endless_size).loss == pytest.approx((1.8e13 / 1e10) ** 0.103)


def test_the_law_is_eq_1_5():
    law = Kaplan(**TABLE_2)
    for N, D in itertools.product(SIZES, DATA):
        budget = Budget(params=N, tokens=D, batch_tokens=1e6)
        assert law.predict(linear(1e-3, budget.steps), budget).loss == pytest.approx(loss(N, D, **TABLE_2), rel=1e-12)


def test_two_pairs_do_not_fix_four_constants():
    with pytest.raises(ThalwegError, match=r"1 different params, 4 different tokens .* at least 2, 2 and 4"):
        Kaplan.fit(runs_of([(1e8, D) for D in DATA]))


def test_it_has_no_form_for_earlier_training_and_is_blind_to_schedules():
    law = Kaplan(**TABLE_2)
    budget = Budget(params=1e9, tokens=2e10, batch_tokens=1e6)
    schedules = [linear(1e-3, 20000), linear(1e-2, 20000, warmup=500)]
    np.testing.assert_array_equal(law.rank(schedules, budget).gaps, [0, 0])
    with pytest.raises(ThalwegError, match="earlier training"):
        law.rank(schedules, budget, after=(schedules[0], budget))


def test_summary_and_frame():
    law = Kaplan(**TABLE_2)
    assert "(6.4e+13/params)^(0.076/0.103) + 1.8e+13/tokens)^0.103" in law.summary()
    assert law.to_frame().iloc[0].to_dict() == TABLE_2
