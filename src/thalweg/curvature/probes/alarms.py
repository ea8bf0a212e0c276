"""What margins have to show before anything is done: a level with hysteresis, and evidence that adds up."""

from __future__ import annotations

import math
from collections import deque

from thalweg.outcomes import bad_input

__all__ = ["Alarm", "Evidence", "Typical"]

LEVEL = 0.9  # margins under it are evidence: healthy runs at the edge of stability scatter around 1
ENOUGH = 0.75  # evidence, in nats
ONCE = 0.6  # of it at most from one measurement: no batch alone is believed
FADE = 0.2  # of it at most is lost by one measurement: where every second step is too long, too
MOST = 2.0  # of it is kept: ten good measurements undo any
RECENT = 20  # measurements in which a learning rate is coming back
RECOVERED = 2.0  # margins of this size are well again; under it every step is measured
REMEMBERED = 3  # critical learning rates; their second smallest counts


class Alarm:
    """Hears margins one after another and rings once when they go under a level, again only after they have recovered.

    Args:
        below: the level [1].
        recovered: the margin that arms it again [1]; twice `below` by default.

    Raises:
        ThalwegError: a level that is not positive, a recovered margin that is not above it.

    Example:
        >>> alarm = Alarm(1.0)
        >>> [alarm.rings(margin) for margin in (5.0, 0.9, 0.8, 1.5, 0.7, 2.5, 0.6)]
        [False, True, False, False, False, False, True]
    """

    def __init__(self, below: float, recovered: float | None = None) -> None:
        if not (math.isfinite(below) and below > 0):
            raise bad_input("below", below, "a positive margin", "Write below=1")
        recovered = RECOVERED * below if recovered is None else recovered
        if not recovered > below:
            raise bad_input("recovered", recovered, f"a margin above below={below:g}", f"Write recovered={2 * below:g}")
        self.below = below
        self.recovered = recovered
        self._armed = True

    def reset(self) -> None:
        """Forget all margins."""
        self._armed = True

    def rings(self, margin: float) -> bool:
        """Whether this margin is the first under the level since the last recovery."""
        if self._armed:
            self._armed = margin >= self.below
            return not self._armed
        self._armed = margin >= self.recovered
        return False


class Evidence:
    """That steps are too long: the logs of .9/margin added up, never under 0, in which one measurement counts for little.

    A cumulative sum test: margins that stay low convince it, single ones and a scatter around 1 do not. A learning rate
    that the run has already been at and that is coming back (a cycle, a planned rewarming) has to be twice as bad: margins
    fall there, and recover.

    Example:
        >>> evidence = Evidence()
        >>> [evidence.hear(margin, lr=0.1) for margin in (5.0, 0.4, 3.0, 0.7, 0.7)]
        [False, False, False, False, True]
    """

    def __init__(self) -> None:
        self.reset()

    def reset(self) -> None:
        """Forget all margins and learning rates."""
        self.total = 0.0
        self._recent: deque[float] = deque(maxlen=RECENT)
        self._highest = 0.0

    def hear(self, margin: float, lr: float) -> bool:
        """Add a measured step; whether there is enough."""
        if len(self._recent) == RECENT:
            self._highest = max(self._highest, self._recent[0])
        self._recent.append(lr)
        gain = math.log(LEVEL / margin) if margin > 0 else ONCE
        self.total = min(MOST, max(0.0, self.total + min(ONCE, max(-FADE, gain))))
        comes_back = 2 * min(self._recent) < lr <= self._highest
        return self.total > (2 if comes_back else 1) * ENOUGH


class Typical:
    """The second smallest of the last three numbers; infinite before there are two.

    Example:
        >>> typical = Typical()
        >>> [typical(value) for value in (0.5, 4.0, 0.7, 3.0)]
        [inf, 4.0, 0.7, 3.0]
    """

    def __init__(self) -> None:
        self._last: deque[float] = deque(maxlen=REMEMBERED)

    def reset(self) -> None:
        """Forget all numbers."""
        self._last.clear()

    def __call__(self, value: float) -> float:
        """Hear one more."""
        self._last.append(value)
        return self.value

    @property
    def value(self) -> float:
        """As it stands."""
        return sorted(self._last)[1] if len(self._last) > 1 else math.inf
