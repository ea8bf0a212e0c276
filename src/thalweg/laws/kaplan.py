"""Kaplan's law: final loss from model size and data alone, without an irreducible loss."""

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
from thalweg.outcomes import ThalwegError
from thalweg.schedules import Budget, Schedule

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.runs import Runs

__all__ = ["Kaplan"]

Floats = NDArray[np.float64]

LARGEST = 600.0  # exponent of e that is still a number

EXPONENTS = (0.03, 0.06, 0.1, 0.2, 0.4)  # starts, for alpha_n and for alpha_d


@dataclass(frozen=True, slots=True, eq=False)
class Kaplan(Law):
    """loss = ((Nc/params)^(alpha_n/alpha_d) + Dc/tokens)^alpha_d (Kaplan et al. 2020, Eq. 1.5).

    Without end of data the loss is (Nc/params)^alpha_n, and without end of parameters (Dc/tokens)^alpha_d: there is no
    irreducible loss. Fitted as `Chinchilla` is; it does not see the schedule either, so it ranks none.

    Attributes:
        Nc, Dc: scales of params and tokens [count]. Kaplan et al. count parameters without embeddings; a fit counts what the
            table counts.
        alpha_n, alpha_d: exponents of params and tokens [1].
        evidence: ranges, held-out residuals and noise of the runs it was fitted on.

    Example:
        >>> from thalweg.schedules import linear
        >>> law = Kaplan(Nc=6.4e13, Dc=1.8e13, alpha_n=0.076, alpha_d=0.103)  # their Table 2
        >>> budget = Budget(params=1e9, tokens=1e30, batch_tokens=1e26)  # as good as endless
        >>> print(f"{law.predict(linear(1e-4, budget.steps), budget).loss:.4f} {(6.4e13 / 1e9) ** 0.076:.4f}")
        2.3188 2.3188
    """

    sources: ClassVar[tuple[str, ...]] = ("kaplan",)
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    Nc: float
    Dc: float
    alpha_n: float
    alpha_d: float
    evidence: Evidence = field(default_factory=Evidence)

    @classmethod
    def fit(cls, runs: Runs) -> Self:
        """Fit the four constants; diverged runs are left out.

        Raises:
            ThalwegError: fewer than 2 different params, 2 different tokens or 4 pairs of them, or params and tokens move
                together.
        """
        kept = usable(runs, needed=4, law="Kaplan")
        warn_of_batches(kept, "Kaplan", "Fit each batch size by itself (runs.subset), or fit a law that knows it")
        columns, (n_mean, d_mean) = sizes_of(kept, "Kaplan", params=2, tokens=2, pairs=4)
        measured = np.log(kept.loss)
        groups, words = folds(kept)
        found = fit_huber(_log_loss, columns, measured, groups, _starts(columns, measured))
        a, b, ratio, alpha_d = found.constants.tolist()
        log_n, log_d = a / ratio + n_mean, b + d_mean
        if not max(abs(log_n), abs(log_d)) < LARGEST:
            raise ThalwegError(
                "runs: their loss hardly depends on params or on tokens, so Kaplan's constants are not determined. Add runs "
                "of other sizes, or check the column loss."
            )
        return cls(
            Nc=math.exp(log_n),
            Dc=math.exp(log_d),
            alpha_n=ratio * alpha_d,
            alpha_d=alpha_d,
            evidence=evidence_of(kept, cls.inputs, measured - found.held_out, words),
        )

    def log_losses(
        self,
        schedules: Sequence[Schedule],
        budgets: Sequence[Budget],
        *,
        after: Sequence[tuple[Schedule, Budget]] = (),
    ) -> Floats:
        """The logarithm of the law, shape (runs,), whatever the schedules are.

        Raises:
            ThalwegError: earlier training was given.
        """
        refuse_earlier(after, type(self).__name__)
        n = np.log([budget.params for budget in budgets]) - math.log(self.Nc)
        d = np.log([budget.tokens for budget in budgets]) - math.log(self.Dc)
        return self.alpha_d * np.logaddexp(-self.alpha_n / self.alpha_d * n, -d)

    def to_frame(self) -> pd.DataFrame:
        """The four constants, one row."""
        import pandas as pd

        return pd.DataFrame([{"Nc": self.Nc, "Dc": self.Dc, "alpha_n": self.alpha_n, "alpha_d": self.alpha_d}])

    def summary(self) -> str:
        """The law with its constants, and how far it missed runs it had not seen."""
        by_size = f"({self.Nc:.4g}/params)^({self.alpha_n:.3f}/{self.alpha_d:.3f})"
        return f"Kaplan: loss = ({by_size} + {self.Dc:.4g}/tokens)^{self.alpha_d:.3f}\n{self.evidence.summary()}"


def _log_loss(constants: NDArray[Any], columns: Floats) -> NDArray[Any]:
    """alpha_d log(exp(a − ratio n) + exp(b − d)), ratio = alpha_n/alpha_d; n, d are log counts around their means."""
    a, b, ratio, alpha_d = constants
    n, d = columns
    return np.asarray(alpha_d * log_sum_exp(a - ratio * n, b - d))


def _starts(columns: Floats, measured: Floats) -> list[Floats]:
    """A grid of exponents; loss^(1/alpha_d) is linear in the two amplitudes, which non-negative least squares finds."""
    from scipy.optimize import nnls

    n, d = columns
    starts = []
    for alpha_n, alpha_d in itertools.product(EXPONENTS, EXPONENTS):
        ratio = alpha_n / alpha_d
        centre = measured.mean() / alpha_d
        target = np.exp(measured / alpha_d - centre)
        amplitudes, _ = nnls(np.stack([np.exp(-ratio * n), np.exp(-d)], axis=1) / target[:, None], np.ones_like(n))
        starts.append(np.array([*(np.log(np.maximum(amplitudes, 1e-3)) + centre), ratio, alpha_d]))
    return starts
