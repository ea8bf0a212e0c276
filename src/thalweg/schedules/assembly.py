"""From pieces to a schedule: what every factory does last."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, TypeAlias

from thalweg.outcomes import bad_input
from thalweg.schedules.phases import find_phases
from thalweg.schedules.pieces import Piece, ramped
from thalweg.schedules.schedule import Call, Phases, Schedule
from thalweg.schedules.segments import SHAPES, Segment

__all__ = ["PhaseSteps", "assemble", "record", "segment"]

PhaseSteps: TypeAlias = tuple[int, int, int]


def assemble(pieces: Sequence[Piece], phases: PhaseSteps | None, call: Call, *, ramp: int = 0) -> Schedule:
    """A schedule of the pieces that are not empty; phases are found where none are given."""
    kept = tuple(piece for piece in pieces if piece.length)
    if ramp:
        kept = ramped(kept, ramp)
    if phases is None:
        phases = find_phases(Schedule(kept, Phases(0, 0, 0), call).values())
    return Schedule(kept, Phases(*phases), call)


def record(factory: Callable[..., Schedule], *arguments: Any, **options: Any) -> Call:
    """The call of a factory with checked values; options that stand at their default are left out."""
    defaults = factory.__kwdefaults__ or {}
    return Call(
        factory.__name__, arguments, {k: v for k, v in options.items() if k not in defaults or v != defaults[k]}
    )


def segment(shape: str, steps: int, start_lr: float, end_lr: float, *, end_name: str = "final_lr") -> Segment:
    """A segment by the name of its shape; `end_name` is what the user calls its end.

    Raises:
        ThalwegError: an exponential from or to 0.
    """
    if shape == "exponential" and not (start_lr > 0 and end_lr > 0):
        name, given = (end_name, end_lr) if end_lr == 0 else ("start_lr", start_lr)
        example = f"Write for example {(start_lr or end_lr or 1e-3) / 10!r}"
        raise bad_input(name, given, "a learning rate above 0 for an exponential decay", example)
    return SHAPES[shape](steps, start_lr, end_lr)
