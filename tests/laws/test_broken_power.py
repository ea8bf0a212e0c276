"""The broken power law: its segments' slopes, recovery of known curves on each axis, and what it refuses."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from thalweg.laws import BrokenPowerLaw
from thalweg.outcomes import ThalwegError
from thalweg.runs import Runs
from thalweg.schedules import Budget, linear

SHAPE = {"peak_lr": 1e-3, "warmup": 10, "final_lr": 0.0, "shape": "linear", "batch_tokens": 1e6}
BENT = {"a": 1.2, "b": 60.0, "c0": 0.15, "c": [0.2], "d": [5e9], "f": [0.3]}


def printed(x, a, b, c0, c, d, f):
    """Eq. 1 as the paper prints it."""
    product = np.prod([(1 + (x / di) ** (1 / fi)) ** (-ci * fi) for ci, di, fi in zip(c, d, f, strict=True)], axis=0)
    return a + b * x**-c0 * product


def law_of(constants, axis) -> BrokenPowerLaw:
    arrays = {name: np.array(constants[name]) for name in "cdf"}
    return BrokenPowerLaw(a=constants["a"], b=constants["b"], c0=constants["c0"], **arrays, axis=axis)


def runs_along(axis, count=24) -> Runs:
    along = np.geomspace(2e8, 2e11, count)
    params, tokens = {"params": (along, 2e10), "tokens": (1e8, along)}[axis]
    return Runs.from_frame(
        pd.DataFrame({"params": params, "tokens": tokens, "loss": np.linspace(2.0, 1.0, count), "batch_tokens": 1e6}),
        assume=SHAPE,
    )


def exact(law, runs) -> Runs:
    return Runs.from_frame(runs.frame.assign(loss=law.predict_runs(runs)))


@pytest.mark.parametrize("axis", ["params", "tokens", "compute"])
def test_the_law_is_eq_1(axis):
    constants = {"a": 1.2, "b": 60.0, "c0": 0.15, "c": [0.2, -0.1], "d": [5e9, 2e10], "f": [0.3, 0.8]}
    law = law_of(constants, axis)
    for N, D in itertools.product((1e8, 3e9, 4e10), (2e9, 7e10)):
        x = {"params": N, "tokens": D, "compute": 6 * N * D}[axis]
        budget = Budget(params=N, tokens=D, batch_tokens=1e6)
        assert law.predict(linear(1e-3, budget.steps), budget).loss == pytest.approx(printed(x, **constants), rel=1e-12)


def test_slopes_on_either_side_of_a_break():
    """d log(loss − a)/d log x is −c0 far below a break and −(c0 + c1) far above it."""
    law = law_of({**BENT, "a": 0.0}, "tokens")

    def slope(tokens):
        low, high = (Budget(params=1e8, tokens=tokens * k, batch_tokens=tokens / 1e3) for k in (1, 1.001))
        first, second = law.log_losses([linear(1e-3, 1000)] * 2, [low, high])
        return (second - first) / np.log(1.001)

    assert slope(5e3) == pytest.approx(-0.15, abs=1e-6)
    assert slope(5e15) == pytest.approx(-0.35, abs=1e-6)
    assert slope(5e9) == pytest.approx(-0.25, abs=1e-3)  # half-way at the break


@pytest.mark.parametrize("axis", ["params", "tokens"])
def test_recovers_a_known_break(axis):
    law = law_of(BENT, axis)
    found = BrokenPowerLaw.fit(exact(law, runs_along(axis)), axis=axis)
    assert found.d[0] == pytest.approx(5e9, rel=0.01)
    assert found.c0 == pytest.approx(0.15, rel=0.01)
    assert found.c[0] == pytest.approx(0.2, rel=0.01)
    assert found.a == pytest.approx(1.2, rel=0.01)
    np.testing.assert_allclose(found.predict_runs(runs_along(axis)), law.predict_runs(runs_along(axis)), rtol=1e-5)


def test_without_breaks_it_is_a_power_law():
    runs = runs_along("params")
    straight = Runs.from_frame(runs.frame.assign(loss=1.6 + 400 * runs.frame.params**-0.33))
    law = BrokenPowerLaw.fit(straight, axis="params", breaks=0)
    assert (law.a, law.b, law.c0) == pytest.approx((1.6, 400, 0.33), rel=1e-4)
    assert law.c.shape == (0,)
    assert "no break" in law.summary()


def test_a_break_pays_where_there_is_one_and_only_there():
    bent = exact(law_of(BENT, "tokens"), runs_along("tokens"))
    errors = [BrokenPowerLaw.fit(bent, axis="tokens", breaks=breaks).evidence.error for breaks in (0, 1)]
    assert errors[1] < errors[0] / 10


def test_an_outlier_does_not_bend_it():
    bent = exact(law_of(BENT, "tokens"), runs_along("tokens", 40))
    spiked = Runs.from_frame(bent.frame.assign(loss=bent.loss * np.where(np.arange(40) == 17, 1.5, 1.0)))
    law = BrokenPowerLaw.fit(spiked, axis="tokens")
    missed = np.delete(np.abs(law.predict_runs(bent) / bent.loss - 1), 17)
    assert missed.max() < 0.01


def test_refit_keeps_axis_and_breaks():
    law = BrokenPowerLaw.fit(exact(law_of(BENT, "tokens"), runs_along("tokens")), axis="tokens", breaks=0)
    again = law.refit(runs_along("tokens"))
    assert (again.axis, len(again.c)) == ("tokens", 0)


def test_frame_has_a_row_a_segment():
    frame = law_of(BENT, "tokens").to_frame()
    assert frame["slope"].tolist() == pytest.approx([0.15, 0.35])
    assert frame["from"].iloc[1] == 5e9


def test_refusals():
    runs = runs_along("tokens")
    with pytest.raises(ThalwegError, match="axis: got 'flops', expected one of compute, params, tokens"):
        BrokenPowerLaw.fit(runs, axis="flops")
    with pytest.raises(ThalwegError, match="breaks: got -1"):
        BrokenPowerLaw.fit(runs, breaks=-1)
    with pytest.raises(ThalwegError, match="1 different params, expected at least 6"):
        BrokenPowerLaw.fit(runs, axis="params")
    with pytest.raises(ThalwegError, match="24 runs of 24 configurations, expected at least 27"):
        BrokenPowerLaw.fit(runs, axis="tokens", breaks=8)
    law = law_of(BENT, "tokens")
    with pytest.raises(ThalwegError, match="earlier training"):
        law.log_losses([], [], after=[(linear(1e-3, 2000), runs.budgets[5])])
