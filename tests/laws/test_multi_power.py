"""The multi-power law against the paper's sums, against known constants, and on the authors' curves."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings

from tests.laws.curves import curves_of, schedules, toy
from tests.reference.curve_laws import multi_power
from tests.schedules.strategies import schedules as any_schedule
from thalweg.laws import MultiPowerLaw
from thalweg.laws.multi_power import _normalised, _predicted, _raw
from thalweg.outcomes import ThalwegError
from thalweg.runs import read
from thalweg.schedules import constant, cosine, wsd

AUTHORS = {
    "25M": MultiPowerLaw(3.04045406, 0.52468604, 0.50786857, 363.78751622, 2.06560812, 0.58279013, 0.64142257),
    "100M": MultiPowerLaw(2.6514477, 0.60115152, 0.45295811, 437.9464276, 2.13245612, 0.59785199, 0.65523644),
}
TOY = MultiPowerLaw(L0=2.5, A=0.3, alpha=0.45, B=150.0, C=4.0, beta=0.5, gamma=0.55)


@settings(max_examples=25)
@given(schedule=any_schedule)
def test_it_is_the_papers_double_sum(schedule):
    """To 1e-10, at steps across the run; after a start from rates above 0, which the printed sum needs."""
    lrs = 1e-5 + 3e-4 * schedule.values()[:200] / max(schedule.peak_lr, 1e-300)
    steps = np.unique(np.linspace(0, len(lrs) - 1, 5).astype(int))
    expected = [multi_power(lrs.tolist(), int(t), **TOY.constants()) for t in steps]
    np.testing.assert_allclose(TOY.losses_at(lrs, steps), expected, rtol=1e-10)


@pytest.mark.parametrize(
    "schedule", [cosine(3e-4, 400, warmup=50, final_lr=3e-5), wsd(3e-4, 300, warmup=30), constant(3e-4, 200)]
)
def test_it_is_the_papers_double_sum_on_whole_schedules(schedule):
    lrs = schedule.values()
    steps = np.array([1, 40, 100, schedule.steps - 1])
    for law in AUTHORS.values():
        expected = [multi_power(lrs.tolist(), int(t), **law.constants()) for t in steps]
        np.testing.assert_allclose(law.curve(schedule, steps=steps), expected, rtol=1e-10)


@settings(max_examples=30)
@given(schedule=any_schedule)
def test_close_points_are_interpolated_to_rounding(schedule):
    """The whole curve at once is the curve point by point, which is exact."""
    lrs = 3e-4 * schedule.values() / max(schedule.peak_lr, 1e-300)
    some = np.unique(np.linspace(0, len(lrs) - 1, 25).astype(int))
    whole = TOY.losses_at(lrs, np.arange(len(lrs)))
    np.testing.assert_allclose(
        whole[some], np.concatenate([TOY.losses_at(lrs, some[[i]]) for i in range(len(some))]), rtol=1e-11
    )


def test_a_constant_rate_leaves_the_power_of_the_sum():
    schedule = constant(3e-4, 1000)
    expected = TOY.L0 + TOY.A * (3e-4 * np.arange(1, 1001)) ** -TOY.alpha
    np.testing.assert_allclose(TOY.curve(schedule), expected, rtol=1e-12)


def test_a_drop_is_worth_B_a_unit_in_the_end():
    """Long after a drop by Δ the loss is lower by B·Δ than the sum of rates alone says, less C's power of the wait."""
    lrs = np.concatenate([np.full(10, 2e-3), np.full(10**6, 1e-3)])
    law = MultiPowerLaw(L0=2.0, A=0.5, alpha=0.5, B=100.0, C=50.0, beta=1.5, gamma=0.5)
    gap = law.L0 + law.A * lrs.sum() ** -law.alpha - law.losses_at(lrs, np.array([len(lrs) - 1]))[0]
    assert gap == pytest.approx(100 * 1e-3, rel=1e-6)


def test_a_rate_of_zero_is_finite():
    lrs = np.array([1e-3] * 50 + [0.0] * 50)
    assert np.isfinite(TOY.losses_at(lrs, np.arange(100))).all()
    assert TOY.curve(constant(1e-3, 100, warmup=10))[0] == np.inf  # nothing has been learnt at a sum of 0


def test_the_fit_recovers_known_constants():
    """Without a pull and without noise; to what grouping its sums leaves: C to 3 %, the others to half of one."""
    curves = curves_of(lambda schedule, steps: TOY.curve(schedule, steps=steps))
    law = MultiPowerLaw.fit(curves, strength=0)
    for name, value in TOY.constants().items():
        assert getattr(law, name) == pytest.approx(value, rel=3e-2 if name == "C" else 5e-3), name


def test_analytic_derivatives_are_the_difference_quotients():
    table = _normalised(curves_of(toy))[1]
    theta = np.log([2.5, 0.2, 0.5, 0.15, 300.0, 0.4, 0.7])
    _, slopes = _predicted(theta, table)
    for number, row in enumerate(1e-6 * np.eye(7)):
        quotient = (_predicted(theta + row, table)[0] - _predicted(theta - row, table)[0]) / 2e-6
        np.testing.assert_allclose(slopes[:, number], quotient, rtol=1e-6, atol=1e-8)


def test_the_grouped_sums_of_a_fit_agree_with_the_exact_law():
    """On the authors' curve, where some 600 groups stand for 24 000 drops: to 2e-4 nats at the end of warmup, 3e-5 later."""
    schedule = cosine(3e-4, 24000, warmup=2160, final_lr=3e-5)
    steps = np.arange(2160, 24000, 128)
    law = AUTHORS["100M"]
    frame = {
        "run": "a",
        "params": 1e8,
        "step": steps,
        "loss": law.curve(schedule, steps=steps),
        "schedule": str(schedule),
    }
    import pandas as pd

    from thalweg.runs import Curves

    (table,) = _normalised(Curves.from_frame(pd.DataFrame(frame)))
    unit = np.array(list(law.constants().values())) / _raw(np.zeros(7), table)
    # the units of the amplitudes depend on the exponents
    L0, A, alpha, B, C, beta, gamma = law.constants().values()
    theta = np.log(
        [
            L0,
            A * table.area_unit**-alpha,
            alpha,
            B * table.lr_unit,
            C * table.area_unit / table.lr_unit**gamma,
            beta,
            gamma,
        ]
    )
    assert unit[0] == pytest.approx(L0)
    np.testing.assert_allclose(_raw(theta, table), list(law.constants().values()), rtol=1e-12)
    error = np.abs(_predicted(theta, table)[0] - np.exp(table.log_loss))
    assert 0 < error[1:].max() < 3e-5
    assert error[0] < 2e-4


def test_a_stronger_pull_stays_nearer_to_the_guess():
    curves = curves_of(toy, noise=1e-3)
    fits = [MultiPowerLaw.fit(curves, strength=strength) for strength in (0.01, 1.0, 1e4)]
    betas = [abs(np.log(law.beta / 0.5)) for law in fits]
    assert betas[0] > betas[1] > betas[2]
    assert betas[2] < 1e-3
    residuals = [np.abs(np.log(law.predict_curves(curves) / curves.frame.loss)).mean() for law in fits]
    assert residuals[0] < residuals[2]


@pytest.mark.parametrize("strength", [-1.0, float("nan")])
def test_a_negative_strength_is_refused(strength):
    with pytest.raises(ThalwegError, match="strength"):
        MultiPowerLaw.fit(curves_of(toy), strength=strength)


def test_annealing_helps_under_the_law():
    by_name = schedules()
    ends = {name: TOY.curve(by_name[name], steps=by_name[name].steps - 1)[0] for name in ("constant", "wsd", "cosine")}
    assert ends["wsd"] < ends["constant"]
    assert ends["cosine"] < ends["constant"]


@pytest.mark.data
@pytest.mark.parametrize("millions", [25, 100])
def test_the_authors_training_curves(data_dir, millions):
    """Held out one at a time, the three training curves are predicted to one part in a thousand."""
    path = data_dir / "loss_curves_25M_100M.csv"
    where = f"model_millions == {millions} and split == 'train'"
    curves = read(path, assume={"params": lambda df: 1e6 * df.model_millions}, where=where)
    law = MultiPowerLaw.fit(curves)
    assert law.evidence.error < 1.1e-3
    assert np.mean(np.abs(law.predict_curves(curves) / curves.frame.loss - 1)) < 0.8e-3
    np.testing.assert_allclose(
        AUTHORS[f"{millions}M"].predict_curves(curves), curves.frame.loss, rtol=1e-2 if millions == 25 else 6e-3
    )


# (mean R², mean relative error) over the six test curves, as `benchmarks/multi_power.py --test` measured them once
MEASURED = {25: (0.99878, 0.00109), 100: (0.99760, 0.00153)}


@pytest.mark.data
@pytest.mark.parametrize("millions", MEASURED)
def test_the_authors_test_curves_are_predicted_as_measured(data_dir, millions):
    """The authors have .9988 and .0011 on 25M, .9983 and .0014 on 100M, where this fit falls short."""
    path = data_dir / "loss_curves_25M_100M.csv"
    parts = {
        split: read(
            path,
            assume={"params": lambda df: 1e6 * df.model_millions},
            where=f"model_millions == {millions} and split == '{split}'",
        )
        for split in ("train", "test")
    }
    predicted, curves = MultiPowerLaw.fit(parts["train"]).predict_curves(parts["test"]), parts["test"]
    scores = []
    for number, losses in enumerate(curves.losses):
        ours = predicted[curves.curve == number]
        r2 = 1 - np.sum((ours - losses) ** 2) / np.sum((losses - losses.mean()) ** 2)
        scores.append((r2, np.mean(np.abs(ours / losses - 1))))
    r2, error = np.mean(scores, axis=0)
    assert r2 == pytest.approx(MEASURED[millions][0], abs=5e-5)
    assert error == pytest.approx(MEASURED[millions][1], rel=0.02)
