"""The Chinchilla law: final loss from model size and data alone, blind to the schedule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.evidence import Evidence
from thalweg.laws.fitting import evidence_of, folds, held_out, usable
from thalweg.laws.law import Law
from thalweg.outcomes import ThalwegError
from thalweg.schedules import Budget, Schedule

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.runs import Runs

__all__ = ["Chinchilla"]

Floats = NDArray[np.float64]

HUBER_DELTA = 1e-3  # Hoffmann et al. 2022, Eq. 3
EXPONENTS = (0.1, 0.25, 0.4, 0.6, 0.9, 1.3)  # starts, for alpha and for beta
POLISHED = 4  # the best starts that are followed to their minimum


@dataclass(frozen=True, slots=True, eq=False)
class Chinchilla(Law):
    """loss = E + A/params^alpha + B/tokens^beta (Hoffmann et al. 2022, Eq. 2).

    Fitted as Besiroglu et al. 2024 do: Huber loss (delta 1e-3) on log(loss), from several starts. It does not see the
    schedule, so it ranks none; it is the baseline that a law of schedules has to beat.

    Attributes:
        E, A, B: irreducible loss and the two amplitudes [nats], for raw counts.
        alpha, beta: exponents of params and tokens [1].
        evidence: ranges, held-out residuals and noise of the runs it was fitted on.

    Example:
        >>> from thalweg.schedules import linear
        >>> law = Chinchilla(E=1.8172, A=482.01, B=2085.43, alpha=0.3478, beta=0.3658)  # Besiroglu et al.
        >>> budget = Budget(params=70e9, tokens=1.4e12, batch_tokens=4e6)
        >>> print(f"{law.predict(linear(1e-4, budget.steps, warmup=100), budget).loss:.3f}")
        1.974
    """

    sources: ClassVar[tuple[str, ...]] = ("chinchilla", "besiroglu")
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    E: float
    A: float
    B: float
    alpha: float
    beta: float
    evidence: Evidence = field(default_factory=Evidence)

    @classmethod
    def fit(cls, runs: Runs) -> Self:
        """Fit the five constants; diverged runs are left out.

        Raises:
            ThalwegError: fewer than 3 different params, 3 different tokens or 5 pairs of them.
        """
        kept = usable(runs, needed=5, law="Chinchilla")
        N = np.array([budget.params for budget in kept.budgets])
        D = np.array([budget.tokens for budget in kept.budgets])
        found = len(np.unique(N)), len(np.unique(D)), len(np.unique(kept.cells))
        if found[0] < 3 or found[1] < 3 or found[2] < 5:
            raise ThalwegError(
                f"runs: got {found[0]} different params, {found[1]} different tokens and {found[2]} pairs of them, expected at "
                "least 3, 3 and 5: fewer do not fix the five constants of Chinchilla. Add runs of other sizes."
            )
        # logarithms of counts around their means: amplitudes and exponents are then nearly uncorrelated
        n_mean, d_mean = float(np.log(N).mean()), float(np.log(D).mean())
        n, d, measured = np.log(N) - n_mean, np.log(D) - d_mean, np.log(kept.loss)
        best = min((_descend(start, n, d, measured) for start in _starts(n, d, measured)), key=lambda fit: fit.cost)

        def predict(left_out: NDArray[np.bool_]) -> Floats:
            # the minimum of a part of the table lies near that of the whole
            part = _descend(best.constants, n[~left_out], d[~left_out], measured[~left_out])
            return _log_loss(part.constants, n[left_out], d[left_out])

        groups, words = folds(kept)
        evidence = evidence_of(kept, cls.inputs, measured - held_out(predict, groups), words)
        e, a, b, alpha, beta = best.constants.tolist()
        A, B = math.exp(a + alpha * n_mean), math.exp(b + beta * d_mean)
        return cls(E=math.exp(e), A=A, B=B, alpha=alpha, beta=beta, evidence=evidence)

    def log_losses(
        self,
        schedules: Sequence[Schedule],
        budgets: Sequence[Budget],
        *,
        after: Sequence[tuple[Schedule, Budget]] = (),
    ) -> Floats:
        """log(E + A/params^alpha + B/tokens^beta), shape (runs,), whatever the schedules are.

        Raises:
            ThalwegError: earlier training was given.
        """
        if after:
            raise ThalwegError("after: Chinchilla has no form for earlier training. Rank with OptLaw instead.")
        N = np.array([budget.params for budget in budgets])
        D = np.array([budget.tokens for budget in budgets])
        return np.log(self.E + self.A * N**-self.alpha + self.B * D**-self.beta)

    def to_frame(self) -> pd.DataFrame:
        """The five constants, one row."""
        import pandas as pd

        return pd.DataFrame([{"E": self.E, "A": self.A, "B": self.B, "alpha": self.alpha, "beta": self.beta}])

    def summary(self) -> str:
        """The law with its constants, and how far it missed runs it had not seen."""
        formula = f"{self.E:.4g} + {self.A:.4g}/params^{self.alpha:.3f} + {self.B:.4g}/tokens^{self.beta:.3f}"
        return f"Chinchilla: loss = {formula}\n{self.evidence.summary()}"


class _Fit(NamedTuple):
    constants: (
        Floats  # e, a, b, alpha, beta: logarithms of the amplitudes at the mean of log(counts), and the exponents
    )
    cost: float


def _log_loss(constants: Floats, n: Floats, d: Floats) -> Floats:
    """log(exp(e) + exp(a − alpha n) + exp(b − beta d)), shape of n and d."""
    e, a, b, alpha, beta = constants
    return np.asarray(np.logaddexp(e, np.logaddexp(a - alpha * n, b - beta * d)))


def _descend(start: Floats, n: Floats, d: Floats, measured: Floats) -> _Fit:
    """The minimum of the Huber loss of log(predicted/measured) that a start leads to."""
    from scipy.optimize import least_squares

    def residuals(constants: Floats) -> Floats:
        return _log_loss(constants, n, d) - measured

    def jacobian(constants: Floats) -> Floats:
        e, a, b, alpha, beta = constants
        total = _log_loss(constants, n, d)
        of_e, of_a, of_b = (np.exp(part - total) for part in (e, a - alpha * n, b - beta * d))
        return np.stack([of_e, of_a, of_b, -n * of_a, -d * of_b], axis=1)

    found = least_squares(
        residuals, start, jacobian, method="trf", loss="huber", f_scale=HUBER_DELTA, xtol=1e-12, ftol=1e-12, gtol=1e-14
    )
    return _Fit(found.x, float(found.cost))


def _starts(n: Floats, d: Floats, measured: Floats) -> list[Floats]:
    """The best few points of a grid of exponents, the amplitudes of each from non-negative least squares."""
    from scipy.optimize import nnls

    tried: list[_Fit] = []
    loss = np.exp(measured)
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        basis = np.stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)], axis=1)
        amplitudes, _ = nnls(basis / loss[:, None], np.ones_like(loss))
        logs = np.log(np.maximum(amplitudes, 1e-3 * loss.mean()))
        constants = np.array([*logs, alpha, beta])
        tried.append(_Fit(constants, float(np.abs(_log_loss(constants, n, d) - measured).sum())))
    return [fit.constants for fit in sorted(tried, key=lambda fit: fit.cost)[:POLISHED]]
