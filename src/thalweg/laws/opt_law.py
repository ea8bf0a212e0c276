"""The generalized Opt-Law: log(loss) is linear in sixteen features of schedule, model size and data."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.divergence import DivergenceCriterion
from thalweg.laws.evidence import Evidence
from thalweg.laws.features import FEATURES, Phases, check_phases, feature_matrix
from thalweg.laws.fitting import evidence_of, fit_ridge, folds, usable
from thalweg.laws.law import Law
from thalweg.outcomes import ThalwegWarning, bad_input
from thalweg.schedules import Budget, Schedule, check_steps
from thalweg.units import format_count

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.runs import Runs

__all__ = ["OptLaw"]

Floats = NDArray[np.float64]

# Xie et al. 2024, Tables 5 and 6 (rounded there to three digits: sd .04 % of the predicted loss)
PUBLISHED = (
    -6.92e-4, -1.27e-3, -4.68e-2, 4.65e-2,
    9.62e-3, 1.92e-2, -5.05e-2, -1.82e-1,
    -4.68e-2, -4.18e-2, -1.19e-1, 2.18e-1,
    3.1e-1, 6.98e-1, 5.26e-2, 3.14e-1,
)  # fmt: skip
# their runs: Fig. 2 and Table 4
PUBLISHED_EVIDENCE = Evidence(
    ranges={
        "params": (0.023e9, 1.9e9),
        "tokens": (10e9, 30e9),
        "batch_tokens": (2048.0 * 2048.0, 2048.0 * 2048.0),
        "peak_lr": (1e-3, 1.5e-2),
        "warmup": (128.0, 6000.0),
        "final_lr": (0.0, 0.0),
    },
    setup="the authors' setup (8-expert MoE, linear warmup and cooldown, AdamW with weight decay .1)",
)


@dataclass(frozen=True, slots=True, eq=False)
class OptLaw(Law):
    """log(loss) = c · F(schedule, N, S) (Xie et al. 2024, Eq. 7 and 8).

    The published coefficients hold for the authors' setup. On other people's dense models they were 4 to 9.5 % off and
    ranked no better than chance: fit your own with `OptLaw.fit`. Batch size is not in the law, except through the warmup
    counted in tokens.

    Attributes:
        coefficients: c, shape (16,), in the order of `thalweg.laws.features.FEATURES`.
        phases: which phase bounds each integral: "hybrid", "tables" or "section_4_3"; the same at fit and at predict time.
        evidence: ranges, held-out residuals and noise of the runs it was fitted on.
        ridge: strength of the penalty the fit was made with.
        condition: condition number of the standardised features; NaN where the runs are not known.

    Example:
        >>> from thalweg.schedules import linear
        >>> budget = Budget(params=4.05e9, tokens=300e9, batch_tokens=2048 * 2048)
        >>> schedule = linear(1e-3, budget.steps, warmup=500)  # the paper's Table 1, row 1
        >>> print(f"{OptLaw.published().predict(schedule, budget).loss:.4f}")
        1.9830
    """

    sources: ClassVar[tuple[str, ...]] = ("opt-laws",)
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "batch_tokens", "peak_lr", "warmup", "final_lr")
    coefficients: Floats
    phases: Phases
    evidence: Evidence
    ridge: float = 0.0
    condition: float = float("nan")

    @classmethod
    def published(cls, phases: Phases = "hybrid") -> Self:
        """The authors' coefficients (Tables 5 and 6), under one of three readings of their phases.

        The paper's text (§4.3, "section_4_3") and its tables ("tables") contradict each other. Against the ten predictions
        it prints in Table 1, the mean error is .114 % for "hybrid", .394 % for "tables" and .333 % for "section_4_3";
        "hybrid" was found by searching readings and is a hypothesis.

        Raises:
            ThalwegError: unknown phases.
        """
        check_phases(phases)
        return cls(np.array(PUBLISHED), phases, PUBLISHED_EVIDENCE)

    @classmethod
    def fit(cls, runs: Runs, *, phases: Phases = "hybrid", ridge: float | None = None) -> Self:
        """Fit the sixteen coefficients; the exponents stay the paper's.

        Args:
            runs: the table; diverged runs are left out.
            phases: which phase bounds each integral.
            ridge: penalty on the squared coefficients of standardised features, relative to the mean squared residual; 0 is
                plain least squares (the paper). None takes the one with the least held-out error.

        Raises:
            ThalwegError: fewer finished runs than coefficients, or a schedule without warmup or cooldown, or with a jump.
        """
        check_phases(phases)
        if ridge is not None and not ridge >= 0:
            raise bad_input("ridge", ridge, "a number of at least 0, or None to choose it")
        kept = usable(runs, needed=len(FEATURES), law="OptLaw")
        batches = np.unique([budget.batch_tokens for budget in kept.budgets])
        if len(batches) > 1:
            message = (
                f"OptLaw: the table varies batch_tokens from {format_count(batches[0])} to {format_count(batches[-1])}, but "
                "batch size is not in the law; fit each batch size by itself (runs.subset)."
            )
            warnings.warn(message, ThalwegWarning, stacklevel=2)
        features = feature_matrix(kept.schedules, kept.budgets, phases)
        groups, held_out = folds(kept)
        measured = np.log(kept.loss)
        found = fit_ridge(features, measured, groups, ridge)
        evidence = evidence_of(kept, cls.inputs, measured - found.held_out, held_out)
        return cls(found.coefficients, phases, evidence, found.strength, found.condition)

    @property
    def criterion(self) -> DivergenceCriterion | None:
        """The authors' criterion for their coefficients; None for a fit, whose runs it has not seen."""
        return DivergenceCriterion.published() if self.evidence.setup == PUBLISHED_EVIDENCE.setup else None

    def features(self, schedule: Schedule, budget: Budget) -> Floats:
        """The features of one run, shape (16,), in the order of `thalweg.laws.features.FEATURES`.

        Raises:
            ThalwegError: the schedule has no warmup or no cooldown, or jumps.
        """
        check_steps(schedule, budget)
        features: Floats = feature_matrix([schedule], [budget], self.phases)[0]
        return features

    def log_losses(
        self,
        schedules: Sequence[Schedule],
        budgets: Sequence[Budget],
        *,
        after: Sequence[tuple[Schedule, Budget]] = (),
    ) -> Floats:
        """c · F, shape (runs,); with earlier training the form of §6.3, whose levels mean nothing but whose order does."""
        return feature_matrix(schedules, budgets, self.phases, after=after) @ self.coefficients

    def to_frame(self) -> pd.DataFrame:
        """The coefficients by feature."""
        import pandas as pd

        return pd.DataFrame({"feature": FEATURES, "coefficient": self.coefficients})

    def summary(self) -> str:
        """Where the coefficients come from and how far they missed runs they had not seen."""
        fit = (
            "published coefficients"
            if self.evidence.setup
            else f"ridge {self.ridge:.1g}, condition number {self.condition:.1e}"
        )
        return f"OptLaw, phases {self.phases!r}, {fit}\n{self.evidence.summary()}"
