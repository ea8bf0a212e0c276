"""The Chinchilla law: final loss from model size and data alone, blind to the schedule."""

from __future__ import annotations

import itertools
import math
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.evidence import Evidence
from thalweg.laws.fitting import evidence_of, fit_huber, folds, log_sum_exp, sizes_of, usable, warn_of_batches
from thalweg.laws.law import Law, refuse_earlier
from thalweg.schedules import Budget, Schedule

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.runs import Runs

__all__ = ["Chinchilla"]

Floats = NDArray[np.float64]

EXPONENTS = (0.1, 0.25, 0.4, 0.6, 0.9, 1.3)  # starts, for alpha and for beta


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
            ThalwegError: fewer than 3 different params, 3 different tokens or 5 pairs of them, or params and tokens move
                together.
        """
        kept = usable(runs, needed=5, law="Chinchilla")
        warn_of_batches(kept, "Chinchilla", "Fit each batch size by itself (runs.subset), or fit a law that knows it")
        columns, (n_mean, d_mean) = sizes_of(kept, "Chinchilla", params=3, tokens=3, pairs=5)
        measured = np.log(kept.loss)
        groups, words = folds(kept)
        found = fit_huber(_log_loss, columns, measured, groups, _starts(columns, measured))
        evidence = evidence_of(kept, cls.inputs, measured - found.held_out, words)
        e, a, b, alpha, beta = found.constants.tolist()
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
        refuse_earlier(after, type(self).__name__)
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


def _log_loss(constants: NDArray[Any], columns: Floats) -> NDArray[Any]:
    """log(exp(e) + exp(a − alpha n) + exp(b − beta d)): amplitudes at the mean of the logarithms n, d of the counts."""
    e, a, b, alpha, beta = constants
    n, d = columns
    return log_sum_exp(e, a - alpha * n, b - beta * d)


def _starts(columns: Floats, measured: Floats) -> list[Floats]:
    """A grid of exponents, the amplitudes of each from non-negative least squares."""
    from scipy.optimize import nnls

    n, d = columns
    loss = np.exp(measured)
    starts = []
    for alpha, beta in itertools.product(EXPONENTS, EXPONENTS):
        basis = np.stack([np.ones_like(n), np.exp(-alpha * n), np.exp(-beta * d)], axis=1)
        amplitudes, _ = nnls(basis / loss[:, None], np.ones_like(loss))
        starts.append(np.array([*np.log(np.maximum(amplitudes, 1e-3 * loss.mean())), alpha, beta]))
    return starts
