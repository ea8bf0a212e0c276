"""Schedules from data: per-step values of a log, or rows of segments."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeAlias

import numpy as np
from numpy.typing import ArrayLike

from thalweg.outcomes import bad_input
from thalweg.schedules.arguments import as_lr, as_positive, as_steps
from thalweg.schedules.assembly import PhaseSteps, assemble, record, segment
from thalweg.schedules.pieces import Table
from thalweg.schedules.schedule import Phases, Schedule
from thalweg.schedules.segments import SHAPES, Polynomial, Segment

__all__ = ["from_segments", "from_values"]

SegmentRow: TypeAlias = tuple[str, int, float, float] | tuple[str, int, float, float, float]


def from_values(lrs: ArrayLike, *, phases: PhaseSteps | None = None) -> Schedule:
    """A schedule from the learning rate of every update, as a log has it: s(t) = lrs[⌊t⌋].

    Integrals are sums with Δt = 1 step; the roughness of the run is Σ(Δη)² over its n − 1 differences.

    Args:
        lrs: learning rates [1], shape (steps,).
        phases: warmup end, decay end, cooldown start [steps]; found automatically, also in noisy logs, unless given.

    Raises:
        ThalwegError: no values, another shape, a value that is negative or not finite, phases out of order.

    Example:
        >>> s = from_values([0.0, 1.0, 1.0, 0.5])
        >>> s(1.9), s.integral(0, 4), s.roughness(0, 4), s.steps
        (1.0, 2.5, 1.25, 4)
    """
    try:
        values = np.array(lrs, dtype=np.float64) + 0.0
    except (TypeError, ValueError):
        raise bad_input("lrs", lrs, "an array of learning rates, one a step") from None
    if values.ndim != 1 or values.size == 0:
        raise bad_input("lrs", lrs, f"a non-empty array of shape (steps,), not {values.shape}")
    wrong = np.flatnonzero(~(np.isfinite(values) & (values >= 0)))
    if wrong.size:
        raise bad_input(f"lrs[{wrong[0]}]", float(values[wrong[0]]), "a finite learning rate of at least 0")
    values.flags.writeable = False
    given = _given_phases(phases, len(values))
    return assemble(
        [Table(values, float(values[-1]))], given, record(from_values, values, phases=given and tuple(given))
    )


def from_segments(segments: Sequence[SegmentRow], *, phases: PhaseSteps | None = None, ramp: int = 0) -> Schedule:
    """A schedule piece by piece: rows (shape, steps, start_lr, end_lr), a polynomial with its power as fifth entry.

    Args:
        segments: shapes are constant, linear, cosine, sqrt (1−sqrt), exponential and polynomial.
        phases: warmup end, decay end, cooldown start [steps]; found automatically unless given.
        ramp: steps [count] over which straight lines replace jumps and infinite slopes, so that the roughness is finite.

    Raises:
        ThalwegError: no rows, a row of another form, a number out of range, phases out of order.

    Example:
        >>> s = from_segments([("linear", 2, 0.0, 1.0), ("polynomial", 4, 1.0, 0.0, 2.0)])
        >>> s(2), s(4), s.phases.warmup_end
        (1.0, 0.25, 2)
    """
    rows = list(segments) if isinstance(segments, list | tuple) else []
    if not rows:
        raise bad_input(
            "segments", segments, "a non-empty list of rows", "Write for example [('linear', 500, 0.0, 0.003)]"
        )
    parts = [_row(f"segments[{i}]", row) for i, row in enumerate(rows)]
    ramp = as_steps("ramp", ramp, least=0)
    given = _given_phases(phases, sum(part.steps for part in parts))
    call = record(from_segments, [_as_row(part) for part in parts], phases=given and tuple(given), ramp=ramp)
    return assemble(parts, given, call, ramp=ramp)


def _row(name: str, row: object) -> Segment:
    if not isinstance(row, tuple | list) or not row or row[0] not in SHAPES:
        raise bad_input(name, row, f"a row (shape, steps, start_lr, end_lr) with a shape of {', '.join(SHAPES)}")
    shape, *numbers = row
    if len(numbers) != (4 if shape == "polynomial" else 3):
        raise bad_input(name, row, "(shape, steps, start_lr, end_lr), and a power if and only if it is a polynomial")
    steps = as_steps(f"{name} steps", numbers[0])
    start_lr, end_lr = as_lr(f"{name} start_lr", numbers[1]), as_lr(f"{name} end_lr", numbers[2])
    if shape == "constant" and start_lr != end_lr:
        raise bad_input(name, row, "one learning rate at both ends of a constant", "Write 'linear' for a line")
    if shape == "polynomial":
        return Polynomial(steps, start_lr, end_lr, power=as_positive(f"{name} power", numbers[3]))
    return segment(shape, steps, start_lr, end_lr, end_name=f"{name} end_lr")


def _as_row(part: Segment) -> SegmentRow:
    if isinstance(part, Polynomial):
        return "polynomial", part.steps, part.start_lr, part.end_lr, part.power
    shape = next(name for name, cls in SHAPES.items() if cls is type(part))
    return shape, part.steps, part.start_lr, part.end_lr


def _given_phases(phases: object, steps: int) -> Phases | None:
    if phases is None:
        return None
    if not isinstance(phases, tuple | list) or len(phases) != 3:
        raise bad_input("phases", phases, "three steps: warmup end, decay end, cooldown start")
    a1 = as_steps("phases[0]", phases[0], least=0, most=steps, limit="the run")
    a2 = as_steps("phases[1]", phases[1], least=a1, most=steps, limit="the run")
    return Phases(a1, a2, as_steps("phases[2]", phases[2], least=a2, most=steps, limit="the run"))
