"""The annealing law: the loss at every step from the sum of learning rates, and from one momentum of their drops."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.curve_law import (
    CurveLaw,
    FittedCurve,
    evidence_of_curves,
    fitted_curves,
    held_out_curves,
    usable_curves,
)
from thalweg.laws.drops import lag_sum
from thalweg.laws.evidence import Evidence
from thalweg.laws.fitting import fit_huber
from thalweg.outcomes import bad_input

if TYPE_CHECKING:
    from thalweg.runs import Curves

__all__ = ["AnnealingLaw"]

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]

CONSTANTS = ("L0", "A", "alpha", "C", "memory")
MEMORIES = (0.99, 0.995, 0.998, 0.999, 0.9995)  # Tissue et al. use .99 to .999
EXPONENTS = (0.3, 0.5, 0.8)  # starts


@dataclass(frozen=True, slots=True, eq=False)
class AnnealingLaw(CurveLaw):
    """L(t) = L0 + A·S1(t)^−α − C·S2(t), S2(t) = Σ_{i ≤ t} Σ_{k ≤ i} (η_{k−1} − η_k)·λ^(i−k) (Tissue et al. 2024).

    Each drop of the learning rate goes on lowering the loss, at a pace that settles after 1/(1 − λ) steps: the law holds for
    runs about as long as those it was fitted on, and promises too much to a long one. The warmup counts in both sums.

    Attributes:
        L0: loss that is approached with more steps [nats].
        A, alpha: amplitude and exponent of the sum of learning rates.
        C: amplitude of the annealing.
        memory: λ, how much of a drop's pace one step leaves [1].
        evidence: ranges, and residuals of held-out curves.
        fitted: the curves it was fitted on.

    Example:
        >>> from thalweg.schedules import constant, wsd
        >>> law = AnnealingLaw(L0=2.6, A=0.6, alpha=0.5, C=0.4, memory=0.999)
        >>> steady, decayed = constant(3e-4, 24000), wsd(3e-4, 24000, final_lr=3e-5)
        >>> print(law.curve(steady, steps=23999).round(4), law.curve(decayed, steps=23999).round(4))
        [2.8236] [2.7527]
    """

    sources: ClassVar[tuple[str, ...]] = ("annealing-law",)
    L0: float
    A: float
    alpha: float
    C: float
    memory: float
    evidence: Evidence = field(default_factory=Evidence)
    fitted: tuple[FittedCurve, ...] = ()

    @classmethod
    def fit(cls, curves: Curves, *, memory: float | None = None) -> Self:  # type: ignore[override]  # see CurveLaw.fit
        """Fit the constants: Huber loss (delta 1e-3) of log(predicted/measured), from several starts.

        Args:
            curves: of one model size, at least one with a learning rate that falls.
            memory: λ; None chooses from .99 to .9995 the one with the least error on curves that were left out.

        Raises:
            ThalwegError: several model sizes, fewer points than constants, no learning rate that falls, a memory outside (0, 1).
        """
        if memory is not None and not 0 < memory < 1:
            raise bad_input("memory", memory, "a number in (0, 1), or None to choose it")
        kept = usable_curves(curves, needed=len(CONSTANTS), law=cls.__name__)
        measured = np.log(np.concatenate(kept.losses))
        groups = kept.curve
        # curves without which nothing falls are not left out, because nothing is then known of C
        judged = np.isin(groups, held_out_curves(kept))
        area = np.concatenate(
            [np.cumsum(schedule.values())[steps] for schedule, steps in zip(kept.schedules, kept.steps, strict=True)]
        )
        unit = float(area.max())
        best = None
        for each in MEMORIES if memory is None else (memory,):
            lagged = np.concatenate(
                [
                    lag_sum(schedule.values(), each)[steps]
                    for schedule, steps in zip(kept.schedules, kept.steps, strict=True)
                ]
            )
            scale = float(np.abs(lagged).max())
            found = fit_huber(
                _log_loss, np.stack([np.log(area / unit), lagged / scale]), measured, groups, _starts(measured)
            )
            missed = (measured - found.held_out)[judged]
            error = float(np.abs(missed).mean()) if judged.any() else found.cost
            if best is None or error < best[0]:
                best = (error, each, scale, found.constants, missed)
        assert best is not None
        _, each, scale, (l0, a, alpha, c), missed = best
        law = cls(float(np.exp(l0)), float(np.exp(a) * unit**alpha), float(alpha), float(c / scale), each)
        return cls(
            **law.constants(),
            evidence=evidence_of_curves(curves, cls.inputs, missed if judged.any() else None),
            fitted=fitted_curves(kept, law.losses_at),
        )

    def constants(self) -> dict[str, float]:
        """The constants by name, for raw learning rates and losses in nats."""
        return {name: getattr(self, name) for name in CONSTANTS}

    def losses_at(self, lrs: Floats, steps: Integers) -> Floats:
        """The predicted loss [nats] at some steps, shape (points,)."""
        with np.errstate(divide="ignore"):
            gained = self.A * np.cumsum(lrs)[steps] ** -self.alpha
        return np.asarray(self.L0 + gained - self.C * lag_sum(lrs, self.memory)[steps])

    def final_gradient(self, lrs: Floats) -> tuple[float, Floats]:
        """The predicted loss after the last step [nats], and its derivative by every learning rate, shape (steps,)."""
        area = float(lrs.sum())
        left = np.arange(len(lrs), 0, -1)  # steps from k to the end, k among them
        weight = (1 - self.memory**left) / (1 - self.memory)  # of the drop at k in S2; the first step drops from itself
        lagged = -float(weight[1:] @ np.diff(lrs))
        gradient = np.full(len(lrs), -self.alpha * self.A * area ** (-self.alpha - 1))
        gradient[1:] += self.C * weight[1:]
        gradient[:-1] -= self.C * weight[1:]
        return self.L0 + self.A * area**-self.alpha - self.C * lagged, gradient


def _log_loss(constants: NDArray[Any], columns: Floats) -> NDArray[Any]:
    """log(e^l0 + e^a · S1^−alpha − c · S2), shape (points,)."""
    l0, a, alpha, c = constants
    log_area, lagged = columns
    with np.errstate(invalid="ignore"):
        return np.asarray(np.log(np.exp(l0) + np.exp(a - alpha * log_area) - c * lagged))


def _starts(measured: Floats) -> list[Floats]:
    """Most of the loss irreducible, a part of the rest annealed away."""
    least = float(np.exp(measured.min()))
    return [
        np.array([np.log(0.9 * least), np.log(0.1 * least), alpha, c * least])
        for alpha in EXPONENTS
        for c in (0.01, 0.05)
    ]
