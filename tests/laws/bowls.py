"""A law of known optimum for tests of planning: a bowl in log peak_lr and log warmup, with a price of its own for each shape."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import ClassVar, Self

import numpy as np

from thalweg.laws import Evidence, Law
from thalweg.runs import Runs
from thalweg.schedules import Budget, Schedule


@dataclass(frozen=True, slots=True, eq=False)
class ToyBowl(Law):
    """log(loss) = 1 + ½ curvature · [u² + 2 tilt·u·v + v²] + price of the shape, u = log(peak/peak*), v = log(warmup/warmup*)."""

    sources: ClassVar[tuple[str, ...]] = ()
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "batch_tokens", "peak_lr", "warmup")
    peak_lr: float = 3e-3
    warmup: float = 400.0
    curvature: float = 0.1
    tilt: float = 0.0
    prices: tuple[tuple[str, float], ...] = ()
    evidence: Evidence = field(default_factory=Evidence)

    @classmethod
    def fit(cls, runs: Runs) -> Self:
        return cls()

    def log_losses(
        self,
        schedules: Sequence[Schedule],
        budgets: Sequence[Budget],
        *,
        after: Sequence[tuple[Schedule, Budget]] = (),
    ) -> np.ndarray:
        u = np.log(np.array([schedule.peak_lr for schedule in schedules]) / self.peak_lr)
        v = np.log(np.array([schedule.phases.warmup_end for schedule in schedules]) / self.warmup)
        price = np.array([sum(p for text, p in self.prices if text in str(schedule)) for schedule in schedules])
        return 1 + self.curvature * (u**2 + 2 * self.tilt * u * v + v**2) / 2 + price
