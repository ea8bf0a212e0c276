"""Eq. 1 for one model size: closed forms of its appendix, Proposition 1, recovery, the optimum of the coefficients."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd
import pytest

from thalweg.laws import OptLaw, OptLawFixedSize
from thalweg.laws.opt_law_fixed_size import _logs, _terms
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import Budget, constant, cosine, cyclic, linear, wsd

BATCH = 1e6
LAW = OptLawFixedSize(
    coefficients=np.array([0.002, 0.3, 0.2, 0.05, 0.04]), exponents=np.array([0.6, 0.4, 0.5, 0.3]), b=0.8
)


def budget(steps: int, params: float = 1e8) -> Budget:
    return Budget(params=params, tokens=steps * BATCH, batch_tokens=BATCH)


def runs_of(law=LAW, sizes=(1e8,)) -> Runs:
    rows = []
    for params, steps, peak_lr, warmup in itertools.product(
        sizes, (2000, 4000, 8000, 16000, 30000), (5e-4, 1e-3, 3e-3, 8e-3), (50, 200, 700)
    ):
        schedule = str(linear(peak_lr, steps, warmup=warmup))
        rows.append(
            {"params": params, "tokens": steps * BATCH, "batch_tokens": BATCH, "loss": 1.0, "schedule": schedule}
        )
    runs = Runs.from_frame(pd.DataFrame(rows))
    return Runs.from_frame(runs.frame.assign(loss=law.predict_runs(runs)))


def test_cosine_and_constant_with_cooldown_are_those_of_appendix_b1():
    a, ac, S, h = 0.2, 8.5, 10.0, 0.3  # 1e9 tokens; learning rate/.015
    c1, c2, c3, c4, c5 = LAW.coefficients
    a1, a2, a3, a4 = LAW.exponents
    shared = c1 * (2 / (h * a)) ** a1 + c3 / S + LAW.b + c4 * (h**2 / a) ** a3
    cos = shared + c2 * (2 / (h * (S - a))) ** a2 + c5 * (np.pi**2 * h**2 / (8 * (S - a))) ** a4
    const = shared + c2 * (h * (ac - a) + h * (S - ac) / 2) ** -a2 + c5 * (h**2 / (S - ac)) ** a4
    schedules = [cosine(0.3 * 0.015, 10000, warmup=200), wsd(0.3 * 0.015, 10000, warmup=200, decay=1500)]
    np.testing.assert_allclose(LAW.log_losses(schedules, [budget(10000)] * 2), [cos, const], rtol=1e-12)


@pytest.mark.parametrize("shares", [(0.01, 0.85), (0.1, 0.1), (0.3, 0.5)])
def test_proposition_1_schedules_agree_without_end_of_data(shares):
    """|Opt-Laws(cos) − Opt-Laws(const)| → 0 for a = r_a S, a_c = r_ac S; both tend to b."""
    gaps, above = [], []
    for steps in (10**4, 10**8, 10**12, 10**16, 10**20):
        a, ac = round(shares[0] * steps), round(shares[1] * steps)
        pair = [cosine(3e-3, steps, warmup=a), wsd(3e-3, steps, warmup=a, decay=steps - ac)]
        cos, const = LAW.log_losses(pair, [budget(steps)] * 2)
        gaps.append(abs(cos - const))
        above.append(max(cos, const) - LAW.b)
    assert all(later < earlier for earlier, later in itertools.pairwise(gaps))
    assert gaps[-1] < 1e-4 * gaps[0] or gaps[-1] < 1e-7
    assert above[-1] < 1e-3 * above[0]


def test_recovers_the_law_that_made_the_runs():
    law = OptLawFixedSize.fit(runs_of())
    np.testing.assert_allclose(law.exponents, LAW.exponents, rtol=1e-3)
    np.testing.assert_allclose(law.coefficients, LAW.coefficients, rtol=1e-3)
    assert law.b == pytest.approx(LAW.b, rel=1e-3)
    assert np.abs(law.evidence.residuals).max() < 1e-6


def test_coefficients_are_the_non_negative_optimum():
    """Karush-Kuhn-Tucker: no allowed step of any coefficient, nor of b, lowers the squares; where c = 0 the gradient is ≥ 0."""
    generator = np.random.default_rng(0)
    runs = runs_of()
    noisy = Runs.from_frame(runs.frame.assign(loss=runs.loss * np.exp(0.02 * generator.standard_normal(len(runs)))))
    law = OptLawFixedSize.fit(noisy)
    assert (law.coefficients >= 0).all()
    terms = np.column_stack([_terms(_logs(noisy.schedules, noisy.budgets), law.exponents), np.ones(len(noisy))])
    residuals = np.log(law.predict_runs(noisy)) - np.log(noisy.loss)
    gradient = terms.T @ residuals / np.linalg.norm(terms, axis=0) / np.linalg.norm(residuals)
    held = np.append(law.coefficients == 0, False)
    np.testing.assert_allclose(gradient[~held], 0, atol=1e-8)
    assert (gradient[held] >= -1e-8).all()


def test_it_cannot_represent_what_annealing_gains():
    """Where a plateau is better than a slow decay at equal integrals of η'², Eq. 1 still orders by ∫η alone."""
    a = linear(3e-3, 10000, warmup=100)
    longer = wsd(3e-3, 10000, warmup=100, decay=9900)
    assert LAW.log_losses([a], [budget(10000)]) == pytest.approx(LAW.log_losses([longer], [budget(10000)]))


def test_refusals():
    several = runs_of(sizes=(1e8, 2e8))
    with pytest.raises(ThalwegError, match=r"120 runs of 2 model sizes, 100M to 200M, expected one.*OptLaw"):
        OptLawFixedSize.fit(several)
    with pytest.raises(ThalwegError, match="expected at least 10"):
        OptLawFixedSize.fit(runs_of().subset(np.arange(60) < 9))
    for schedule, word in ((linear(1e-3, 4000), "I0"), (cyclic(1e-3, 4000, warmup=10), "ramp=")):
        with pytest.raises(ThalwegError, match=word):
            LAW.predict(schedule, budget(4000))
    with pytest.raises(ThalwegError, match="earlier training"):
        LAW.rank([linear(1e-3, 4000, warmup=9)], budget(4000), after=(linear(1e-3, 4000), budget(4000)))
    assert np.isfinite(LAW.predict(constant(1e-3, 4000, warmup=10), budget(4000)).loss)  # R1 = 0 is no pole of Eq. 1


def test_mixed_batches_warn():
    frame = runs_of().frame
    halved = frame.assign(
        batch_tokens=np.where(np.arange(60) % 2, 1e6, 5e5),
        schedule=[
            str(linear(1e-3, round(tokens / batch), warmup=100))
            for tokens, batch in zip(frame.tokens, np.where(np.arange(60) % 2, 1e6, 5e5), strict=True)
        ],
    )
    with pytest.warns(ThalwegWarning, match="OptLawFixedSize: the table varies batch_tokens from 500k to 1M"):
        OptLawFixedSize.fit(Runs.from_frame(halved))


def test_frame_and_summary():
    frame = LAW.to_frame()
    assert frame["coefficient"].tolist() == [*LAW.coefficients, 0.8]
    assert frame["exponent"].tolist() == [-0.6, -0.4, -1.0, 0.5, 0.3, 0.0]
    assert "0.002 I0^-0.6" in LAW.summary()
    assert OptLaw.sources == OptLawFixedSize.sources
