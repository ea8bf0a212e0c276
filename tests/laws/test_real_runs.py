"""Real runs: 2619 of Step-Law's dense ones (more than 2200 steps), within the scope of each law."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from thalweg.laws import Chinchilla, OptLaw
from thalweg.runs import Runs

pytestmark = pytest.mark.data


@pytest.fixture(scope="module")
def runs(data_dir) -> Runs:
    frame = pd.read_csv(data_dir / "lr_batch_runs_train.csv")
    frame = frame.assign(batch_tokens=2048 * frame.batch_sequences)
    longer = frame[frame.tokens / frame.batch_tokens > 2200]
    return Runs.from_frame(longer, assume={"warmup": 2000, "final_lr": 1e-5, "shape": "cosine"})


def error(law: OptLaw | Chinchilla) -> float:
    """Mean relative error on runs of cells that the fit had not seen."""
    return float(np.mean(np.abs(np.expm1(-law.evidence.residuals))))


def test_the_table_is_the_specs(runs):
    assert (len(runs), len(np.unique(runs.cells))) == (2619, 41)


# batch [sequences] → held-out error in % of Opt-Law and of Chinchilla, as measured: every batch with 80 runs or more
MEASURED = {
    16: (0.504, 2.222), 32: (0.646, 2.021), 64: (0.517, 1.540), 128: (0.418, 1.231), 192: (0.435, 1.276),
    256: (0.449, 1.122), 352: (0.413, 1.134), 512: (0.412, 0.946), 736: (0.276, 1.063), 1024: (0.261, 0.844),
    2048: (0.375, 1.007),
}  # fmt: skip


def test_every_batch_with_enough_runs_is_measured(runs):
    batches, counts = np.unique(runs.frame.batch_tokens, return_counts=True)
    assert set(batches[counts >= 80] / 2048) == set(MEASURED)


@pytest.mark.parametrize("sequences", MEASURED)
def test_opt_law_beats_chinchilla_twice_over_at_a_fixed_batch(runs, sequences):
    """Leave one cell out. Spec §6 has .23 to .56 % against .87 to 1.46 %, on fewer runs; Opt-Law at batch 32 and Chinchilla
    at 16, 32, 64 (above) and 1024 (below) lie outside that."""
    fixed = runs.subset(runs.frame.batch_tokens.to_numpy() == 2048 * sequences)
    opt_law, chinchilla = OptLaw.fit(fixed), Chinchilla.fit(fixed)
    assert (100 * error(opt_law), 100 * error(chinchilla)) == pytest.approx(MEASURED[sequences], rel=0.05)
    assert error(opt_law) < error(chinchilla) / 2
    assert opt_law.evidence.held_out.startswith("one (params, tokens) cell")


@pytest.mark.parametrize("sequences", [128, 1024])
def test_intervals_cover_nine_in_ten_runs_of_cells_that_were_left_out(runs, sequences):
    """Each cell predicted with the interval of a fit that never saw it, pooled over cells: 90 % to five points.

    Single cells are covered far less or more (at these batches from 10 % of their runs to all): their runs miss together.
    """
    fixed = runs.subset(runs.frame.batch_tokens.to_numpy() == 2048 * sequences)
    covered = np.empty(len(fixed), dtype=bool)
    for cell in np.unique(fixed.cells):
        out = fixed.cells == cell
        law, new = OptLaw.fit(fixed.subset(~out)), fixed.subset(out)
        low, high = law.evidence.interval(np.log(law.predict_runs(new)))
        covered[out] = (low <= new.loss) & (new.loss <= high)
    assert 0.85 <= covered.mean() <= 0.95
