"""The sixteen features against a paper-shaped twin by quadrature, Table 5 and 6's closed forms, and what is refused."""

from __future__ import annotations

import numpy as np
import pytest

from tests.reference import opt_law as reference
from thalweg.laws.features import BATCH_TERMS, EXPONENTS, FEATURES, READINGS, bases, feature_matrix, feature_names
from thalweg.outcomes import ThalwegError
from thalweg.schedules import Budget, constant, cosine, cyclic, four_phase, from_segments, linear, wsd

BATCH = 2048 * 2048
BUDGET = Budget(params=1.9e9, tokens=20000 * BATCH, batch_tokens=BATCH)
SCHEDULES = {
    "linear": linear(0.006, 20000, warmup=2000),
    "cosine": cosine(0.004, 20000, warmup=500, final_lr=1e-5),
    "wsd": wsd(0.009, 20000, warmup=1000, decay=0.2),
    "four_phase": four_phase(0.0012, 0.0006, 20000, warmup=1200, decay_until=7000, cooldown_from=13000),
    "rising plateau": four_phase(0.0006, 0.0012, 20000, warmup=1200, decay_until=7000, cooldown_from=13000),
}


@pytest.mark.parametrize("phases", READINGS)
@pytest.mark.parametrize("name", SCHEDULES)
def test_features_equal_the_paper_shaped_twin(name, phases):
    schedule = SCHEDULES[name]
    fast = feature_matrix([schedule], [BUDGET], phases)[0]
    slow = reference.features(
        lambda step: schedule(min(max(step, 0.0), schedule.steps)),
        tuple(schedule.phases),
        schedule.steps,
        BUDGET.params,
        BATCH,
        phases,
    )
    np.testing.assert_allclose(fast, slow, rtol=2e-4)


def test_closed_forms_of_tables_5_and_6():
    a, S, h, N = 2000 * BATCH / 1e9, 20000 * BATCH / 1e9, 0.006 / 0.015, 1.9
    expected = [
        2 / (a * h), 2 / ((S - a) * h), (2 * N / ((S - a) * h)) ** 0.25, (a * (S - a) * h**2 / 4) ** -0.23,
        h**2 / (S - a), (h**2 / a) ** 0.25, (h**2 / (S - a)) ** 0.25, (S * N) ** -0.25,
        (2 * h / (a * (S - a))) ** 0.2, (2 * h / (S - a) ** 2) ** 0.15,
        (2 * h * N / (a * (S - a))) ** 0.15, (2 * h * N / (S - a) ** 2) ** 0.15,
        N**-0.25, S**-0.25, h**0.2, 1,
    ]  # fmt: skip
    for phases in READINGS:  # a1 = a2 = a3: the readings agree
        np.testing.assert_allclose(feature_matrix([SCHEDULES["linear"]], [BUDGET], phases)[0], expected, rtol=1e-12)


def test_constant_and_cooldown_column_of_tables_5_and_6():
    a1, a2, S = (steps * BATCH / 1e9 for steps in (1000, 16000, 20000))
    h, N = 0.009 / 0.015, 1.9
    row = feature_matrix([SCHEDULES["wsd"]], [BUDGET], "tables")[0]
    assert row[1] == pytest.approx(2 / ((S + a2 - 2 * a1) * h))
    assert row[4] == pytest.approx(h**2 / (S - a2))
    assert row[5] == pytest.approx((h**2 / a1) ** 0.25)
    assert row[8] == pytest.approx((2 * h / (a1 * (S - a2))) ** 0.2)
    assert row[11] == pytest.approx((2 * h * N / ((S - a2) * (S + a2 - 2 * a1))) ** 0.15)


@pytest.mark.parametrize("phases", READINGS)
def test_features_count_tokens_not_steps(phases):
    """Twice the steps at half the batch is the same schedule in tokens."""
    long = four_phase(0.0012, 0.0006, 40000, warmup=2400, decay_until=14000, cooldown_from=26000)
    half = Budget(params=BUDGET.params, tokens=BUDGET.tokens, batch_tokens=BATCH / 2)
    np.testing.assert_allclose(
        feature_matrix([long], [half], phases), feature_matrix([SCHEDULES["four_phase"]], [BUDGET], phases), rtol=1e-12
    )


def test_earlier_training_adds_to_the_warmup_integral_and_divides_the_cooldown_roughness():
    schedule = SCHEDULES["linear"]
    pre = linear(0.001, 10000, warmup=500)
    plain = feature_matrix([schedule], [BUDGET], "hybrid")[0]
    after = feature_matrix([schedule], [BUDGET], "hybrid", after=[(pre, BUDGET)])[0]
    h = 0.006 / 0.015
    added = 0.5 * 0.001 / 0.015 * 10000 * BATCH / 1e9
    assert 1 / after[0] == pytest.approx(1 / plain[0] + added)
    assert after[1] == pytest.approx(plain[1])
    assert after[4] == pytest.approx(plain[4] / h**4)
    assert after[5] == pytest.approx(plain[5])  # R0 is left alone
    assert after[6] == pytest.approx(plain[6] / h)
    assert after[9] == pytest.approx(plain[9] * h**-0.6)
    np.testing.assert_array_equal(after[12:], plain[12:])


def test_two_earlier_trainings_add_up():
    pre = linear(0.001, 10000, warmup=500)
    once = feature_matrix([SCHEDULES["linear"]], [BUDGET], "hybrid", after=[(pre, BUDGET)])[0]
    twice = feature_matrix([SCHEDULES["linear"]], [BUDGET], "hybrid", after=[(pre, BUDGET), (pre, BUDGET)])[0]
    none = feature_matrix([SCHEDULES["linear"]], [BUDGET], "hybrid")[0]
    assert 1 / twice[0] - 1 / once[0] == pytest.approx(1 / once[0] - 1 / none[0])


def test_many_runs_equal_each_by_itself():
    schedules = list(SCHEDULES.values())
    together = feature_matrix(schedules, [BUDGET] * len(schedules), "hybrid")
    assert together.shape == (len(schedules), len(FEATURES)) == (5, 16)
    for row, schedule in enumerate(schedules):
        np.testing.assert_array_equal(together[row], feature_matrix([schedule], [BUDGET], "hybrid")[0])


@pytest.mark.parametrize(
    ("schedule", "words"),
    [
        (linear(0.006, 20000), ["I0", "warmup="]),
        (constant(0.006, 20000, warmup=500), ["I1", "decay"]),
        (cyclic(0.006, 20000, warmup=500, cycles=2), ["R1", "10250", "ramp="]),
        (wsd(0.006, 20000, warmup=500, decay=4000, shape="sqrt"), ["R1", "16000", "ramp="]),
    ],
)
def test_undefined_terms_are_refused_by_name_with_a_remedy(schedule, words):
    with pytest.raises(ThalwegError) as error:
        feature_matrix([schedule], [BUDGET], "hybrid")
    assert "\n" not in str(error.value)
    for word in words:
        assert word in str(error.value)


def test_a_ramp_makes_a_jump_acceptable():
    schedule = cyclic(0.006, 20000, warmup=500, cycles=2, ramp=100)
    assert np.isfinite(feature_matrix([schedule], [BUDGET], "hybrid")).all()


def test_a_schedule_without_warmup_is_fine_after_earlier_training():
    pre = linear(0.001, 10000, warmup=500)
    assert np.isfinite(feature_matrix([linear(0.006, 20000)], [BUDGET], "tables", after=[(pre, BUDGET)])).all()


def test_a_schedule_that_stays_at_its_peak_needs_a_cooldown_only_where_the_reading_asks():
    schedule = constant(0.006, 20000, warmup=500)
    assert np.isfinite(feature_matrix([schedule], [BUDGET], "tables")).all()  # every bound is a1
    with pytest.raises(ThalwegError, match="I1"):
        feature_matrix([schedule], [BUDGET], "section_4_3")


def test_phases_of_other_segments_are_used():
    rows = [("linear", 2000, 0.0, 0.006), ("linear", 18000, 0.006, 0.0)]
    same = from_segments(rows, phases=(2000, 2000, 2000))
    np.testing.assert_allclose(
        feature_matrix([same], [BUDGET], "hybrid"), feature_matrix([SCHEDULES["linear"]], [BUDGET], "hybrid")
    )


def test_unknown_phases():
    with pytest.raises(ThalwegError, match="hybrid, tables, section_4_3"):
        feature_matrix([SCHEDULES["linear"]], [BUDGET], "hybird")


PAPER = np.array(EXPONENTS["paper"])


def test_batch_terms_are_the_five_of_log_batch():
    made_of = bases([SCHEDULES["linear"]], [BUDGET], "hybrid")
    row = made_of.features(PAPER, batch_terms=True)[0]
    B, h, N, S = np.log([BATCH / 1e6, 0.006 / 0.015, 1.9, 20000 * BATCH / 1e9])
    np.testing.assert_allclose(row[15:], [B, B * B, B * h, B * N, B * S, 1])
    np.testing.assert_array_equal(row[:15], feature_matrix([SCHEDULES["linear"]], [BUDGET], "hybrid")[0, :15])
    assert feature_names(EXPONENTS["paper"], batch_terms=True) == (*FEATURES[:-1], *BATCH_TERMS, "1")


def test_other_exponents_raise_the_same_bases():
    made_of = bases([SCHEDULES["wsd"]], [BUDGET], "hybrid")
    once, twice = made_of.features(PAPER)[0], made_of.features(2 * PAPER)[0]
    raised = [2, 3, 5, 6, 7, 8, 9, 10, 11, 12, 13, 14]
    np.testing.assert_allclose(twice[raised], once[raised] ** 2)
    np.testing.assert_array_equal(twice[[0, 1, 4, 15]], once[[0, 1, 4, 15]])


def sized(counts: np.ndarray) -> np.ndarray:
    """Bases of one fixed schedule with N in the features' units, whatever it stands for."""
    budgets = [Budget(params=1e9 * N, tokens=BUDGET.tokens, batch_tokens=BATCH) for N in counts]
    return bases([SCHEDULES["cosine"]] * len(counts), budgets, "hybrid")


@pytest.mark.parametrize("power", [0.25, 0.15])
def test_the_limit_of_broken_neural_scaling_laws(power):
    """§4.2: for fixed schedules and N far below 1, Σ c log(1 + N^α) of BNSL is linear in Opt-Law's features of N."""
    N = np.geomspace(1e-24, 1e-12, 9)
    features = sized(N).features(PAPER)
    rising = {0.25: 2, 0.15: 10}[power]  # (N/I1)^.25 and (N R1/I0)^.15
    bnsl = 0.7 + 1.3 * np.log1p(N**power)
    weight = 1.3 * N[0] ** power / features[0, rising]
    opt_law = 0.7 + weight * features[:, rising]
    gaps = np.abs(bnsl - opt_law) / (bnsl - 0.7)
    np.testing.assert_allclose(gaps, N**power / 2, rtol=0.02)  # the next term of log(1 + x): it vanishes with N
    assert np.all(np.diff(gaps) > 0)


def test_the_limit_of_kaplan_and_chinchilla():
    """§4.2: with log N in place of N and α1 = α8 = α9 = 1, log(loss) is linear in log N: Kaplan's law without end of data."""
    N = np.geomspace(1e7, 1e12, 7)
    exponents = PAPER.copy()
    exponents[[0, 7, 8]] = 1  # N/I1, N R1/I0, N R1/I1
    features = sized(np.log(N)).features(exponents)
    varying = features.std(axis=0) > 1e-12
    assert [name for name, varies in zip(FEATURES, varying, strict=True) if varies] == [
        "(N/I1)^.25", "(S N)^-.25", "(N R1/I0)^.15", "(N R1/I1)^.15", "N^-.25",
    ]  # fmt: skip
    for column in (2, 10, 11):
        coefficient = -0.076 * np.log(N)[0] / features[0, column]
        log_loss = 0.076 * np.log(6.4e13) + coefficient * features[:, column]
        np.testing.assert_allclose(np.exp(log_loss), (6.4e13 / N) ** 0.076, rtol=1e-12)
