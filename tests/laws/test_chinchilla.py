"""Chinchilla recovers known constants, also among outliers, and says when a table cannot fix them."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from thalweg.laws import Chinchilla
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import Budget, linear

SIZES = (5e7, 1e8, 3e8, 1e9, 4e9)
DATA = (2e9, 5e9, 1e10, 3e10, 1e11)
HOFFMANN = {"E": 1.69, "A": 406.4, "B": 410.7, "alpha": 0.34, "beta": 0.28}
BESIROGLU = {"E": 1.8172, "A": 482.01, "B": 2085.43, "alpha": 0.3478, "beta": 0.3658}


def runs_of(sizes, data, constants, *, factor=1.0) -> Runs:
    frame = pd.DataFrame([{"params": N, "tokens": D} for N, D in itertools.product(sizes, data)])
    law = constants["E"] + constants["A"] * frame.params ** -constants["alpha"]
    loss = law + constants["B"] * frame.tokens ** -constants["beta"]
    shape = {"peak_lr": 1e-3, "warmup": 10, "final_lr": 0.0, "shape": "linear", "batch_tokens": 1e6}
    return Runs.from_frame(frame.assign(loss=loss * factor), assume=shape)


@pytest.mark.parametrize("constants", [HOFFMANN, BESIROGLU], ids=["hoffmann", "besiroglu"])
def test_recovers_known_constants(constants):
    law = Chinchilla.fit(runs_of(SIZES, DATA, constants))
    for name, value in constants.items():
        assert getattr(law, name) == pytest.approx(value, rel=1e-4)


def test_the_huber_loss_ignores_a_few_outliers():
    factor = np.ones(25)
    factor[[3, 17]] = 1.5
    law = Chinchilla.fit(runs_of(SIZES, DATA, BESIROGLU, factor=factor))
    for name, tolerance in (("E", 2e-3), ("alpha", 2e-2)):
        assert getattr(law, name) == pytest.approx(BESIROGLU[name], rel=tolerance)


def test_the_fit_is_a_minimum_of_the_huber_loss():
    """No step along any constant lowers the objective of Hoffmann et al., Eq. 3."""
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(25))
    runs = runs_of(SIZES, DATA, BESIROGLU, factor=noise)
    law = Chinchilla.fit(runs)
    N, D = runs.frame.params.to_numpy(), runs.frame.tokens.to_numpy()

    def objective(E, A, B, alpha, beta):
        r = np.abs(np.log(E + A * N**-alpha + B * D**-beta) - np.log(runs.loss))
        return np.where(r <= 1e-3, r**2 / 2, 1e-3 * (r - 5e-4)).sum()

    found = [law.E, law.A, law.B, law.alpha, law.beta]
    for which, sign in itertools.product(range(5), (-1, 1)):
        moved = list(found)
        moved[which] *= 1 + sign * 1e-3
        assert objective(*moved) > objective(*found)


def test_it_is_blind_to_the_schedule_and_has_no_form_for_earlier_training():
    law = Chinchilla(**BESIROGLU)
    budget = Budget(params=1e9, tokens=2e10, batch_tokens=1e6)
    schedules = [linear(1e-3, 20000), linear(1e-2, 20000, warmup=500)]
    assert law.predict(schedules[0], budget) == law.predict(schedules[1], budget)
    np.testing.assert_array_equal(law.rank(schedules, budget).gaps, [0, 0])
    with pytest.raises(ThalwegError, match="earlier training"):
        law.rank(schedules, budget, after=(schedules[0], budget))


def test_a_law_from_printed_constants_has_no_interval():
    budget = Budget(params=1e9, tokens=2e10, batch_tokens=1e6)
    prediction = Chinchilla(**HOFFMANN).predict(linear(1e-3, 20000), budget)
    assert prediction.interval is None
    assert prediction.loss == pytest.approx(1.69 + 406.4 / 1e9**0.34 + 410.7 / 2e10**0.28)


@pytest.mark.parametrize(("sizes", "data"), [(SIZES[:2], DATA), (SIZES, DATA[:2])])
def test_two_sizes_do_not_fix_five_constants(sizes, data):
    with pytest.raises(ThalwegError, match="at least 3, 3 and 5"):
        Chinchilla.fit(runs_of(sizes, data, HOFFMANN))


def test_params_and_tokens_that_move_together_are_refused():
    frame = pd.DataFrame({"params": SIZES, "tokens": 20 * np.array(SIZES), "loss": [4.0, 3.6, 3.2, 2.9, 2.6]})
    shape = {"peak_lr": 1e-3, "warmup": 10, "final_lr": 0.0, "shape": "linear", "batch_tokens": 1e5}
    with pytest.raises(ThalwegError, match=r"move together.*Chinchilla cannot tell them apart"):
        Chinchilla.fit(Runs.from_frame(frame, assume=shape))


def test_mixed_batch_sizes_warn():
    frame = runs_of(SIZES, DATA, HOFFMANN).frame.drop(columns=["schedule", "steps"], errors="ignore")
    frame = frame.assign(batch_tokens=np.where(np.arange(25) % 2, 1e6, 5e5))
    with pytest.warns(ThalwegWarning, match="Chinchilla: the table varies batch_tokens from 500k to 1M"):
        Chinchilla.fit(Runs.from_frame(frame))
