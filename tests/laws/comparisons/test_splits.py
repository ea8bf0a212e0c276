"""Splits: what is kept from a fit is never in it, and each split keeps what it says."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.laws.tables import grid_of_runs
from thalweg.laws.comparisons import splits
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs


def small(**columns) -> Runs:
    table = {"params": 1e8, "tokens": 2e9, "batch_tokens": 1e6, "loss": 3.0, "peak_lr": 1e-3, "warmup": 10}
    return Runs.from_frame(pd.DataFrame({**table, **columns}), assume={"final_lr": 0.0, "shape": "cosine"})


@pytest.mark.filterwarnings("ignore:split random")
@pytest.mark.parametrize("name", splits.SPLITS)
def test_nothing_is_on_both_sides_and_something_on_each(name):
    folds = splits.SPLITS[name](grid_of_runs())
    assert folds
    for fold in folds:
        assert fold.train.any() and fold.test.any()
        assert not (fold.train & fold.test).any()


def test_every_cell_is_left_out_once():
    runs = grid_of_runs()
    folds = splits.leave_one_cell_out(runs)
    assert len(folds) == 20
    np.testing.assert_array_equal(sum(fold.test.astype(int) for fold in folds), 1)
    for fold in folds:
        assert len(np.unique(runs.cells[fold.test])) == 1
        np.testing.assert_array_equal(fold.train, ~fold.test)


def test_extrapolation_keeps_what_is_larger():
    runs = grid_of_runs()  # params 50M 100M 300M 1B; tokens 2 4 8 16 30B
    (fold,) = splits.extrapolate(runs, "params")
    assert set(runs.frame.params[fold.test]) == {1e9}
    (fold,) = splits.extrapolate(runs, "tokens", beyond=8e9)
    assert set(runs.frame.tokens[fold.test]) == {16e9, 30e9}
    assert set(runs.frame.tokens[fold.train]) == {2e9, 4e9, 8e9}
    (fold,) = splits.extrapolate(runs, "compute")
    compute = 6 * runs.frame.params * runs.frame.tokens
    assert compute[fold.train].max() < compute[fold.test].min()
    assert set(runs.frame.params[fold.test] * runs.frame.tokens[fold.test]) == {
        3e8 * 16e9,
        3e8 * 30e9,
        1e9 * 8e9,
        1e9 * 16e9,
        1e9 * 30e9,
    }


def test_a_fixed_batch_never_sees_another():
    generator = np.random.default_rng(0)
    frame = pd.concat([grid_of_runs().frame.assign(batch_tokens=1e6), grid_of_runs().frame.assign(batch_tokens=2e6)])
    frame = frame.drop(columns="schedule").assign(peak_lr=generator.uniform(1e-3, 2e-3, len(frame)), warmup=10)
    runs = Runs.from_frame(frame, assume={"final_lr": 0.0, "shape": "cosine"})
    folds = splits.fixed_batch(runs)
    assert len(folds) == 40
    for fold in folds:
        assert runs.frame.batch_tokens[fold.train | fold.test].nunique() == 1
    with pytest.raises(ThalwegError, match="no batch size has 80 runs"):
        splits.fixed_batch(runs.subset(np.arange(len(runs)) % 10 == 0))


def test_few_runs_are_few_and_their_seed_fixes_them():
    runs = grid_of_runs()
    folds = splits.few_runs(runs, sizes=(40, 60), seeds=range(3))
    assert [int(fold.train.sum()) for fold in folds] == [40] * 3 + [60] * 3
    again = splits.few_runs(runs, sizes=(40,), seeds=range(3))
    for one, two in zip(folds[:3], again, strict=True):
        np.testing.assert_array_equal(one.train, two.train)
    assert (folds[0].train != folds[1].train).any()


def test_random_rows_warn_that_they_flatter():
    with pytest.warns(ThalwegWarning, match="tests interpolation"):
        folds = splits.random_rows(grid_of_runs())
    np.testing.assert_array_equal(sum(fold.test.astype(int) for fold in folds), 1)


@pytest.mark.parametrize(
    ("split", "runs", "words"),
    [
        (splits.leave_one_cell_out, small(loss=[3.0, 3.1]), "one .params, tokens. cell"),
        (lambda runs: splits.extrapolate(runs, "params"), small(loss=[3.0, 3.1]), "runs on both sides"),
        (lambda runs: splits.extrapolate(runs, "width"), small(loss=[3.0]), "one of params, tokens, compute"),
        (splits.few_runs, small(loss=[3.0, 3.1]), "got 2, expected at least 90"),
        (splits.random_rows, small(loss=[3.0, 3.1]), "got '2 runs', expected at least 5"),
    ],
)
def test_tables_that_cannot_be_split_are_refused_in_one_line(split, runs, words):
    with pytest.raises(ThalwegError, match=words) as error:
        split(runs)
    assert "\n" not in str(error.value)
