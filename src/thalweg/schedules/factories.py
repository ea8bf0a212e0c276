"""The schedules people train with. Every factory checks its numbers and remembers its call, which is the text form."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import replace
from itertools import pairwise
from typing import Literal, TypeAlias

import numpy as np

from thalweg.outcomes import bad_input
from thalweg.schedules.arguments import as_lr, as_peak, as_steps
from thalweg.schedules.assembly import assemble, record, segment
from thalweg.schedules.pieces import Piece, Table
from thalweg.schedules.schedule import Schedule
from thalweg.schedules.segments import Constant, Linear

__all__ = ["constant", "cosine", "cyclic", "four_phase", "linear", "rewarmed", "wsd"]

DecayShape: TypeAlias = Literal["linear", "cosine", "sqrt", "exponential"]
DECAYS: tuple[DecayShape, ...] = ("linear", "cosine", "sqrt", "exponential")


def constant(peak_lr: float, steps: int, *, warmup: int = 0) -> Schedule:
    """A linear warmup from 0, then the same learning rate to the end. Phases a1 = a2 = warmup, a3 = steps.

    Args:
        peak_lr: learning rate after the warmup [1].
        steps: optimizer steps of the run, the warmup included [count].
        warmup: steps of the warmup [count].

    Raises:
        ThalwegError: a learning rate that is not above 0, steps that are not whole, a warmup as long as the run.

    Example:
        >>> constant(1.0, 5, warmup=2).values()
        array([0. , 0.5, 1. , 1. , 1. ])
    """
    peak_lr, steps, warmup = _basics(peak_lr, steps, warmup)
    pieces = [*_warmup(peak_lr, warmup), Constant(steps - warmup, peak_lr, peak_lr)]
    return assemble(pieces, (warmup, warmup, steps), record(constant, peak_lr, steps, warmup=warmup))


def linear(peak_lr: float, steps: int, *, warmup: int = 0, final_lr: float = 0.0) -> Schedule:
    """A linear warmup from 0, then a straight line to `final_lr` at the end. Phases a1 = a2 = a3 = warmup.

    Args:
        peak_lr: learning rate after the warmup [1].
        steps: optimizer steps of the run, the warmup included [count].
        warmup: steps of the warmup [count].
        final_lr: learning rate that is approached at the end [1].

    Raises:
        ThalwegError: a learning rate out of range, steps that are not whole, a warmup as long as the run.

    Example:
        >>> linear(1.0, 6, warmup=2).values()
        array([0.  , 0.5 , 1.  , 0.75, 0.5 , 0.25])
    """
    return _decayed(linear, "linear", peak_lr, steps, warmup, final_lr)


def cosine(peak_lr: float, steps: int, *, warmup: int = 0, final_lr: float = 0.0) -> Schedule:
    """A linear warmup from 0, then half a cosine to `final_lr` at the end. Phases a1 = a2 = a3 = warmup.

    Args:
        peak_lr: learning rate after the warmup [1].
        steps: optimizer steps of the run, the warmup included [count].
        warmup: steps of the warmup [count].
        final_lr: learning rate that is approached at the end [1].

    Raises:
        ThalwegError: a learning rate out of range, steps that are not whole, a warmup as long as the run.

    Example:
        >>> s = cosine(2.0, 100, warmup=20)
        >>> s.peak_lr, s(60), s.integral(0, 20)
        (2.0, 1.0, 20.0)
    """
    return _decayed(cosine, "cosine", peak_lr, steps, warmup, final_lr)


def wsd(
    peak_lr: float,
    steps: int,
    *,
    warmup: int = 0,
    decay: float = 0.15,
    shape: DecayShape = "linear",
    final_lr: float = 0.0,
    ramp: int = 0,
) -> Schedule:
    """Warmup, stable, decay: a linear warmup from 0, a constant, a last fall to `final_lr`. Phases a1 = a2 = warmup, a3 = decay start.

    Args:
        peak_lr: learning rate of the stable phase [1].
        steps: optimizer steps of the run, all phases included [count].
        warmup: steps of the warmup [count].
        decay: a float in (0, 1) is a share of `steps` (rounded to whole steps), an int from 1 is steps [count].
        shape: of the decay; "sqrt" is 1−sqrt, "exponential" needs a `final_lr` above 0.
        final_lr: learning rate that is approached at the end [1].
        ramp: steps [count] over which a straight line replaces the infinite slope at the start of a 1−sqrt decay, so
            that its roughness is finite.

    Raises:
        ThalwegError: a number out of range, an unknown shape, warmup and decay together longer than the run.

    Example:
        >>> wsd(1.0, 10, warmup=2, decay=0.4).values()
        array([0.  , 0.5 , 1.  , 1.  , 1.  , 1.  , 1.  , 0.75, 0.5 , 0.25])
        >>> wsd(1.0, 10, warmup=2, decay=0.4) == wsd(1.0, 10, warmup=2, decay=4)
        True
    """
    peak_lr, steps, warmup = _basics(peak_lr, steps, warmup)
    decay, length = _decay_steps(decay, steps, warmup)
    final_lr, ramp = as_lr("final_lr", final_lr), as_steps("ramp", ramp, least=0)
    if shape not in DECAYS:
        raise bad_input("shape", shape, "one of " + ", ".join(DECAYS))
    start = steps - length
    pieces = [
        *_warmup(peak_lr, warmup),
        Constant(start - warmup, peak_lr, peak_lr),
        segment(shape, length, peak_lr, final_lr),
    ]
    call = record(wsd, peak_lr, steps, warmup=warmup, decay=decay, shape=str(shape), final_lr=final_lr, ramp=ramp)
    return assemble(pieces, (warmup, warmup, start), call, ramp=ramp)


def four_phase(
    peak_lr: float,
    plateau_lr: float,
    steps: int,
    *,
    warmup: int,
    decay_until: int,
    cooldown_from: int,
    final_lr: float = 0.0,
) -> Schedule:
    """Warmup from 0 to the peak, decay to a plateau, plateau, cooldown: four straight lines. Phases as given.

    Source: OL Fig. 4. `cooldown_from=steps` leaves the cooldown out.

    Args:
        peak_lr: learning rate after the warmup, η1 [1].
        plateau_lr: learning rate of the plateau, η2 [1].
        steps: optimizer steps of the run, all phases included [count].
        warmup: where the warmup ends, a1 [steps].
        decay_until: where the decay ends, a2 [steps].
        cooldown_from: where the cooldown starts, a3 [steps].
        final_lr: learning rate that is approached at the end [1].

    Raises:
        ThalwegError: a number out of range, phases that are not in order, no steps for the way from peak to plateau.

    Example:
        >>> four_phase(1.0, 0.5, 8, warmup=2, decay_until=4, cooldown_from=6).values()
        array([0.  , 0.5 , 1.  , 0.75, 0.5 , 0.5 , 0.5 , 0.25])
    """
    peak_lr, steps, warmup = _basics(peak_lr, steps, warmup)
    plateau_lr, final_lr = as_peak("plateau_lr", plateau_lr), as_lr("final_lr", final_lr)
    cooldown_from = as_steps("cooldown_from", cooldown_from, least=warmup, most=steps, limit="the run")
    decay_until = as_steps("decay_until", decay_until, least=warmup, most=cooldown_from, limit="cooldown_from")
    if decay_until == warmup and plateau_lr != peak_lr:
        instead = f"Write decay_until={warmup + 1} or more, or plateau_lr={peak_lr!r}"
        raise bad_input(
            "decay_until", decay_until, f"steps after warmup={warmup} for the way from peak_lr to plateau_lr", instead
        )
    pieces = [
        *_warmup(peak_lr, warmup),
        Linear(decay_until - warmup, peak_lr, plateau_lr),
        Constant(cooldown_from - decay_until, plateau_lr, plateau_lr),
        Linear(steps - cooldown_from, plateau_lr, final_lr),
    ]
    options = {"warmup": warmup, "decay_until": decay_until, "cooldown_from": cooldown_from, "final_lr": final_lr}
    return assemble(
        pieces, (warmup, decay_until, cooldown_from), record(four_phase, peak_lr, plateau_lr, steps, **options)
    )


def cyclic(
    peak_lr: float,
    steps: int,
    *,
    cycles: int = 2,
    warmup: int = 0,
    shape: DecayShape = "cosine",
    final_lr: float = 0.0,
    ramp: int = 0,
) -> Schedule:
    """A linear warmup from 0, then equal decays from the peak to `final_lr`, each restarting at the peak. Phases are found.

    Source: Loshchilov and Hutter 2017, "SGDR: Stochastic gradient descent with warm restarts".

    Args:
        peak_lr: learning rate at which every cycle starts [1].
        steps: optimizer steps of the run, the warmup included [count].
        cycles: number of decays; restarts fall on whole steps [count].
        warmup: steps of the warmup [count].
        shape: of the decays.
        final_lr: learning rate that is approached at the end of each cycle [1].
        ramp: steps [count] over which each restart rises in a straight line; 0 jumps, which has no finite roughness.

    Raises:
        ThalwegError: a number out of range, an unknown shape, cycles of less than one step.

    Example:
        >>> cyclic(1.0, 8, cycles=2, shape="linear").values()
        array([1.  , 0.75, 0.5 , 0.25, 1.  , 0.75, 0.5 , 0.25])
    """
    peak_lr, steps, warmup = _basics(peak_lr, steps, warmup)
    cycles = as_steps("cycles", cycles, most=steps - warmup, limit="one a step")
    final_lr, ramp = as_lr("final_lr", final_lr), as_steps("ramp", ramp, least=0)
    if shape not in DECAYS:
        raise bad_input("shape", shape, "one of " + ", ".join(DECAYS))
    bounds = [warmup + (i * (steps - warmup) + cycles // 2) // cycles for i in range(cycles + 1)]
    pieces = _warmup(peak_lr, warmup)
    pieces += [segment(shape, end - begin, peak_lr, final_lr) for begin, end in pairwise(bounds)]
    call = record(cyclic, peak_lr, steps, cycles=cycles, warmup=warmup, shape=str(shape), final_lr=final_lr, ramp=ramp)
    return assemble(pieces, None, call, ramp=ramp)


def rewarmed(previous: Schedule, next: Schedule, *, ramp: int = 0) -> Schedule:
    """A schedule after a previous one, as one run of both: continual training. Phases are found.

    Args:
        previous: what the checkpoint was trained with.
        next: what it is trained with from there on, usually with a warmup of its own.
        ramp: steps [count] over which a straight line leads from the last learning rate of `previous` into `next`,
            and over any other jump; with `ramp` = the warmup of `next` the rewarming starts at the rate that was reached.

    Raises:
        ThalwegError: something that is not a schedule, a ramp longer than the first piece of `next`.

    Example:
        >>> rewarmed(linear(1.0, 2), constant(1.0, 3, warmup=2)).values()
        array([1. , 0.5, 0. , 0.5, 1. ])
    """
    for name, given in (("previous", previous), ("next", next)):
        if not isinstance(given, Schedule):
            raise bad_input(name, given, "a Schedule", "Write thalweg.schedules.parse(text) for a text form")
    ramp = as_steps("ramp", ramp, least=0)
    pieces = [*previous.pieces, *next.pieces]
    last = previous.pieces[-1]
    if isinstance(last, Table):
        pieces[len(previous.pieces) - 1] = replace(last, following=next.pieces[0].first_lr)
    return assemble(pieces, None, record(rewarmed, previous, next, ramp=ramp), ramp=ramp)


def _basics(peak_lr: object, steps: object, warmup: object) -> tuple[float, int, int]:
    peak, count = as_peak("peak_lr", peak_lr), as_steps("steps", steps)
    return (
        peak,
        count,
        as_steps("warmup", warmup, least=0, most=count - 1, limit=f"shorter than the run of {count} steps"),
    )


def _decay_steps(decay: object, steps: int, warmup: int) -> tuple[float, int]:
    """The decay as given, a share or steps, and its length in steps."""
    room = steps - warmup
    if not isinstance(decay, float | np.floating):
        given = as_steps("decay", decay, most=room, limit="what the warmup leaves; a share is a float in (0, 1)")
        return given, given
    share = float(decay)
    if not 0 < share < 1:
        instead = f"Write decay={share:.0f} for steps" if share >= 1 and share.is_integer() else ""
        raise bad_input("decay", decay, "a share in (0, 1), or an int of steps", instead)
    length = round(share * steps)
    if not 1 <= length <= room:
        raise bad_input(
            "decay", decay, f"a share of the {steps} steps that makes 1 to {room} steps (it makes {length})"
        )
    return share, length


def _warmup(peak_lr: float, warmup: int) -> list[Piece]:
    return [Linear(warmup, 0.0, peak_lr)] if warmup else []


def _decayed(
    factory: Callable[..., Schedule], shape: str, peak_lr: float, steps: int, warmup: int, final_lr: float
) -> Schedule:
    peak_lr, steps, warmup = _basics(peak_lr, steps, warmup)
    final_lr = as_lr("final_lr", final_lr)
    pieces = [*_warmup(peak_lr, warmup), segment(shape, steps - warmup, peak_lr, final_lr)]
    return assemble(pieces, (warmup, warmup, warmup), record(factory, peak_lr, steps, warmup=warmup, final_lr=final_lr))
