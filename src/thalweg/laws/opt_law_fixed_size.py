"""Opt-Law for one model size: five positive terms of the schedule, and a constant."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.evidence import Evidence
from thalweg.laws.features import bases
from thalweg.laws.fitting import evidence_of, folds, held_out, usable, warn_of_batches
from thalweg.laws.law import Law, refuse_earlier
from thalweg.outcomes import ThalwegError
from thalweg.schedules import Budget, Schedule
from thalweg.units import format_count

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.runs import Runs

__all__ = ["OptLawFixedSize"]

Floats = NDArray[np.float64]

TERMS = ("I0^-alpha1", "I1^-alpha2", "S^-1", "R0^alpha3", "R1^alpha4")
STARTS = (0.15, 0.5, 1.2)  # of the exponents of ∫η (both) and of ∫η'² (both)
RANGE = (0.02, 4.0)  # of the exponents: below, a term is a constant


@dataclass(frozen=True, slots=True, eq=False)
class OptLawFixedSize(Law):
    """log(loss) = c1 I0^-alpha1 + c2 I1^-alpha2 + c3/S + c4 R0^alpha3 + c5 R1^alpha4 + b (Xie et al. 2024, Eq. 1).

    I0, R0 = ∫₀^a η, ∫₀^a η'² over the warmup, I1, R1 = ∫_a^S η, ∫_a^S η'² over all that follows, S in 1e9 tokens, learning
    rates divided by .015 (A.2); c and alpha are positive.

    Use it to compare peaks, warmups and lengths of one shape at one model size. Do not use it to compare a plateau with a
    slow decay: every term rises or falls with an integral, so it cannot represent what annealing gains, and on real loss
    curves of several shapes it was 1.4 to 2.1 % off. `OptLaw` has mixed terms, `MultiPowerLaw` the whole curve.

    Attributes:
        coefficients: c1 … c5, shape (5,), at least 0.
        exponents: alpha1 … alpha4, shape (4,), above 0.
        b: log(loss) without end of training.
        evidence: ranges, held-out residuals and noise of the runs it was fitted on.

    Example:
        >>> from thalweg.schedules import linear
        >>> law = OptLawFixedSize(coefficients=np.array([0, 0, 0.5, 0, 0]), exponents=np.ones(4), b=1.0)
        >>> budget = Budget(params=1e9, tokens=5e9, batch_tokens=1e6)  # log(loss) = 1 + .5/5
        >>> print(f"{np.log(law.predict(linear(1e-3, 5000, warmup=100), budget).loss):.3f}")
        1.100
    """

    sources: ClassVar[tuple[str, ...]] = ("opt-laws",)
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "batch_tokens", "peak_lr", "warmup", "final_lr")
    coefficients: Floats
    exponents: Floats
    b: float
    evidence: Evidence = field(default_factory=Evidence)

    @classmethod
    def fit(cls, runs: Runs) -> Self:
        """Fit the ten constants by least squares of log(loss); diverged runs are left out.

        For given exponents the coefficients come from non-negative least squares, so only the exponents are searched
        (variable projection), from several starts; deterministic.

        Raises:
            ThalwegError: runs of several model sizes, fewer finished configurations than constants, or a schedule without
                warmup or decay, or with a jump.
        """
        kept = usable(runs, needed=10, law="OptLawFixedSize")
        sizes = np.unique([budget.params for budget in kept.budgets])
        if len(sizes) > 1:
            raise ThalwegError(
                f"runs: got {len(kept)} runs of {len(sizes)} model sizes, {format_count(sizes[0])} to "
                f"{format_count(sizes[-1])}, expected one: OptLawFixedSize does not know size. Write runs.subset(…) for one "
                "of them, or fit OptLaw."
            )
        warn_of_batches(kept, "OptLawFixedSize", "Fit each batch size by itself (runs.subset)")
        logs, measured = _logs(kept.schedules, kept.budgets), np.log(kept.loss)
        undefined = np.flatnonzero(~np.isfinite(logs).all(axis=1))
        if undefined.size:
            raise ThalwegError(
                f"runs: the learning rate of {kept.schedules[undefined[0]]!r} does not rise or does not fall, and the exponents of "
                "Eq. 1 cannot be fitted on it. Leave such runs out."
            )
        best = min(
            (_descend(np.array([i, i, r, r]), logs, measured) for i, r in itertools.product(STARTS, STARTS)),
            key=lambda fit: fit.cost,
        )

        def predict(left_out: NDArray[np.bool_]) -> Floats:
            # the minimum of a part of the table lies near that of the whole
            part = _descend(best.exponents, logs[~left_out], measured[~left_out])
            return _terms(logs[left_out], part.exponents) @ part.coefficients + part.b

        groups, words = folds(kept)
        evidence = evidence_of(kept, cls.inputs, measured - held_out(predict, groups), words)
        return cls(coefficients=best.coefficients, exponents=best.exponents, b=best.b, evidence=evidence)

    def log_losses(
        self,
        schedules: Sequence[Schedule],
        budgets: Sequence[Budget],
        *,
        after: Sequence[tuple[Schedule, Budget]] = (),
    ) -> Floats:
        """The law, shape (runs,), whatever params are.

        Raises:
            ThalwegError: earlier training was given; a schedule has no warmup or no decay, or jumps.
        """
        refuse_earlier(after, type(self).__name__)
        return np.asarray(_terms(_logs(schedules, budgets), self.exponents) @ self.coefficients + self.b)

    def to_frame(self) -> pd.DataFrame:
        """The terms with their coefficients and exponents; the constant last."""
        import pandas as pd

        first, second, *rest = self.exponents.tolist()
        exponents = [-first, -second, -1.0, *rest, 0.0]
        return pd.DataFrame({"term": [*TERMS, "1"], "coefficient": [*self.coefficients, self.b], "exponent": exponents})

    def summary(self) -> str:
        """The law with its constants, and how far it missed runs it had not seen."""
        frame = self.to_frame().iloc[:-1]
        terms = " + ".join(
            f"{c:.3g} {term.split('^')[0]}^{power:.3g}"
            for term, c, power in frame.itertuples(index=False, name=None)
            if c > 0
        )
        return f"OptLawFixedSize: log(loss) = {self.b:.4g} + {terms}\n{self.evidence.summary()}"


class _Fit(NamedTuple):
    exponents: Floats
    coefficients: Floats
    b: float
    cost: float


def _logs(schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Floats:
    """log of I0, I1, S, R0, R1 of each run, shape (runs, 5)."""
    made_of = bases(schedules, budgets, "tables")  # every bound is the end of the warmup
    with np.errstate(divide="ignore"):
        inverse0, inverse1 = np.log(made_of.linear[:, :2]).T
    return np.stack([-inverse0, -inverse1, made_of.logs[:, 10], made_of.logs[:, 2], made_of.logs[:, 3]], axis=1)


def _terms(logs: Floats, exponents: Floats) -> Floats:
    """I0^-alpha1, I1^-alpha2, 1/S, R0^alpha3, R1^alpha4, shape (runs, 5)."""
    a1, a2, a3, a4 = exponents
    return np.asarray(np.exp(logs * np.array([-a1, -a2, -1.0, a3, a4])))


def _descend(start: Floats, logs: Floats, measured: Floats) -> _Fit:
    """The exponents that a start leads to, with their coefficients."""
    from scipy.optimize import least_squares

    def residuals(log_exponents: Floats) -> Floats:
        coefficients, b = _project(_terms(logs, np.exp(log_exponents)), measured)
        return np.asarray(_terms(logs, np.exp(log_exponents)) @ coefficients + b - measured)

    found = least_squares(residuals, np.log(start), bounds=tuple(np.log(RANGE)), xtol=1e-10, ftol=1e-12, gtol=1e-14)
    exponents = np.exp(found.x)
    coefficients, b = _project(_terms(logs, exponents), measured)
    return _Fit(exponents, coefficients, b, float(found.cost))


def _project(terms: Floats, measured: Floats) -> tuple[Floats, float]:
    """Coefficients of at least 0 and a constant of either sign, by least squares."""
    from scipy.optimize import nnls

    centred = terms - terms.mean(axis=0)  # the constant takes up the means
    scale = np.sqrt((centred**2).mean(axis=0))
    scale[scale < 1e-12 * np.abs(terms).max(axis=0)] = np.inf  # a term that does not vary gets no weight
    coefficients = nnls(centred / scale, measured - measured.mean())[0] / scale
    return coefficients, float(measured.mean() - terms.mean(axis=0) @ coefficients)
