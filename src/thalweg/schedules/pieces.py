"""What a schedule is made of: closed-form segments and tables of per-step values; and how ramps take their jumps away."""

from __future__ import annotations

import math
from collections.abc import Iterable
from dataclasses import dataclass
from typing import TypeAlias

import numpy as np

from thalweg.outcomes import bad_input
from thalweg.schedules.segments import Floats, Linear, Segment

__all__ = ["Piece", "Table", "ramped"]


@dataclass(frozen=True, slots=True, eq=False)
class Table:
    """Per-step learning rates from a log: η(u) = values[⌊u⌋], Δt = 1 step.

    `following` is the learning rate that comes after the last value (the last value itself at the end of a schedule).
    The slope over [k, k+1] is the difference to the next value, so partial intervals add up and a tabulated straight
    line has the roughness of the line.

    Example:
        >>> Table(np.array([0.0, 1.0, 3.0]), following=3.0).roughness(0, 3)
        5.0
    """

    values: Floats
    following: float

    @property
    def first(self) -> int:
        """Own time at which the table begins."""
        return 0

    @property
    def last(self) -> int:
        """Own time at which the table ends."""
        return len(self.values)

    @property
    def length(self) -> int:
        """Steps [count]."""
        return len(self.values)

    @property
    def first_lr(self) -> float:
        """The first value."""
        return float(self.values[0])

    @property
    def last_lr(self) -> float:
        """The value that follows: a table leads over to its neighbour within its last step."""
        return self.following

    @property
    def rough_start(self) -> bool:
        """A table is summed, not differentiated."""
        return False

    @property
    def rough_end(self) -> bool:
        """A table is summed, not differentiated."""
        return False

    def lr_at(self, u: float) -> float:
        """Learning rate at one own time."""
        return self.following if u >= self.length else float(self.values[int(u)])

    def lr(self, u: Floats) -> Floats:
        """Learning rates at own times u, an array of shape (n,)."""
        return self.values[np.minimum(u.astype(np.int64), self.length - 1)]

    def peak(self, u0: float, u1: float) -> float:
        """Largest value that is in force within [u0, u1]."""
        return float(self.values[min(int(u0), self.length - 1) : max(math.ceil(u1), 1)].max())

    def trimmed(self, front: int, back: int) -> Table:
        """The table without its first and last values."""
        stop = self.length - back
        return Table(self.values[front:stop], float(self.values[stop]) if back else self.following)

    def integral(self, u0: float, u1: float) -> float:
        """Σ values · Δt over [u0, u1], broken steps in proportion."""
        return _sum(self.values, u0, u1)

    def square_integral(self, u0: float, u1: float) -> float:
        """Σ values² · Δt over [u0, u1]."""
        return _sum(self.values**2, u0, u1)

    def roughness(self, u0: float, u1: float) -> float:
        """Σ(Δη)² over [u0, u1]."""
        return _sum(np.diff(self.values, append=self.following) ** 2, u0, u1)

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Table):
            return NotImplemented
        return self.following == other.following and np.array_equal(self.values, other.values)

    def __hash__(self) -> int:
        return hash((self.values.tobytes(), self.following))


Piece: TypeAlias = Segment | Table


def _sum(values: Floats, u0: float, u1: float) -> float:
    if u1 <= u0:
        return 0.0
    i, j = math.floor(u0), math.ceil(u1)
    inside = values[i:j]
    return float(inside.sum() - (u0 - i) * inside[0] - (j - u1) * inside[-1])


def ramped(pieces: Iterable[Piece], ramp: int) -> tuple[Piece, ...]:
    """Replace every jump and every infinite slope by a straight line over `ramp` steps [count]; nothing else moves.

    The line leads from the learning rate before the jump to the one `ramp` steps after it.

    Raises:
        ThalwegError: a piece is shorter than its ramps.

    Example:
        >>> from thalweg.schedules.segments import Constant
        >>> ramped((Constant(10, 1.0, 1.0), Constant(10, 3.0, 3.0)), 4)[1]
        Linear(steps=4, start_lr=1.0, end_lr=3.0, cut=(0, 0))
    """
    result: list[Piece] = []
    for piece in pieces:
        before = result[-1].last_lr if result else piece.first_lr
        front = ramp if piece.rough_start or before != piece.first_lr else 0
        back = ramp if piece.rough_end else 0
        if front + back > piece.length:
            raise bad_input(
                "ramp",
                ramp,
                f"at most the {piece.length // (2 if front and back else 1)} steps of the piece it leads into",
            )
        if front:
            result.append(Linear(front, before, piece.lr_at(piece.first + front)))
        if front + back < piece.length:
            result.append(piece.trimmed(front, back) if front or back else piece)
        if back:
            result.append(Linear(back, piece.lr_at(piece.last - back), piece.last_lr))
    return tuple(result)
