"""A space of schedules to search in: one shape whose options are fixed, free within a range, or one of some choices."""

from __future__ import annotations

import difflib
import inspect
import itertools
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.outcomes import ThalwegError, bad_input
from thalweg.schedules.axes import Axis, axis_of
from thalweg.schedules.factories import constant, cosine, four_phase, linear, wsd
from thalweg.schedules.schedule import Schedule

__all__ = ["Space"]

Floats: TypeAlias = NDArray[np.float64]

SHAPES: dict[str, Callable[..., Schedule]] = {
    factory.__name__: factory for factory in (constant, cosine, linear, wsd, four_phase)
}
DRAWS = 16  # points drawn for each schedule asked for, before a space counts as nearly empty


@dataclass(frozen=True, slots=True, init=False, repr=False)
class Space:
    """Schedules of one shape: each option of its factory is fixed, free within a range, or one of some choices.

    - a number or a text is fixed: `final_lr=0.0`;
    - a tuple of two numbers is a range: learning rates, lengths (`warmup`, `decay`) in equal ratios where the low end is above
      0, positions (`decay_until`, `cooldown_from`) evenly;
    - a list is some choices: `warmup=[500, 2000]`.

    Step counts are ints [steps], or floats in [0, 1), which are shares of the run. The run's length is not part of a space:
    it comes from the budget. A point of the space is a vector with a coordinate in [0, 1] for every free option, 0 at the
    low end of its range.

    Attributes:
        shape: name of the factory: constant, cosine, linear, wsd, four_phase.
        axes: its options in the order of the factory's signature.

    Raises:
        ThalwegError: an unknown shape or option, a missing one, a range whose ends are not in order, an empty list.

    Example:
        >>> space = Space("wsd", peak_lr=(1e-3, 1e-2), warmup=(0.01, 0.1), decay=[0.1, 0.2], final_lr=0.0)
        >>> space.free
        ('peak_lr', 'warmup', 'decay')
        >>> print(space.at([0.0, 1.0, 0.9], 10_000))
        wsd(0.001, 10000, warmup=1000, decay=0.2)
        >>> len(space.grid(3, 10_000)), len(space.sample(100, 10_000))
        (18, 100)
    """

    shape: str
    axes: tuple[Axis, ...]

    def __init__(self, shape: str, /, **options: Any) -> None:
        if shape not in SHAPES:
            near = difflib.get_close_matches(str(shape), SHAPES, n=1)
            raise bad_input("shape", shape, "one of " + ", ".join(SHAPES), f"Write {near[0]!r}" if near else "")
        parameters = inspect.signature(SHAPES[shape]).parameters
        if "steps" in options:
            raise bad_input(
                "steps", options["steps"], "no steps in a Space", "Leave it out: the budget has the run's length"
            )
        known = [name for name in parameters if name != "steps"]
        for name in options:
            if name not in known:
                raise bad_input(name, options[name], f"an option of {shape}: {', '.join(known)}")
        for name in known:
            if name not in options and parameters[name].default is inspect.Parameter.empty:
                example = f"Write for example {name}=({'1e-3, 1e-2' if name.endswith('_lr') else '0.1, 0.5'})"
                raise ThalwegError(f"{name}: missing, expected a number, a range or choices for {shape}. {example}.")
        object.__setattr__(self, "shape", shape)
        object.__setattr__(self, "axes", tuple(axis_of(name, options[name]) for name in known if name in options))

    @property
    def free(self) -> tuple[str, ...]:
        """Names of the options that are not fixed, in the order of a vector's coordinates."""
        return tuple(axis.name for axis in self.axes if axis.free)

    def at(self, vector: ArrayLike, steps: int) -> Schedule:
        """The schedule at a point.

        Learning rates are rounded to four digits, within their range: what a search finds is written into a config.

        Args:
            vector: a coordinate in [0, 1] for every free option, shape (free,).
            steps: length of the run [steps].

        Raises:
            ThalwegError: not such a vector; options that do not fit into the run or with each other.
        """
        point = np.asarray(vector, dtype=np.float64)
        if point.shape != (len(self.free),) or not np.all((point >= 0) & (point <= 1)):
            raise bad_input(
                "vector", vector, f"{len(self.free)} numbers in [0, 1], one for each of {', '.join(self.free)}"
            )
        coordinates = iter(point)
        values = {axis.name: axis.at(float(next(coordinates)) if axis.free else 0.0, steps) for axis in self.axes}
        return SHAPES[self.shape](steps=steps, **values)

    def grid(self, n: int, steps: int) -> tuple[Schedule, ...]:
        """Every combination of n points of each range, both ends included, and of all choices; impossible ones left out.

        Args:
            n: points of a range, at least 2.
            steps: length of the run [steps].

        Raises:
            ThalwegError: no combination is possible; the message is that of the first.
        """
        if not n >= 2:
            raise bad_input("n", n, "at least 2 points a range: its ends")
        vectors = itertools.product(*(axis.grid(n) for axis in self.axes if axis.free))
        return self._possible(vectors, steps)

    def sample(self, n: int, steps: int, *, seed: int = 0) -> tuple[Schedule, ...]:
        """n different schedules, evenly spread over the space; fewer where it does not hold as many.

        Args:
            n: schedules to draw.
            steps: length of the run [steps].
            seed: of the shift of the sequence of points.

        Raises:
            ThalwegError: none of the points drawn is possible; the message is that of the first.
        """
        if not n >= 1:
            raise bad_input("n", n, "at least 1 schedule")
        found: dict[Schedule, None] = {}
        for vectors in np.array_split(self.points(DRAWS * n, seed=seed), DRAWS):
            found |= dict.fromkeys(self._possible(vectors, steps, needed=False))
            if len(found) >= n:
                break
        return tuple(found)[:n] or self._possible(self.points(1, seed=seed), steps)

    def points(self, n: int, *, seed: int = 0) -> Floats:
        """n vectors that fill the unit cube evenly, shape (n, free).

        Source: the additive recurrence frac(shift + i·φ_d^−j), where φ_d solves x^(d+1) = x + 1 (Roberts 2018, "The
        unreasonable effectiveness of quasirandom sequences"), with a random shift.

        Example:
            >>> Space("linear", peak_lr=(1e-3, 1e-2)).points(4).round(2).ravel()
            array([0.64, 0.25, 0.87, 0.49])
        """
        d = len(self.free)
        root = 1.5
        for _ in range(60):  # the iteration is a contraction by more than 2 a turn
            root = (1 + root) ** (1 / (d + 1))
        shift = np.random.default_rng(seed).random(d)
        powers: Floats = (shift + np.arange(n)[:, None] * root ** -np.arange(1.0, d + 1)) % 1.0
        return powers

    def __repr__(self) -> str:
        """The call that makes it."""
        return f"Space({', '.join([repr(self.shape), *map(str, self.axes)])})"

    def _possible(
        self, vectors: Iterable[Sequence[float] | Floats], steps: int, *, needed: bool = True
    ) -> tuple[Schedule, ...]:
        found: dict[Schedule, None] = {}
        reason: ThalwegError | None = None
        for vector in vectors:
            try:
                found[self.at(vector, steps)] = None
            except ThalwegError as error:
                reason = reason or error
        if needed and not found and reason is not None:
            raise reason
        return tuple(found)
