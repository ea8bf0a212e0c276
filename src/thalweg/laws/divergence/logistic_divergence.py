"""Will a run diverge? Logistic regression on learning rate, model size, data, batch and warmup."""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.divergence.criterion import (
    INPUTS,
    Criterion,
    DivergenceEvidence,
    check_divergence,
    evidence_of_divergence,
)
from thalweg.laws.divergence.logistic import fit_logistic
from thalweg.laws.evidence import inputs
from thalweg.laws.fitting import folds
from thalweg.schedules import Budget, Schedule

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.runs import Runs

__all__ = ["LogisticDivergence", "fit_divergence"]

Floats = NDArray[np.float64]

HIGHEST_LOG_ODDS = 700.0  # e^700 is still a number


@dataclass(frozen=True, slots=True, eq=False)
class LogisticDivergence(Criterion):
    """p/(1 − p) = exp(intercept + coefficients · log(params, tokens, batch_tokens, peak_lr, warmup)), p that a run diverges.

    Its ratio is these odds, above 1 where divergence is more likely than not. p is not calibrated: a table of some dozens of
    runs is nearly separable, and p then is surer of itself than it is right; its side of 1/2 is what `evidence` vouches for. A
    schedule counts by its peak, warmup and length; no warmup counts as one step.

    Attributes:
        coefficients: of the natural logarithms of `params tokens batch_tokens` [count], `peak_lr` [1], `warmup` [steps],
            shape (5,); 0 for an input that did not vary.
        intercept: log-odds at inputs of 1.
        strength: of the penalty, chosen by the log loss of groups left out.
        evidence: ranges, and how unseen runs were told apart.

    Example:
        >>> from thalweg.schedules import cosine
        >>> coefficients = np.array([2.0, 0.0, -1.0, 4.0, -2.0])
        >>> criterion = LogisticDivergence(coefficients, 13.0, 1e-3, DivergenceEvidence())
        >>> budget = Budget(params=1e9, tokens=20e9, batch_tokens=1e6)
        >>> [criterion.diverges(cosine(peak_lr, 20000, warmup=1000), budget) for peak_lr in (1e-3, 1e-2)]
        [False, True]
        >>> schedule = cosine(5e-3, 20000, warmup=1000)
        >>> p = criterion.probability(schedule, budget)
        >>> print(f"{p:.4f} {criterion.ratio(schedule, budget) / (p / (1 - p)):.4f}")
        0.9964 1.0000
    """

    sources: ClassVar[tuple[str, ...]] = ()
    coefficients: Floats
    intercept: float
    strength: float
    evidence: DivergenceEvidence

    @classmethod
    def fit(cls, runs: Runs) -> Self:
        """Fit the six constants on runs with a column `diverged`.

        Raises:
            ThalwegError: fewer than 6 runs; none diverged, or all did; one peak in all runs.
        """
        check_divergence(runs, needed=len(INPUTS) + 1, criterion="LogisticDivergence")
        features = _features(*inputs(runs.schedules, runs.budgets, INPUTS).values())[None]
        found = fit_logistic(features, runs.diverged, folds(runs)[0])
        return cls(found.coefficients, found.intercept, found.strength, evidence_of_divergence(runs, features))

    def ratios(self, budget: Budget, peak_lr: NDArray[Any], warmup: NDArray[Any], steps: NDArray[Any]) -> Floats:
        """The odds p/(1 − p) of many schedules on one budget, from peaks [1], warmups and lengths [steps], shape (schedules,)."""
        everywhere = np.ones(len(peak_lr))
        sizes = budget.params * everywhere, steps * budget.batch_tokens, budget.batch_tokens * everywhere
        log_odds = _features(*sizes, peak_lr, warmup) @ self.coefficients + self.intercept
        return np.exp(np.clip(log_odds, -HIGHEST_LOG_ODDS, HIGHEST_LOG_ODDS))

    def probability(self, schedule: Schedule, budget: Budget) -> float:
        """Probability [1] that the run diverges.

        Raises:
            ThalwegError: steps and tokens disagree by over .5 %.
        """
        odds = self.ratio(schedule, budget)
        return odds / (1 + odds)

    def to_frame(self) -> pd.DataFrame:
        """The coefficients by input."""
        import pandas as pd

        return pd.DataFrame({"input": INPUTS, "coefficient": self.coefficients})

    def summary(self) -> str:
        """The odds as a product of powers, and how runs that the fit had not seen were told apart."""
        powers = " ".join(f"{name}^{power:.2f}" for name, power in zip(INPUTS, self.coefficients, strict=True))
        return f"LogisticDivergence: odds ∝ {powers}, ridge {self.strength:.1g}\n{self.evidence.summary()}"


def fit_divergence(runs: Runs) -> LogisticDivergence | None:
    """The criterion that a table of runs gives by itself: `LogisticDivergence`; None where no run diverged.

    On three selections of real runs (benchmarks/divergence.py) it told cells it had not seen apart better than a fit of
    Eq. 4 in one, equally well in two.

    Raises:
        ThalwegError: fewer than 6 runs; all diverged; one peak in all runs.

    Example:
        >>> import pandas as pd
        >>> from thalweg.runs import Runs
        >>> table = pd.DataFrame({"peak_lr": [1e-3, 3e-3, 1e-2, 3e-2] * 3, "warmup": [50] * 4 + [100] * 4 + [200] * 4})
        >>> table = table.assign(params=1e8, tokens=2e9, batch_tokens=1e6, loss=3.0, final_lr=0.0, shape="cosine")
        >>> fit_divergence(Runs.from_frame(table)) is None
        True
    """
    return LogisticDivergence.fit(runs) if runs.diverged.any() else None


def _features(
    params: NDArray[Any], tokens: NDArray[Any], batch_tokens: NDArray[Any], peak_lr: NDArray[Any], warmup: NDArray[Any]
) -> Floats:
    """Natural logarithms of the inputs, shape (runs, 5), in the order of `INPUTS`; no warmup counts as one step."""
    return np.asarray(np.log(np.stack([params, tokens, batch_tokens, peak_lr, np.maximum(warmup, 1)], axis=1)))
