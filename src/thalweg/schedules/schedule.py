"""A learning rate as a function of the step: a callable with exact integrals, phases and a text form."""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING, Any, NamedTuple, TypeAlias, overload

import numpy as np
from numpy.typing import NDArray

from thalweg.figures import Figure, Line, Threshold
from thalweg.outcomes import ThalwegWarning, bad_input
from thalweg.schedules.pieces import Piece, Table

if TYPE_CHECKING:
    from torch.optim import Optimizer
    from torch.optim.lr_scheduler import LambdaLR

__all__ = ["Phases", "Schedule"]

Floats: TypeAlias = NDArray[np.float64]


class Phases(NamedTuple):
    """Where a run changes its pace, in steps: warmup ends (a1), decay ends (a2), cooldown starts (a3); OL Fig. 4.

    Example:
        >>> a1, a2, a3 = Phases(500, 500, 9000)
        >>> a3
        9000
    """

    warmup_end: int
    decay_end: int
    cooldown_start: int


class Call(NamedTuple):
    """The factory call that makes a schedule: its text form before it is written."""

    factory: str
    arguments: tuple[Any, ...]
    options: Mapping[str, Any]


@dataclass(frozen=True, slots=True, repr=False)
class Schedule:
    """A learning rate [1] as a function of the real-valued step t ∈ [0, steps]; made by the factories, never by hand.

    Update k (0-based) trains with s(k), so a warmup from 0 makes update 0 a no-op, as in Hugging Face. After the end
    the last learning rate is held. Where the rate jumps, s(t) is the value after the jump.

    Attributes:
        pieces: segments or tables, one after the other.
        phases: warmup end, decay end, cooldown start [steps].

    Example:
        >>> from thalweg.schedules import cosine
        >>> s = cosine(0.003, 10000, warmup=500)
        >>> s(0), s(250), s(500), s(10000)
        (0.0, 0.0015, 0.003, 0.0)
        >>> s.integral(0, 500)
        0.75
        >>> print(s)
        cosine(0.003, 10000, warmup=500)
    """

    pieces: tuple[Piece, ...]
    phases: Phases
    _call: Call = field(compare=False)
    _starts: tuple[int, ...] = field(init=False, compare=False)

    def __post_init__(self) -> None:
        starts = [0]
        for piece in self.pieces:
            starts.append(starts[-1] + piece.length)
        object.__setattr__(self, "_starts", tuple(starts))

    @property
    def steps(self) -> int:
        """Optimizer steps of the run [count]."""
        return self._starts[-1]

    @property
    def peak_lr(self) -> float:
        """Largest learning rate of the run [1]."""
        return self._peak(0)

    @property
    def final_peak_lr(self) -> float:
        """Largest learning rate [1] from the end of the decay phase on: max over [a2, steps]."""
        return self._peak(self.phases.decay_end)

    @property
    def roughness_diverges_at(self) -> tuple[int, ...]:
        """Steps at which ∫(η')² diverges: jumps, and the infinite slope of a 1−sqrt decay. `ramp=` takes them away.

        Example:
            >>> from thalweg.schedules import wsd
            >>> wsd(0.003, 1000, decay=200, shape="sqrt").roughness_diverges_at
            (800,)
            >>> wsd(0.003, 1000, decay=200, shape="sqrt", ramp=5).roughness_diverges_at
            ()
        """
        return tuple(sorted({step for step, _ in self._breaks()}))

    @overload
    def __call__(self, step: float) -> float: ...
    @overload
    def __call__(self, step: NDArray[Any]) -> Floats: ...
    def __call__(self, step: float | NDArray[Any]) -> float | Floats:
        """Learning rate [1] at a real-valued step, or at an array of steps of any shape.

        Raises:
            ThalwegError: a negative step, or NaN.
        """
        asked = np.asarray(step, dtype=np.float64)
        t = np.minimum(asked.ravel(), self.steps)
        if not np.all(t >= 0):
            raise bad_input("step", step, f"steps between 0 and {self.steps}")
        which = np.searchsorted(self._starts[1:-1], t, side="right")
        lrs = np.empty_like(t)
        for i in np.unique(which):
            here, piece = which == i, self.pieces[i]
            lrs[here] = piece.lr(t[here] - (self._starts[i] - piece.first))
        return float(lrs[0]) if asked.ndim == 0 else lrs.reshape(asked.shape)

    def values(self) -> Floats:
        """The learning rate of every update, shape (steps,): values()[k] = s(k).

        Example:
            >>> from thalweg.schedules import linear
            >>> linear(1.0, 4).values()
            array([1.  , 0.75, 0.5 , 0.25])
        """
        return self(np.arange(self.steps))

    def integral(self, a: float, b: float) -> float:
        """∫η dt over [a, b] [steps], exact: closed forms, sums where the schedule is a table.

        Raises:
            ThalwegError: not 0 ≤ a ≤ b ≤ steps.

        Example:
            >>> from thalweg.schedules import cosine
            >>> cosine(1.0, 100, warmup=20).integral(20, 100)  # (S − a)h/2
            40.0
        """
        return math.fsum(piece.integral(u0, u1) for piece, u0, u1 in self._within(a, b))

    def square_integral(self, a: float, b: float) -> float:
        """∫η² dt over [a, b] [steps], exact.

        Raises:
            ThalwegError: not 0 ≤ a ≤ b ≤ steps.

        Example:
            >>> from thalweg.schedules import linear
            >>> linear(1.0, 300).square_integral(0, 300)  # Sh²/3
            100.0
        """
        return math.fsum(piece.square_integral(u0, u1) for piece, u0, u1 in self._within(a, b))

    def roughness(self, a: float, b: float) -> float:
        """∫(dη/dt)² dt over [a, b] [1/steps], exact; Σ(Δη)² where the schedule is a table.

        Where the integral diverges within [a, b] (see `roughness_diverges_at`), the answer is the discrete sum
        Σ(s(k+1) − s(k))² over whole steps, with a warning that names the step.

        Raises:
            ThalwegError: not 0 ≤ a ≤ b ≤ steps.

        Example:
            >>> from thalweg.schedules import linear
            >>> linear(1.0, 100, warmup=20).roughness(20, 100)  # h²/(S − a)
            0.0125
        """
        parts = self._within(a, b)
        # a jump at t happened on the way to t, an infinite slope may also lie ahead of t
        diverges = [step for step, ahead in self._breaks() if (a <= step < b if ahead else a < step <= b)]
        if not diverges:
            return math.fsum(piece.roughness(u0, u1) for piece, u0, u1 in parts)
        warnings.warn(
            f"roughness: the learning rate jumps or has infinite slope at step {', '.join(map(str, diverges))}, where the "
            "integral of its squared slope diverges; this is the discrete sum over whole steps (ramp= makes it finite).",
            ThalwegWarning,
            stacklevel=2,
        )
        return Table(self.values(), self.pieces[-1].last_lr).roughness(a, b)

    def figure(self) -> Figure:
        """Learning rate against step, with the phases marked: a figure as plain data.

        Example:
            >>> from thalweg.schedules import linear
            >>> linear(1.0, 100, warmup=20).figure().extent("y")
            (0.0, 1.0)
        """
        t = np.union1d(np.linspace(0, self.steps, 1001), self._starts)
        if len(self.pieces) == 1 and isinstance(self.pieces[0], Table):
            t = np.arange(self.steps)
        a1, _, a3 = self.phases
        phases = [Threshold(a1, "warmup ends", axis="x")] if 0 < a1 < self.steps else []
        phases += [Threshold(a3, "cooldown", axis="x")] if a1 < a3 < self.steps else []
        name = repr(self) if len(repr(self)) <= 60 else f"{self._call.factory}, {self.steps} steps"
        return Figure(
            name, marks=(Line(t, self(t.astype(np.float64))), *phases), x_label="step", y_label="lr", name="schedule"
        )

    def to_torch(self, optimizer: Optimizer) -> LambdaLR:
        """A `LambdaLR` that plays this schedule on an optimizer, bit for bit; step it once after each update.

        The first parameter group trains with exactly s(k); the others keep the ratio of their learning rate to the
        first group's (`initial_lr` where an earlier scheduler left it). The ratios become the groups' `initial_lr`.

        Raises:
            ThalwegError: the first group's learning rate is 0, so that there is no ratio to it.
        """
        from torch.optim.lr_scheduler import LambdaLR

        lrs = [float(group.get("initial_lr", group["lr"])) for group in optimizer.param_groups]
        if lrs[0] == 0:
            raise bad_input(
                "optimizer", lrs[0], "a first group with a learning rate above 0", "Create the optimizer with lr=1.0"
            )
        for group, lr in zip(optimizer.param_groups, lrs, strict=True):
            ratio = lr / lrs[0]
            if isinstance(group["lr"], float | int):
                group["lr"] = ratio
            else:
                group["lr"].fill_(ratio)  # a tensor that compiled steps hold on to
            group["initial_lr"] = ratio
        # a function, not this object: LambdaLR.state_dict would look for the object's __dict__
        return LambdaLR(optimizer, lambda step: self(step))

    def __str__(self) -> str:
        """The text form: a factory call that `parse` reads back to an equal schedule."""
        return self._written(most=None)

    def __repr__(self) -> str:
        """The text form; long tables are abbreviated."""
        return self._written(most=8)

    def _written(self, most: int | None) -> str:
        name, arguments, options = self._call
        parts = [_literal(value, most) for value in arguments]
        parts += [f"{key}={_literal(value, most)}" for key, value in options.items()]
        return f"{name}({', '.join(parts)})"

    def _within(self, a: float, b: float) -> list[tuple[Piece, float, float]]:
        if not 0 <= a <= b <= self.steps:
            raise bad_input("interval", (a, b), f"0 ≤ a ≤ b ≤ {self.steps}, steps of this schedule")
        parts = []
        for piece, start in zip(self.pieces, self._starts, strict=False):
            t0, t1 = max(a, start), min(b, start + piece.length)
            if t0 < t1:
                parts.append((piece, t0 - start + piece.first, t1 - start + piece.first))
        return parts

    def _breaks(self) -> list[tuple[int, bool]]:
        """Steps where ∫(η')² diverges, and whether the divergence lies ahead of the step."""
        breaks = []
        for i, piece in enumerate(self.pieces):
            if i and self.pieces[i - 1].last_lr != piece.first_lr:
                breaks.append((self._starts[i], False))
            if piece.rough_start:
                breaks.append((self._starts[i], True))
            if piece.rough_end:
                breaks.append((self._starts[i + 1], False))
        return breaks

    def _peak(self, a: float) -> float:
        parts = self._within(a, self.steps)
        return max((piece.peak(u0, u1) for piece, u0, u1 in parts), default=self.pieces[-1].last_lr)


def _literal(value: object, most: int | None) -> str:
    if isinstance(value, Schedule):
        return value._written(most)
    if isinstance(value, np.ndarray):
        shown = [repr(float(item)) for item in value[:most]]
        return f"[{', '.join(shown)}{'' if len(shown) == len(value) else f', … {len(value)} values'}]"
    return repr(value)
