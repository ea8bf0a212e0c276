"""The table of runs: what it reads, what it derives, what it groups."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from thalweg import runs as tables
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import cosine, linear, wsd

SHAPED = {
    "params": [2e8, 1e8, 1e8, 2e8],
    "tokens": [2e9, 2e9, 2e9, 2e9],
    "batch_tokens": [1e6, 1e6, 1e6, 2e6],
    "loss": [2.9, 3.1, 3.2, 2.8],
    "peak_lr": [1e-3, 1e-3, 2e-3, 1e-3],
    "warmup": [100, 100, 50, 50],
    "final_lr": [0.0, 1e-5, 0.0, 0.0],
    "shape": ["linear", "cosine", "wsd", "linear"],
}


def shaped(**changes) -> pd.DataFrame:
    return pd.DataFrame({**SHAPED, **changes})


def test_schedules_come_from_shape_columns_or_from_text():
    expected = (
        linear(1e-3, 2000, warmup=100),
        cosine(1e-3, 2000, warmup=100, final_lr=1e-5),
        wsd(2e-3, 2000, warmup=50),
        linear(1e-3, 1000, warmup=50),
    )
    by_shape = Runs.from_frame(shaped())
    assert by_shape.schedules == expected
    texts = pd.DataFrame({name: SHAPED[name] for name in ("params", "tokens", "batch_tokens", "loss")})
    by_text = Runs.from_frame(texts.assign(schedule=[str(schedule) for schedule in expected]))
    assert by_text.schedules == expected
    assert by_shape.frame.schedule.tolist() == by_text.frame.schedule.tolist()


def test_steps_and_decay_columns_are_used_where_they_are_given():
    runs = Runs.from_frame(shaped(steps=[2001, 2000, 2000, 1000], decay=[0.5, 0.5, 400, 0.5]))
    assert [schedule.steps for schedule in runs.schedules] == [2001, 2000, 2000, 1000]
    assert runs.schedules[2] == wsd(2e-3, 2000, warmup=50, decay=400)


def test_what_a_table_answers():
    runs = Runs.from_frame(shaped(diverged=[0, 0, 1, 0], loss=[2.9, 3.1, np.nan, 2.8]))
    assert len(runs) == 4
    assert repr(runs) == "Runs(4 runs in 2 cells)"
    np.testing.assert_array_equal(runs.loss, [2.9, 3.1, np.nan, 2.8])
    np.testing.assert_array_equal(runs.diverged, [False, False, True, False])
    np.testing.assert_array_equal(runs.cells, [1, 0, 0, 1])  # in ascending order of (params, tokens)
    assert [budget.steps for budget in runs.budgets] == [2000, 2000, 2000, 1000]
    assert not Runs.from_frame(shaped()).diverged.any()


def test_configurations_tell_everything_but_the_seed_apart():
    twice = pd.concat([shaped(seed=0), shaped(seed=1)])
    runs = Runs.from_frame(twice)
    assert len(np.unique(runs.configurations)) == 4
    np.testing.assert_array_equal(runs.configurations[:4], runs.configurations[4:])


def test_subset_keeps_order_and_columns():
    runs = Runs.from_frame(shaped(note=list("abcd")))
    part = runs.subset(runs.loss < 3)
    assert part.frame.note.tolist() == ["a", "d"]
    assert part.schedules == (runs.schedules[0], runs.schedules[3])
    assert part.budgets == (runs.budgets[0], runs.budgets[3])
    np.testing.assert_array_equal(part.cells, [0, 0])
    assert repr(runs.subset(runs.loss > 9)) == "Runs(0 runs in 0 cells)"


@pytest.mark.parametrize("mask", [[True], [0, 1, 0, 1], np.ones((4, 1), bool)])
def test_a_mask_is_one_boolean_a_run(mask):
    with pytest.raises(ThalwegError, match="4 booleans"):
        Runs.from_frame(shaped()).subset(mask)


def test_the_given_frame_is_left_alone():
    frame = shaped()
    before = frame.copy()
    Runs.from_frame(frame, assume={"seed": 0})
    pd.testing.assert_frame_equal(frame, before)


def test_rename_and_assume():
    frame = shaped(bs=[512, 512, 512, 1024]).rename(columns={"params": "N"}).drop(columns=["batch_tokens", "final_lr"])
    runs = Runs.from_frame(
        frame,
        rename={"N": "params"},
        assume={"final_lr": 0.0, "batch_tokens": lambda df: df.bs * 1e6 / 512, "warmup": 7},
    )
    assert runs.budgets[3].batch_tokens == 2e6
    assert runs.frame.final_lr.tolist() == [0.0] * 4
    assert runs.frame.warmup.tolist() == [100, 100, 50, 50]  # assumed only where the table has no such column


def test_csv_round_trip(tmp_path):
    runs = Runs.from_frame(shaped(diverged=[0, 0, 1, 0], loss=[2.9, 3.1, np.nan, 2.8]))
    runs.frame.to_csv(tmp_path / "runs.csv", index=False)
    again = tables.read(tmp_path / "runs.csv")
    assert again.schedules == runs.schedules
    assert again.budgets == runs.budgets
    np.testing.assert_array_equal(again.loss, runs.loss)
    np.testing.assert_array_equal(again.diverged, runs.diverged)


def test_parquet_says_what_it_needs(tmp_path):
    try:
        import pyarrow  # noqa: F401
    except ImportError:
        (tmp_path / "runs.parquet").write_bytes(b"PAR1")
        with pytest.raises(ThalwegError, match="pip install pyarrow"):
            tables.read(tmp_path / "runs.parquet")
    else:
        shaped().to_parquet(tmp_path / "runs.parquet")
        assert len(tables.read(tmp_path / "runs.parquet")) == 4


def test_mixed_kinds_of_loss_warn():
    with pytest.warns(ThalwegWarning, match="heldout, train"):
        Runs.from_frame(shaped(loss_kind=["train", "heldout", "train", "train"]))
    Runs.from_frame(shaped(loss_kind="train"))  # a warning would fail the test
