"""The sixteen features of the generalized Opt-Law: integrals of a schedule over its phases, and their powers."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Literal, NamedTuple

import numpy as np
from numpy.typing import NDArray

from thalweg.outcomes import ThalwegError, bad_input
from thalweg.schedules import Budget, Schedule

__all__ = ["FEATURES", "LR_UNIT", "READINGS", "TOKEN_UNIT", "Phases", "Reading", "check_phases", "feature_matrix"]

Floats = NDArray[np.float64]
Phases = Literal["hybrid", "tables", "section_4_3"]

LR_UNIT = 0.015  # paper, A.2: learning rates are divided by 1.5e-2,
TOKEN_UNIT = 1e9  # parameters are counted in billions, steps in billions of tokens

FEATURES = (
    "I0^-1", "I1^-1", "(N/I1)^.25", "(I0 I1)^-.23",
    "R1", "R0^.25", "R1^.25", "(S N)^-.25",
    "(R1/I0)^.2", "(R1/I1)^.15", "(N R1/I0)^.15", "(N R1/I1)^.15",
    "N^-.25", "S^-.25", "h^.2", "1",
)  # fmt: skip


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


def feature_matrix(
    schedules: Sequence[Schedule],
    budgets: Sequence[Budget],
    phases: Phases,
    *,
    after: Sequence[tuple[Schedule, Budget]] = (),
) -> Floats:
    """The features of each run, shape (runs, 16), in the order of `FEATURES`.

    With I0 = ∫₀^{ac1} η, I1 = ∫_{ac2}^S η, R0 = ∫₀^{ae1} η'², R1 = ∫_{ae2}^S η'², h = the highest learning rate in [a2, S],
    N = total parameters/1e9, steps counted in 1e9 tokens, learning rates divided by .015 (Xie et al. 2024, Eq. 7 with the
    escape terms it forgets to list, Tables 5 and 6, A.2). After earlier training (§6.3) its ∫η is added to I0, and R1 is
    divided by h⁴.

    Raises:
        ThalwegError: unknown phases; ∫η over the warmup or the cooldown is zero; the learning rate jumps, so that ∫η'² is
            infinite.

    Example:
        >>> from thalweg.schedules import linear
        >>> budget = Budget(params=1e9, tokens=20e9, batch_tokens=1e6)
        >>> feature_matrix([linear(0.015, 20000, warmup=4000)], [budget], "tables")[0, :2]  # I0 = 4/2, I1 = 16/2
        array([0.5  , 0.125])
    """
    check_phases(phases)
    reading = READINGS[phases]
    N = np.array([budget.params for budget in budgets]) / TOKEN_UNIT
    step = np.array([budget.batch_tokens for budget in budgets]) / TOKEN_UNIT
    S = np.array([schedule.steps for schedule in schedules]) * step
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
    columns = [
        1 / I0, 1 / I1, (N / I1) ** 0.25, (I0 * I1) ** -0.23,
        R1, R0**0.25, R1**0.25, (S * N) ** -0.25,
        (Q / J0) ** 0.2, (Q / J1) ** 0.15, (N * Q / J0) ** 0.15, (N * Q / J1) ** 0.15,
        N**-0.25, S**-0.25, h**0.2, np.ones_like(N),
    ]  # fmt: skip
    return np.stack(columns, axis=1)


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
        ends = (0, *schedule.phases, schedule.steps)
        for phase in range(4):
            start, end = ends[phase], ends[phase + 1]
            if start < end:
                area[row, phase] = schedule.integral(start, end)
                rough[row, phase] = schedule.roughness(start, end)
    return area, rough


def _refuse_zero(integral: Floats, schedules: Sequence[Schedule], term: str, remedy: str) -> None:
    rows = np.flatnonzero(integral <= 0)
    if rows.size:
        raise ThalwegError(f"{schedules[rows[0]]!r}: {term} is 0, and Opt-Law divides by it. {remedy}.")
