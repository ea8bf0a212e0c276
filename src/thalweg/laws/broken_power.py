"""The broken neural scaling law: a power law of one quantity whose slope changes smoothly at breaks."""

from __future__ import annotations

import itertools
from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, ClassVar, Literal, Self, get_args

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.evidence import Evidence
from thalweg.laws.fitting import evidence_of, fit_huber, folds, log_sum_exp, usable, warn_of_batches
from thalweg.laws.law import Law, refuse_earlier
from thalweg.outcomes import ThalwegError, bad_input
from thalweg.schedules import Budget, Schedule

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.runs import Runs

__all__ = ["BrokenPowerLaw"]

Floats = NDArray[np.float64]
Axis = Literal["compute", "params", "tokens"]

SLOPES = (0.05, 0.15, 0.4)  # starts of c0,
BENDS = (-0.04, 0.1, 0.3)  # of the change of slope at each break,
PLACES = (-0.6, 0.0, 0.6)  # and of where the breaks lie, log x reaching from −1 to 1
DELTA = 0.01  # the authors take squares of log(loss); a run that went wrong by more than 1 % counts linearly


@dataclass(frozen=True, slots=True, eq=False)
class BrokenPowerLaw(Law):
    """loss = a + b x^-c0 Π (1 + (x/d_i)^(1/f_i))^(-c_i f_i) (Caballero et al. 2023, Eq. 1).

    x is one quantity, as in the paper: compute (6 · params · tokens, the standard count of floating-point operations),
    params or tokens. Runs of one compute are one to the law, however params and tokens share it: on a table that varies both
    freely `Chinchilla` has more to go by. It does not see the schedule.

    Attributes:
        a: the loss that is left without end of x [nats].
        b: amplitude [nats], for raw counts.
        c0: slope of the first segment [1].
        c: change of slope at each break [1], shape (breaks,).
        d: where the breaks lie, in units of x, shape (breaks,).
        f: width of each break in log(x), shape (breaks,): small is sharp.
        axis: "compute", "params" or "tokens".
        evidence: ranges, held-out residuals and noise of the runs it was fitted on.

    Example:
        >>> from thalweg.schedules import linear
        >>> one = np.ones(1)
        >>> law = BrokenPowerLaw(
        ...     a=1.5, b=400.0, c0=0.3, c=0 * one, d=1e9 * one, f=one, axis="params"
        ... )  # no bend: a power law
        >>> budget = Budget(params=1e9, tokens=1e9, batch_tokens=1e6)
        >>> print(f"{law.predict(linear(1e-4, 1000), budget).loss:.4f} {1.5 + 400 * 1e9**-0.3:.4f}")
        2.2981 2.2981
    """

    sources: ClassVar[tuple[str, ...]] = ("broken-power",)
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens")
    a: float
    b: float
    c0: float
    c: Floats
    d: Floats
    f: Floats
    axis: Axis = "compute"
    evidence: Evidence = field(default_factory=Evidence)

    @classmethod
    def fit(cls, runs: Runs, *, axis: Axis = "compute", breaks: int = 1) -> Self:
        """Fit the constants by Huber's loss of log(loss), from several starts; diverged runs are left out.

        Args:
            runs: the table.
            axis: what x is.
            breaks: how many; 0 is a power law with an irreducible loss.

        Raises:
            ThalwegError: unknown axis, negative breaks, or fewer different x than the 3 + 3 · breaks constants.
        """
        if axis not in get_args(Axis):
            raise bad_input("axis", axis, "one of " + ", ".join(get_args(Axis)))
        if breaks < 0:
            raise bad_input("breaks", breaks, "0 or more breaks", "Write breaks=1")
        needed = 3 + 3 * breaks
        kept = usable(runs, needed=needed, law="BrokenPowerLaw")
        warn_of_batches(
            kept, "BrokenPowerLaw", "Fit each batch size by itself (runs.subset), or fit a law that knows it"
        )
        raw = _log_x(kept.budgets, axis)
        found = len(np.unique(raw.round(9)))
        if found < needed:
            raise ThalwegError(
                f"runs: got {len(kept)} runs of {found} different {axis}, expected at least {needed}: fewer do not fix the "
                f"{needed} constants of BrokenPowerLaw with breaks={breaks}. Add runs, or write a smaller breaks=."
            )
        # from −1 to 1, so that one set of starts serves every table
        middle, half = (raw.min() + raw.max()) / 2, (raw.max() - raw.min()) / 2
        columns, measured = ((raw - middle) / half)[None], np.log(kept.loss)
        groups, words = folds(kept)
        starts = _starts(columns[0], measured, breaks)
        fit = fit_huber(_log_loss, columns, measured, groups, starts, delta=DELTA, bounds=_bounds(measured, breaks))
        log_a, log_b, c0, bends, places, log_widths = _parts(fit.constants)
        return cls(
            a=float(np.exp(log_a)),
            b=float(np.exp(log_b + c0 / half * middle)),
            c0=float(c0 / half),
            c=bends / half,
            d=np.exp(places * half + middle),
            f=np.exp(log_widths) * half,
            axis=axis,
            evidence=evidence_of(kept, cls.inputs, measured - fit.held_out, words),
        )

    def refit(self, runs: Runs) -> Self:
        """The same axis and number of breaks on other runs."""
        return type(self).fit(runs, axis=self.axis, breaks=len(self.c))

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
        with np.errstate(divide="ignore"):  # a may be 0
            log_a = np.log(self.a)
        constants = np.array([log_a, np.log(self.b), self.c0, *self.c, *np.log(self.d), *np.log(self.f)])
        return np.asarray(_log_loss(constants, _log_x(budgets, self.axis)[None]))

    def to_frame(self) -> pd.DataFrame:
        """One row a segment: its slope, and the break it begins at (NaN for the first)."""
        import pandas as pd

        nan = [float("nan")]
        slopes = np.cumsum([self.c0, *self.c])
        return pd.DataFrame({"slope": slopes, "from": [*nan, *self.d], "width": [*nan, *self.f]})

    def summary(self) -> str:
        """The law with its constants, and how far it missed runs it had not seen."""
        x = {"compute": "(6 params tokens)"}.get(self.axis, self.axis)
        bends = ", ".join(f"slope {c:+.3f} at {d:.3g}" for c, d in zip(self.c, self.d, strict=True)) or "no break"
        return (
            f"BrokenPowerLaw: loss = {self.a:.4g} + {self.b:.4g}/{x}^{self.c0:.3f} with breaks: {bends}\n"
            f"{self.evidence.summary()}"
        )


def _log_x(budgets: Sequence[Budget], axis: Axis) -> Floats:
    """log(x) of each budget, shape (runs,)."""
    n = np.log([budget.params for budget in budgets])
    d = np.log([budget.tokens for budget in budgets])
    return np.asarray({"compute": np.log(6) + n + d, "params": n, "tokens": d}[axis])


def _parts(constants: NDArray[Any]) -> tuple[Any, Any, Any, NDArray[Any], NDArray[Any], NDArray[Any]]:
    """log a, log b, c0, and c, log d, log f of the breaks, shape (breaks,) each."""
    log_a, log_b, c0, *rest = constants
    return log_a, log_b, c0, *np.array(rest, dtype=constants.dtype).reshape(3, -1)


def _log_loss(constants: NDArray[Any], columns: Floats) -> NDArray[Any]:
    """The logarithm of Eq. 1 from the logarithms of its constants, at log x = columns[0]."""
    (x,) = columns
    log_a, log_b, c0, bends, places, log_widths = _parts(constants)
    power = log_b - c0 * x
    for bend, place, width in zip(bends, places, np.exp(log_widths), strict=True):
        power = power - bend * width * log_sum_exp(np.zeros_like(x), (x - place) / width)
    return log_sum_exp(log_a, power)


def _bounds(measured: Floats, breaks: int) -> tuple[Floats, Floats]:
    """What a table can tell: an a between 1e-4 of the lowest loss and that loss, breaks within the table and no wider than it."""
    lowest = measured.min()
    low = [lowest - 9.2, -30.0, 1e-4, *[-3.0] * breaks, *[-1.0] * breaks, *[np.log(0.02)] * breaks]
    high = [lowest, measured.max() + 5.0, 5.0, *[3.0] * breaks, *[1.0] * breaks, *[0.0] * breaks]
    return np.array(low), np.array(high)


def _starts(x: Floats, measured: Floats, breaks: int) -> list[Floats]:
    """A grid of slopes and breaks at every set of places; the amplitudes of each from non-negative least squares."""
    from scipy.optimize import nnls

    loss = np.exp(measured)
    starts = []
    for c0, bend, places in itertools.product(
        SLOPES, BENDS if breaks else (0.0,), itertools.combinations_with_replacement(PLACES, breaks)
    ):
        rest = [*[bend] * breaks, *places, *np.log([0.3] * breaks)]
        power = np.exp(_log_loss(np.array([-np.inf, 0.0, c0, *rest]), x[None]))
        amplitudes, _ = nnls(np.stack([np.ones_like(x), power], axis=1) / loss[:, None], np.ones_like(loss))
        most = np.array([0.99 * loss.min(), np.inf])
        starts.append(np.array([*np.log(np.clip(amplitudes, 1e-3 * loss.mean(), most)), c0, *rest]))
    return starts
