"""BowlLaw recovers surfaces it can hold, knows where its optimum is, and refuses tables that show no bowl."""

from __future__ import annotations

import itertools
import warnings

import numpy as np
import pandas as pd
import pytest

from thalweg.laws.bowl import BowlLaw
from thalweg.laws.bowl_formula import BowlFormula
from thalweg.laws.evidence import Evidence
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import Budget, cosine

FORMS = list(itertools.product(("kaplan", "chinchilla"), ("quadratic", "skewed", "quartic"), (True, False)))
PARAMS, TOKENS = (1e8, 2e8, 4e8, 8e8), (4e9, 8e9, 16e9)
CENTRES = np.log([2.5e8, 8e9, 2e-3, 5e5])


def table(loss=None, *, batches=(2.5e5, 5e5, 1e6, 2e6), rates=(5e-4, 1e-3, 2e-3, 4e-3, 8e-3), noise=0.0) -> Runs:
    """240 runs on a grid; losses from a function of the frame, by default those of `truth`."""
    rows = [
        {"params": N, "tokens": D, "batch_tokens": B, "peak_lr": lr}
        for N, D, B, lr in itertools.product(PARAMS, TOKENS, batches, rates)
    ]
    frame = pd.DataFrame(rows)
    losses = (loss or truth)(frame) * np.exp(noise * np.random.default_rng(0).standard_normal(len(frame)))
    return Runs.from_frame(frame.assign(loss=losses), assume={"warmup": 100, "final_lr": 0.0, "shape": "cosine"})


def best(frame):
    return 2e-3 * (frame.params / 2e8) ** -0.5 * (frame.tokens / 8e9) ** 0.25, 5e5 * (frame.tokens / 8e9) ** 0.6


def truth(frame):
    """Kaplan's form with a skewed, tilted bowl around power laws."""
    floor = (40 / (frame.params / 1e6) ** 0.7 + 2 / (frame.tokens / 1e9) ** 0.9) ** 0.12 * 2.6
    best_lr, best_batch = best(frame)
    x, z = np.log(frame.peak_lr / best_lr), np.log(frame.batch_tokens / best_batch)
    return floor * np.exp((0.012 * x**2 - 0.006 * x * z + 0.009 * z**2) * np.exp(0.2 * x))


@pytest.mark.parametrize(("size", "shape", "batch"), FORMS)
def test_the_jacobian_is_that_of_the_formula(size, shape, batch):
    formula = BowlFormula(size, shape, batch)
    generator = np.random.default_rng(0)
    logs = generator.standard_normal((7, 4))
    mean, deviation = formula.prior
    constants = mean + 0.5 * deviation * generator.standard_normal(len(mean))

    def value(at):
        surface = formula.surface(at, logs)
        return surface.floor + surface.bowl

    differences = [(value(constants + step) - value(constants - step)) / 2e-6 for step in 1e-6 * np.eye(len(mean))]
    np.testing.assert_allclose(formula.jacobian(constants, logs), np.stack(differences, axis=1), atol=1e-8)


def test_recovers_the_optimum_and_the_surface_it_was_made_from():
    law = BowlLaw.fit(table())
    for N, D in itertools.product(PARAMS, TOKENS):
        best_lr, best_batch = best(pd.Series({"params": N, "tokens": D}))
        found = law.optimum(N, D)
        assert found.peak_lr == pytest.approx(best_lr, rel=0.01)
        assert found.batch_tokens == pytest.approx(best_batch, rel=0.01)
    runs = table()
    np.testing.assert_allclose(law.predict_runs(runs), runs.loss, rtol=1e-4)
    value = dict(zip(law.formula.names, law.constants, strict=True))
    assert value["lr_n"] == pytest.approx(-0.5, abs=0.01)
    assert value["batch_d"] == pytest.approx(0.6, abs=0.01)
    assert value["skew_x"] == pytest.approx(0.2, abs=0.01)


def test_the_optimum_is_the_minimum_of_the_prediction():
    law = BowlLaw.fit(table(noise=0.003))
    found = law.optimum(3e8, 6e9)

    def loss(peak_lr, batch):
        budget = Budget(params=3e8, tokens=6e9, batch_tokens=batch)
        return law.log_losses([cosine(peak_lr, budget.steps, warmup=100)], [budget])[0]

    at = loss(found.peak_lr, found.batch_tokens)
    assert at == pytest.approx(np.log(found.loss), abs=1e-9)
    for up, across in itertools.product((0.9, 1.0, 1.1), repeat=2):
        assert loss(up * found.peak_lr, across * found.batch_tokens) >= at - 1e-12


def test_runs_that_went_wrong_do_not_bend_it():
    clean = table(noise=0.002)
    broken = np.array(clean.loss)
    broken[::40] *= 1.3
    bent = BowlLaw.fit(Runs.from_frame(clean.frame.assign(loss=broken)))
    np.testing.assert_allclose(bent.predict_runs(clean), BowlLaw.fit(clean).predict_runs(clean), rtol=4e-3)


def test_held_out_predictions_are_those_of_a_law_that_never_saw_the_cell():
    runs = table(noise=0.003)
    law = BowlLaw.fit(runs)
    out = runs.cells == 7
    near = law.without(runs, out).log_losses(runs.schedules, runs.budgets)[out]
    np.testing.assert_allclose(np.log(runs.loss)[out] - law.evidence.residuals[out], near, atol=1e-7)
    afresh = BowlLaw.fit(runs.subset(~out)).predict_runs(runs.subset(out))
    np.testing.assert_allclose(np.exp(near), afresh, rtol=1e-3)


def test_noise_is_read_off_the_runs():
    """Robustly, at the bottom of the bowl; up its sides the scatter is allowed to grow."""
    frame = table().frame
    scatter = BowlLaw.fit(table()).scatter(table().schedules, table().budgets)
    drawn = np.exp(0.004 * scatter * np.random.default_rng(1).standard_normal(len(frame)))
    law = BowlLaw.fit(Runs.from_frame(frame.assign(loss=frame.loss * drawn)))
    assert law.noise == pytest.approx(0.004, rel=0.2)


def test_without_a_batch_part_it_says_so():
    law = BowlLaw.fit(table(batches=(5e5,)))
    assert not law.batch
    assert law.optimum(2e8, 8e9).batch_tokens is None
    assert "no batch part" in law.summary()
    assert not any("batch" in name or "z" in name for name in law.formula.names)
    best_lr, _ = best(pd.Series({"params": 2e8, "tokens": 8e9}))
    assert law.optimum(2e8, 8e9).peak_lr == pytest.approx(best_lr, rel=0.02)


def test_a_batch_size_that_follows_the_data_leaves_no_batch_part():
    runs = table(batches=(5e5,)).frame.drop(columns=["schedule"])
    follows = runs.assign(batch_tokens=5e5 * (runs.tokens / 8e9) ** 0.5)
    with pytest.warns(ThalwegWarning, match="without its batch part: the table varies batch_tokens"):
        assert not BowlLaw.fit(Runs.from_frame(follows)).batch


@pytest.mark.parametrize("rates", [(1e-3,), (1e-3, 2e-3)])
def test_a_bowl_needs_three_learning_rates(rates):
    with pytest.raises(ThalwegError, match=f"peak_lr has {len(rates)} values .* at least 3") as error:
        BowlLaw.fit(table(rates=rates, batches=(2.5e5, 5e5, 1e6, 2e6)))
    assert "\n" not in str(error.value)


def test_learning_rates_that_follow_the_size_are_refused():
    frame = table().frame.drop(columns=["schedule"])
    with pytest.raises(ThalwegError, match="cannot be told from size and data"):
        BowlLaw.fit(Runs.from_frame(frame.assign(peak_lr=1e-3 * (frame.params / 1e8) ** -0.3)))


def test_one_size_or_a_line_of_sizes_is_warned_of():
    runs = table(batches=(5e5,), noise=0.002)
    one = runs.subset((runs.frame.params == 2e8).to_numpy())
    with pytest.warns(ThalwegWarning, match="one value of params"):
        BowlLaw.fit(one, shape="quadratic")
    line = runs.subset(np.isin(runs.cells, [0, 4, 8]))
    with pytest.warns(ThalwegWarning, match="collinear"):
        BowlLaw.fit(line, shape="quadratic")
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        BowlLaw.fit(runs)


def test_all_diverged_is_refused():
    runs = table()
    with pytest.raises(ThalwegError, match="240 diverged"):
        BowlLaw.fit(Runs.from_frame(runs.frame.assign(diverged=True)))


@pytest.mark.parametrize("option", [{"size": "hoffmann"}, {"shape": "cubic"}])
def test_an_unknown_form_is_refused(option):
    with pytest.raises(ThalwegError, match="expected one of"):
        BowlLaw.fit(table(), **option)


def test_a_saddle_has_no_optimum_and_earlier_training_no_form():
    names = BowlFormula("kaplan", "quadratic", False).names
    constants = np.array([0.9, 0.3, 0.4, 0.6, -1.6, 0.0, -0.5, 0.3, -0.01])
    assert names[-1] == "xx"
    law = BowlLaw("kaplan", "quadratic", False, constants, CENTRES, 0.002, Evidence())
    with pytest.raises(ThalwegError, match="no minimum"):
        law.optimum(1e8, 4e9)
    budget = Budget(params=1e8, tokens=4e9, batch_tokens=5e5)
    with pytest.raises(ThalwegError, match="earlier training"):
        law.rank([cosine(1e-3, 8000, warmup=100)], budget, after=(cosine(1e-3, 8000, warmup=100), budget))


def test_refit_keeps_the_form():
    law = BowlLaw.fit(table(), size="chinchilla", shape="quartic").refit(table(noise=0.001))
    assert (law.size, law.shape) == ("chinchilla", "quartic")
