"""Will a run diverge? The ratio of the time above a critical learning rate to the warmup below it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.features import LR_UNIT, TOKEN_UNIT
from thalweg.results import Result
from thalweg.schedules import Budget, Schedule, check_steps

__all__ = ["DivergenceCriterion"]

Floats = NDArray[np.float64]


@dataclass(frozen=True, slots=True)
class DivergenceCriterion(Result):
    """R = S (η_max − η_L)² / (c3 a1 η_L²), η_L = min(η_max, K S^α1 / N^α2): R > 1 is likely to diverge.

    Xie et al. 2024, Eq. 4 and A.3: N = total parameters/1e9; S and a1 (run and warmup) counted in 1e9 tokens, then squared;
    learning rates divided by .015. Derived for a linear warmup and a linear cooldown; of any other schedule it sees the
    peak, the length and the warmup only.

    Attributes:
        K, c3, alpha1, alpha2: constants of Eq. 4 (K = c1/c2).
    """

    sources: ClassVar[tuple[str, ...]] = ("opt-laws",)
    K: float
    c3: float
    alpha1: float
    alpha2: float

    @classmethod
    def published(cls) -> Self:
        """The constants of A.3, fitted on the authors' 8-expert MoE runs."""
        return cls(K=1.76 / 33.21, c3=292.03, alpha1=0.218, alpha2=0.5)

    def critical_lr(self, budget: Budget) -> float:
        """η_L, the learning rate [1] above which time counts towards divergence.

        Example:
            >>> budget = Budget(params=0.58e9, tokens=10e9, batch_tokens=2048 * 2048)
            >>> print(f"{DivergenceCriterion.published().critical_lr(budget):.2e}")
            2.85e-03
        """
        return float(self._critical(budget, np.array([budget.steps]))[0])

    def ratio(self, schedule: Schedule, budget: Budget) -> float:
        """R [1]: 0 where the peak stays below η_L; infinite without a warmup where it does not.

        Raises:
            ThalwegError: steps and tokens disagree by over .5 %.

        Example:
            >>> from thalweg.schedules import linear
            >>> budget = Budget(params=0.58e9, tokens=10e9, batch_tokens=2048 * 2048)
            >>> print(f"{DivergenceCriterion.published().ratio(linear(9e-3, budget.steps, warmup=256), budget):.3f}")
            1.385
        """
        check_steps(schedule, budget)
        peak, warmup, steps = schedule.peak_lr, schedule.phases.warmup_end, schedule.steps
        return float(self.ratios(budget, np.array([peak]), np.array([warmup]), np.array([steps]))[0])

    def ratios(self, budget: Budget, peak_lr: NDArray[Any], warmup: NDArray[Any], steps: NDArray[Any]) -> Floats:
        """R of many schedules on one budget, from their peaks [1], warmups and lengths [steps], shape (schedules,) each."""
        excess = np.maximum(peak_lr / self._critical(budget, steps) - 1, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            # S/a1 is a ratio of squares, from which the unit of tokens cancels
            ratios = (steps / warmup) ** 2 * excess**2 / self.c3
        return np.where(excess == 0, 0.0, ratios)

    def _critical(self, budget: Budget, steps: NDArray[Any]) -> Floats:
        S = (steps * budget.batch_tokens / TOKEN_UNIT) ** 2
        N = budget.params / TOKEN_UNIT
        return np.asarray(LR_UNIT * self.K * S**self.alpha1 / N**self.alpha2)

    def diverges(self, schedule: Schedule, budget: Budget) -> bool:
        """Whether R > 1.

        Example:
            >>> from thalweg.schedules import linear
            >>> budget = Budget(params=0.58e9, tokens=10e9, batch_tokens=2048 * 2048)
            >>> criterion = DivergenceCriterion.published()
            >>> [criterion.diverges(linear(9e-3, budget.steps, warmup=warmup), budget) for warmup in (256, 512)]
            [True, False]
        """
        return self.ratio(schedule, budget) > 1
