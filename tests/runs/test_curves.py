"""Whole curves: what a table of them gives, how learning rates are read between logged points, and its faults."""

from __future__ import annotations

import re

import numpy as np
import pandas as pd
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schedules.strategies import schedules as any_schedule
from thalweg import runs as tables
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Curves, Runs
from thalweg.runs.curves import rates_between
from thalweg.schedules import constant, cosine, from_segments

SCHEDULE = cosine(3e-3, 1000, warmup=100, final_lr=3e-4)
STEPS = np.arange(100, 1000, 20)
TWO_STAGE = from_segments([("linear", 100, 0.0, 3e-3), ("constant", 400, 3e-3, 3e-3), ("constant", 500, 1e-3, 1e-3)])


def logged(source=SCHEDULE, steps=STEPS, /, **columns) -> pd.DataFrame:
    table = {"run": "a", "params": 1e8, "step": steps, "lr": source(steps.astype(float)), "loss": 3 + 50 / steps}
    return pd.DataFrame({**table, **columns})


def test_what_a_table_answers():
    both = Curves.from_frame(pd.concat([logged(run="b"), logged(SCHEDULE, STEPS[:5], params=2e7), logged()]))
    assert repr(both) == "Curves(3 curves of 95 points, params 20M, 100M)"
    assert both.names == ("a", "a", "b")  # in ascending order of (params, run)
    np.testing.assert_array_equal(both.params, [2e7, 1e8, 1e8])
    np.testing.assert_array_equal(both.steps[1], STEPS)
    np.testing.assert_array_equal(both.losses[0], 3 + 50 / STEPS[:5])
    np.testing.assert_array_equal(both.curve, np.repeat([0, 1, 2], [5, 45, 45]))
    assert [schedule.steps for schedule in both.schedules] == [181, 981, 981]
    part = both.subset(both.params > 5e7)
    assert repr(part) == "Curves(2 curves of 90 points, params 100M)"
    assert part.schedules == both.schedules[1:]
    with pytest.raises(ThalwegError, match="3 booleans"):
        both.subset([True])


def test_a_schedule_column_is_taken_at_its_word():
    for frame in (logged(schedule=str(SCHEDULE)), logged(schedule=str(SCHEDULE)).drop(columns="lr")):
        curves = Curves.from_frame(frame)
        np.testing.assert_array_equal(curves.schedules[0].values(), SCHEDULE.values())
        np.testing.assert_array_equal(curves.frame.lr, SCHEDULE(STEPS.astype(float)))


def test_between_logged_points_the_rate_is_a_line_and_before_them_a_warmup():
    values = Curves.from_frame(logged()).schedules[0].values()
    exact = SCHEDULE.values()[: len(values)]
    np.testing.assert_allclose(values[:101], exact[:101], atol=1e-15)
    # a cosine leaves its chords by at most (Δ²/8)·max|η''|
    bound = 20**2 / 8 * (np.pi / 900) ** 2 * 1.35e-3
    assert np.abs(values - exact).max() <= bound * (1 + 1e-9)
    assert np.abs(values - exact).max() > bound / 2


def test_a_jump_is_a_jump_at_the_later_step():
    steps = np.arange(100, 1000, 5)
    values = Curves.from_frame(logged(TWO_STAGE, steps)).schedules[0].values()
    np.testing.assert_allclose(values, TWO_STAGE.values()[: len(values)], atol=1e-15)


def test_a_jump_that_may_lie_anywhere_in_a_long_gap_warns():
    with pytest.warns(
        ThalwegWarning, match=r"run a: lr jumps from 3e-3 to 1e-3 somewhere after step 480; taken at step 500"
    ):
        Curves.from_frame(logged(TWO_STAGE, np.arange(100, 1000, 20)))
    steps = np.arange(100, 1000, 20)
    Curves.from_frame(logged(TWO_STAGE, steps, schedule=str(TWO_STAGE)))  # a warning would fail the test


def test_a_warmup_column_says_where_it_ended():
    late = np.arange(300, 1000, 100)
    flat = constant(2e-3, 1000, warmup=100)
    curves = Curves.from_frame(logged(flat, late, warmup=100))
    np.testing.assert_allclose(curves.schedules[0].values(), flat.values()[:901], atol=1e-15)
    unknown = Curves.from_frame(logged(flat, late)).schedules[0]
    assert unknown.phases.warmup_end == 300
    assert Curves.from_frame(logged(flat, late, warmup=0)).schedules[0](0) == 2e-3


@given(schedule=any_schedule, seed=st.integers(0, 99))
def test_a_log_of_every_step_is_the_schedule(schedule, seed):
    values = schedule.values()
    np.testing.assert_array_equal(rates_between(np.arange(len(values)), values), values)
    # and any log agrees where it was logged, and stays within its own extremes between
    generator = np.random.default_rng(seed)
    some = np.unique(generator.integers(0, len(values), 20))
    between = rates_between(some, values[some])
    np.testing.assert_array_equal(between[some], values[some])
    assert between.min() >= 0
    assert between.max() <= values[some].max()


def test_read_tells_curves_from_runs(tmp_path):
    logged().assign(M=100).drop(columns="params").to_csv(tmp_path / "curves.csv", index=False)
    curves = tables.read(tmp_path / "curves.csv", assume={"params": lambda df: 1e6 * df.M}, where="step < 500")
    assert isinstance(curves, Curves)
    assert curves.frame.step.max() == 480
    row = {
        "params": 1e8,
        "tokens": 2e9,
        "batch_tokens": 1e6,
        "loss": 3.0,
        "schedule": "cosine(0.003, 2000, warmup=100)",
    }
    pd.DataFrame([row]).to_csv(tmp_path / "runs.csv", index=False)
    assert isinstance(tables.read(tmp_path / "runs.csv"), Runs)
    assert isinstance(tables.read_runs(tmp_path / "runs.csv"), Runs)
    with pytest.raises(ThalwegError, match="a table of curves"):
        tables.read_runs(tmp_path / "curves.csv", assume={"params": 1e8})


def test_mixed_kinds_of_loss_warn():
    with pytest.warns(ThalwegWarning, match="heldout, train"):
        Curves.from_frame(pd.concat([logged(loss_kind="train"), logged(run="b", loss_kind="heldout")]))


FAULTS = {
    "no learning rate": (logged().drop(columns="lr"), r"columns: .*also lr \(schedule, as text, stands for lr\)"),
    "a likely column": (logged().rename(columns={"loss": "train_loss"}), r"rename=\{'train_loss': 'loss'\}"),
    "no rows": (logged().iloc[:0], r"without rows"),
    "params in millions": (logged(params=100.0), r"params: got 100, .*1e6 \* df\['params'\]"),
    "a run without name": (logged(run=None), r"run: got nan, nan, nan, … in rows 0"),
    "steps that go back": (pd.concat([logged(), logged()]), r"run a: got step 100 after step 980, expected increasing steps\..*resumed"),
    "a repeated step": (logged(step=np.repeat(STEPS[:15], 3)), r"got step 100 after step 100"),
    "half a step": (logged(step=STEPS + 0.5), r"step: got 100\.5, .*whole steps"),
    "a missing rate": (logged(lr=np.where(STEPS == 140, np.nan, 1e-3)), r"lr: got nan in row 2, expected numbers of at least 0"),
    "a negative rate": (logged(lr=-1e-3), r"lr: got -0\.001"),
    "rates of zero": (logged(lr=0.0), r"run a: lr is 0 in every row"),
    "a loss of zero": (logged(loss=np.where(STEPS == 140, 0.0, 3.0)), r"loss: got 0 in row 2, expected positive losses"),
    "a missing loss": (logged(loss=np.where(STEPS > 900, np.nan, 3.0)), r"loss: got nan, nan, nan, … in rows 41"),
    "text for a number": (logged(loss="n/a"), r"loss: got 'n/a', expected a column of numbers"),
    "two schedules": (logged(schedule=[str(SCHEDULE)] * 44 + [str(TWO_STAGE)]), r"run a: got 2 schedules"),
    "no schedule": (logged(schedule="cosin(1)"), r"run a: .*cosin"),
    "another schedule": (logged(schedule=str(TWO_STAGE)), r"run a: lr is 2\.\d+e-3 at step \d+, but 3e-3 by its schedule"),
    "beyond the schedule": (logged(schedule="constant(0.003, 900)"), r"step: got 980, expected steps below 900, as run a"),
    "no batch": (logged(batch_tokens=0), r"batch_tokens: got 0"),
}  # fmt: skip


@pytest.mark.parametrize("fault", FAULTS)
def test_fault(fault):
    frame, message = FAULTS[fault]
    with pytest.raises(ThalwegError, match=message) as error:
        Curves.from_frame(frame)
    assert "\n" not in str(error.value)
    assert re.search(r"\.$", str(error.value))
