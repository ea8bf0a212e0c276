"""Tables that the tests of laws are fitted on: synthetic, of known origin."""

from __future__ import annotations

import itertools

import numpy as np
import pandas as pd

from thalweg.laws.law import Law
from thalweg.runs import Runs
from thalweg.schedules import Budget, cosine, linear, wsd

BATCH = 1e6


def grid_of_runs() -> Runs:
    """320 runs in 20 cells of one batch size; loss = Chinchilla with a bowl in log(peak_lr), a little better for wsd."""
    rows = []
    for params, tokens in itertools.product((5e7, 1e8, 3e8, 1e9), (2e9, 4e9, 8e9, 16e9, 30e9)):
        steps = round(tokens / BATCH)
        for peak_lr, warmup, shape in itertools.product((5e-4, 1e-3, 3e-3, 8e-3), (50, 200), (linear, wsd)):
            bowl = 0.01 * np.log(peak_lr / 2e-3) ** 2
            better = 0.005 if shape is wsd else 0.0
            loss = 1.7 + 400 * params**-0.34 + 1500 * tokens**-0.36 + bowl - better + 2 / warmup
            schedule = str(shape(peak_lr, steps, warmup=warmup))
            rows.append({"params": params, "tokens": tokens, "batch_tokens": BATCH, "loss": loss, "schedule": schedule})
    return Runs.from_frame(pd.DataFrame(rows))


def three_seeds() -> Runs:
    """Three runs of every configuration of `grid_of_runs`, with 1 % of noise."""
    frame = pd.concat([grid_of_runs().frame] * 3)
    noise = np.exp(0.01 * np.random.default_rng(0).standard_normal(len(frame)))
    return Runs.from_frame(frame.assign(loss=frame.loss * noise))


def with_loss(runs: Runs, loss: np.ndarray) -> Runs:
    """The same runs with other losses, shape (runs,)."""
    return Runs.from_frame(runs.frame.assign(loss=loss))


def noise_free(law: Law, runs: Runs) -> Runs:
    """The same runs, each with exactly the loss that a law predicts."""
    return with_loss(runs, law.predict_runs(runs))


def inside(params: float = 2e8) -> tuple[Budget, list]:
    """A budget and schedules inside the ranges of `grid_of_runs`, none of them in it."""
    budget = Budget(params=params, tokens=6e9, batch_tokens=BATCH)
    return budget, [linear(2e-3, 6000, warmup=100), cosine(1.5e-3, 6000, warmup=150), wsd(4e-3, 6000, warmup=80)]
