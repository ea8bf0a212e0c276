"""Tables of runs of which some diverged: the real ones, and synthetic ones that follow a known criterion."""

from __future__ import annotations

import itertools
from pathlib import Path

import numpy as np
import pandas as pd

from thalweg.laws import DivergenceCriterion
from thalweg.runs import Runs


def marin(folder: Path) -> Runs:
    """The 56 real runs of weight decay .1, 14 of them diverged; their shape is not in the table, and no criterion sees it."""
    frame = pd.read_csv(folder / "warmup_runs_marin.csv", dtype={"warmup_steps": int})
    frame = frame[frame.weight_decay == 0.1].rename(columns={"warmup_steps": "warmup"})
    frame = frame.assign(batch_tokens=frame.batch_sequences * frame.sequence_length)
    return Runs.from_frame(frame, assume={"shape": "cosine", "final_lr": 0.0})


def runs_of(criterion: DivergenceCriterion, *, noise: float = 0.0) -> Runs:
    """256 runs in 16 cells that diverge where a criterion says so, its log ratio blurred by noise (sd)."""
    generator = np.random.default_rng(0)
    rows = []
    for params, tokens in itertools.product((5e7, 2e8, 6e8, 2e9), (3e9, 8e9, 2e10, 5e10)):
        for peak_lr, warmup in itertools.product((1e-3, 2.1e-3, 4.3e-3, 9e-3), (50, 130, 300, 900)):
            rows.append(
                {
                    "params": params,
                    "tokens": tokens,
                    "batch_tokens": 1e6 if warmup in (50, 300) else 2e6,
                    "loss": 3.0,
                    "peak_lr": peak_lr * np.exp(0.3 * generator.uniform(-1, 1)),
                    "warmup": warmup,
                    "final_lr": 0.0,
                    "shape": "linear",
                }
            )
    runs = Runs.from_frame(pd.DataFrame(rows))
    ratios = np.array([criterion.ratio(s, b) for s, b in zip(runs.schedules, runs.budgets, strict=True)])
    return marked(runs, ratios * np.exp(noise * generator.standard_normal(len(runs))) > 1)


def marked(runs: Runs, diverged: np.ndarray) -> Runs:
    """The same runs with other outcomes, shape (runs,)."""
    return Runs.from_frame(runs.frame.assign(diverged=diverged))


def ratios_of(criterion: DivergenceCriterion, runs: Runs) -> np.ndarray:
    """The ratio of each run."""
    return np.array([criterion.ratio(s, b) for s, b in zip(runs.schedules, runs.budgets, strict=True)])
