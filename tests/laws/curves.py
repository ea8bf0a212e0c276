"""Tables of curves that the tests of whole-curve laws are fitted on: synthetic, of known origin."""

from __future__ import annotations

import numpy as np
import pandas as pd

from thalweg.runs import Curves
from thalweg.schedules import Schedule, constant, cosine, from_segments, linear, wsd

PARAMS = 1e8
STEPS, WARMUP, PEAK = 3000, 300, 1e-3


def schedules() -> dict[str, Schedule]:
    """Four schedules that a law can be fitted on, decays gradual and sudden among them."""
    two_stage = [
        ("linear", WARMUP, 0.0, PEAK),
        ("constant", 1000, PEAK, PEAK),
        ("constant", 1200, 0.3 * PEAK, 0.3 * PEAK),
    ]
    return {
        "cosine": cosine(PEAK, STEPS, warmup=WARMUP, final_lr=0.1 * PEAK),
        "constant": constant(PEAK, STEPS, warmup=WARMUP),
        "two_stage": from_segments(two_stage),
        "wsd": wsd(PEAK, STEPS, warmup=WARMUP, decay=600, final_lr=0.1 * PEAK),
    }


def unseen() -> list[Schedule]:
    """Schedules within the ranges of `schedules`, none of them in it."""
    return [
        linear(PEAK, 2800, warmup=WARMUP, final_lr=0.2 * PEAK),
        wsd(PEAK, 2500, warmup=WARMUP, decay=0.3, final_lr=0.1 * PEAK),
    ]


def curves_of(predict, *, every: int = 25, noise: float = 0.0, seed: int = 0, names=None) -> Curves:
    """Curves whose loss is `predict(schedule, steps)`, logged every so many steps from the end of warmup, with relative noise."""
    generator = np.random.default_rng(seed)
    parts = []
    for name, schedule in schedules().items():
        if names is not None and name not in names:
            continue
        steps = np.arange(WARMUP, schedule.steps, every)
        loss = predict(schedule, steps) * np.exp(noise * generator.standard_normal(len(steps)))
        parts.append(
            pd.DataFrame({"run": name, "params": PARAMS, "step": steps, "loss": loss, "schedule": str(schedule)})
        )
    return Curves.from_frame(pd.concat(parts))


def toy(schedule: Schedule, steps: np.ndarray) -> np.ndarray:
    """No law of the library: a power of Σ η, and a gain that follows the drop of the learning rate with a lag of 80 steps."""
    lrs = schedule.values()
    share = np.where(np.arange(len(lrs)) < WARMUP, 0.0, 1 - lrs / PEAK)
    kernel = np.exp(-np.arange(600) / 80.0)
    lagged = np.convolve(share, kernel / kernel.sum())[: len(lrs)]
    area = np.cumsum(lrs) / (PEAK * STEPS)
    return 2.6 + 0.25 * area[steps] ** -0.45 - 0.12 * lagged[steps] ** 0.9
