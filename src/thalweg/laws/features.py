"""The features of the generalized Opt-Law: integrals of a schedule over its phases, their powers, and terms of batch size."""

from __future__ import annotations

import warnings
from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thalweg.outcomes import ThalwegError, ThalwegWarning, bad_input
from thalweg.schedules import Budget, Schedule
from thalweg.schedules.pieces import Table
from thalweg.units import format_count

__all__ = [
    "BATCH_TERMS",
    "EXPONENTS",
    "FEATURES",
    "LR_UNIT",
    "READINGS",
    "TOKEN_UNIT",
    "Bases",
    "Phases",
    "Reading",
    "bases",
    "check_phases",
    "feature_matrix",
    "feature_names",
]

Floats = NDArray[np.float64]
Phases = Literal["hybrid", "tables", "section_4_3"]

LR_UNIT = 0.015  # paper, A.2: learning rates are divided by 1.5e-2,
TOKEN_UNIT = 1e9  # parameters are counted in billions, steps in billions of tokens
BATCH_UNIT = 1e6  # ours: batches are counted in millions of tokens

# what is raised to an exponent, in the order of Eq. 7
POWERS = ("N/I1", "I0 I1", "R0", "R1", "S N", "R1/I0", "R1/I1", "N R1/I0", "N R1/I1", "N", "S", "h")
# signed: Eq. 7 and Tables 5 and 6 put the minus in different places
EXPONENTS: Mapping[str, tuple[float, ...]] = {
    # set by hand: paper, Tables 5 and 6
    "paper": (0.25, -0.23, 0.25, 0.25, -0.25, 0.2, 0.15, 0.15, 0.15, -0.25, -0.25, 0.2),
    # chosen together on 1130 of Step-Law's dense runs: at most 430e6 parameters and 25e9 tokens, the eight batch sizes of 70
    # runs or more, each with coefficients of its own, as `fit_exponents` chooses them on one table
    "dense": (0.31, -0.44, 0.42, 0.49, -0.13, 0.1, 0.07, 0.25, 0.15, -0.11, -0.19, 0.12),
}
FEATURES = (
    "I0^-1", "I1^-1", "(N/I1)^.25", "(I0 I1)^-.23",
    "R1", "R0^.25", "R1^.25", "(S N)^-.25",
    "(R1/I0)^.2", "(R1/I1)^.15", "(N R1/I0)^.15", "(N R1/I1)^.15",
    "N^-.25", "S^-.25", "h^.2", "1",
)  # fmt: skip
BATCH_TERMS = ("log B", "(log B)^2", "log B log h", "log B log N", "log B log S")

FEWEST_OF_A_TABLE = 20  # values: of fewer, any step is a large part


class Reading(NamedTuple):
    """Which phase end (1, 2, 3 for a1, a2, a3) bounds each integral: from 0 to it (…0), or from it to the last step (…1).

    `c0 c1` bound ∫η in the convergence terms, `e0 e1` bound ∫η'² in the escape terms; `m0 m1` bound ∫η and `m` bounds ∫η'²
    in the four mixed terms.
    """

    c0: int
    c1: int
    e0: int
    e1: int
    m0: int
    m1: int
    m: int


# §4.3 and Tables 5 and 6 of the paper contradict each other, and neither reproduces its Table 1; `hybrid` was found by
# searching readings against Table 1 (mean error .114 %, largest .294 %) and is a hypothesis.
READINGS: Mapping[Phases, Reading] = {
    "hybrid": Reading(c0=1, c1=3, e0=2, e1=1, m0=2, m1=1, m=3),
    "tables": Reading(c0=1, c1=1, e0=1, e1=1, m0=1, m1=1, m=1),
    "section_4_3": Reading(c0=1, c1=3, e0=2, e1=2, m0=1, m1=3, m=2),
}


class Bases(NamedTuple):
    """What the features of runs are made of, whatever the exponents are.

    Attributes:
        linear: 1/I0, 1/I1 and R1, shape (runs, 3).
        logs: logarithms of `POWERS`, shape (runs, 12).
        batch: log(batch_tokens/1e6), shape (runs,).
    """

    linear: Floats
    logs: Floats
    batch: Floats

    def features(self, exponents: Floats, *, batch_terms: bool = False) -> Floats:
        """The features of each run, shape (runs, 16) or (runs, 21), in the order of `feature_names`; the last is 1."""
        inverse0, inverse1, R1 = self.linear.T
        n_i1, i0_i1, r0, r1, s_n, *mixed, n, s, h = np.exp(self.logs * exponents).T
        columns = [inverse0, inverse1, n_i1, i0_i1, R1, r0, r1, s_n, *mixed, n, s, h]
        if batch_terms:
            log_n, log_s, log_h = self.logs[:, -3:].T
            columns += [self.batch, self.batch**2, self.batch * log_h, self.batch * log_n, self.batch * log_s]
        return np.stack([*columns, np.ones_like(n)], axis=1)

    def subset(self, mask: NDArray[np.bool_]) -> Bases:
        """The runs where the mask, shape (runs,), is true."""
        return Bases(self.linear[mask], self.logs[mask], self.batch[mask])


def bases(
    schedules: Sequence[Schedule],
    budgets: Sequence[Budget],
    phases: Phases,
    *,
    after: Sequence[tuple[Schedule, Budget]] = (),
) -> Bases:
    """The integrals of each run, and what Eq. 7 raises to powers.

    With I0 = ∫₀^{ac1} η, I1 = ∫_{ac2}^S η, R0 = ∫₀^{ae1} η'², R1 = ∫_{ae2}^S η'², h = the highest learning rate in [a2, S],
    N = total parameters/1e9, steps counted in 1e9 tokens, learning rates divided by .015 (Xie et al. 2024, Eq. 7 with the
    escape terms it forgets to list, Tables 5 and 6, A.2). After earlier training (§6.3) its ∫η is added to I0, and R1 is
    divided by h⁴.

    Raises:
        ThalwegError: unknown phases; ∫η over the warmup or the cooldown is zero; the learning rate jumps, so that ∫η'² is
            infinite.
    """
    check_phases(phases)
    reading = READINGS[phases]
    N = np.array([budget.params for budget in budgets]) / TOKEN_UNIT
    batch = np.array([budget.batch_tokens for budget in budgets])
    step = batch / TOKEN_UNIT
    S = np.array([schedule.steps for schedule in schedules], dtype=np.float64) * step
    h = np.array([schedule.final_peak_lr for schedule in schedules]) / LR_UNIT
    # column j holds the integral from phase end j to phase end j + 1 (0, a1, a2, a3, S)
    area, rough = _phase_integrals(schedules)
    area *= step[:, None] / LR_UNIT
    rough /= step[:, None] * LR_UNIT**2
    before = sum(s.integral(0, s.steps) * b.batch_tokens / TOKEN_UNIT / LR_UNIT for s, b in after)
    escape = h**-4 if after else np.ones_like(h)

    I0 = before + area[:, : reading.c0].sum(axis=1)
    I1 = area[:, reading.c1 :].sum(axis=1)
    R0 = rough[:, : reading.e0].sum(axis=1)
    R1 = rough[:, reading.e1 :].sum(axis=1) * escape
    J0 = before + area[:, : reading.m0].sum(axis=1)
    J1 = area[:, reading.m1 :].sum(axis=1)
    Q = rough[:, reading.m :].sum(axis=1) * escape
    _refuse_zero(I0, schedules, "∫η over the warmup (I0)", "Give the schedule a warmup= of at least 1 step")
    _refuse_zero(I1, schedules, "∫η over the cooldown (I1)", "Let the schedule decay, for example wsd(…, decay=0.15)")
    powers = [N / I1, I0 * I1, R0, R1, S * N, Q / J0, Q / J1, N * Q / J0, N * Q / J1, N, S, h]
    # R0, R1 or Q is 0 where nothing changes in its phase: its power is then 0 too, exp(-inf)
    with np.errstate(divide="ignore"):
        logs = np.log(np.stack(powers, axis=1))
    return Bases(np.stack([1 / I0, 1 / I1, R1], axis=1), logs, np.log(batch / BATCH_UNIT))


def feature_matrix(
    schedules: Sequence[Schedule],
    budgets: Sequence[Budget],
    phases: Phases,
    *,
    after: Sequence[tuple[Schedule, Budget]] = (),
) -> Floats:
    """The features of each run under the paper's exponents, shape (runs, 16), in the order of `FEATURES`; see `bases`.

    Raises:
        ThalwegError: as `bases` does.

    Example:
        >>> from thalweg.schedules import linear
        >>> budget = Budget(params=1e9, tokens=20e9, batch_tokens=1e6)
        >>> feature_matrix([linear(0.015, 20000, warmup=4000)], [budget], "tables")[0, :2]  # I0 = 4/2, I1 = 16/2
        array([0.5  , 0.125])
    """
    return bases(schedules, budgets, phases, after=after).features(np.array(EXPONENTS["paper"]))


def feature_names(exponents: Sequence[float], *, batch_terms: bool = False) -> tuple[str, ...]:
    """The names of the features, in their order.

    Example:
        >>> feature_names(EXPONENTS["paper"]) == FEATURES
        True
        >>> len(feature_names(EXPONENTS["paper"], batch_terms=True))
        21
    """
    base = [name if len(name) <= 2 and " " not in name else f"({name})" for name in POWERS]
    n_i1, i0_i1, r0, r1, s_n, *rest = (
        f"{name}^{f'{exponent:.3g}'.replace('0.', '.')}" for name, exponent in zip(base, exponents, strict=True)
    )
    terms = BATCH_TERMS if batch_terms else ()
    return ("I0^-1", "I1^-1", n_i1, i0_i1, "R1", r0, r1, s_n, *rest, *terms, "1")


def check_phases(phases: str) -> None:
    """Refuse a name that is not a reading of the phases.

    Raises:
        ThalwegError: unknown name.
    """
    if phases not in READINGS:
        raise bad_input("phases", phases, "one of " + ", ".join(READINGS))


def _phase_integrals(schedules: Sequence[Schedule]) -> tuple[Floats, Floats]:
    """∫η and ∫η'² over the four phases of each schedule, shape (runs, 4), per step."""
    area = np.zeros((len(schedules), 4))
    rough = np.zeros((len(schedules), 4))
    for row, schedule in enumerate(schedules):
        if schedule.roughness_diverges_at:
            raise ThalwegError(
                f"{schedule!r}: ∫η'² (R0, R1) is infinite, because the learning rate jumps or has infinite slope at step "
                f"{schedule.roughness_diverges_at[0]}. Write ramp= to spread the jump over some steps."
            )
        _warn_of_jumps(schedule)
        ends = (0, *schedule.phases, schedule.steps)
        for phase in range(4):
            start, end = ends[phase], ends[phase + 1]
            if start < end:
                area[row, phase] = schedule.integral(start, end)
                rough[row, phase] = schedule.roughness(start, end)
    return area, rough


def _warn_of_jumps(schedule: Schedule) -> None:
    """Say where one step of a table makes most of ∫η'²: a jump that a log cannot tell from a steep line."""
    for piece in schedule.pieces:
        if not isinstance(piece, Table) or piece.length < FEWEST_OF_A_TABLE:
            continue
        changes = np.diff(piece.values)
        largest = int(np.abs(changes).argmax())
        if abs(changes[largest]) > 0.1 * schedule.peak_lr and changes[largest] ** 2 > 0.5 * np.sum(changes**2):
            message = (
                f"{format_count(piece.length)} values: the learning rate jumps at step {largest + 1}, and that one step makes most of "
                "∫η'² (R0, R1): what Opt-Law says of this schedule rests on it. Spread the jump over some steps, as ramp= does."
            )
            warnings.warn(message, ThalwegWarning, stacklevel=4)


def _refuse_zero(integral: Floats, schedules: Sequence[Schedule], term: str, remedy: str) -> None:
    rows = np.flatnonzero(integral <= 0)
    if rows.size:
        raise ThalwegError(f"{schedules[rows[0]]!r}: {term} is 0, and Opt-Law divides by it. {remedy}.")
