"""From number to action: an alarm with hysteresis, a cap on the learning rate, a stop. Nothing acts unless it is asked to.

Everything is decided from margins alone. Those are reduced over ranks before they are compared, so all ranks decide alike.
"""

from __future__ import annotations

import math
import warnings
from collections import deque
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor
from torch.optim import Optimizer

from thalweg.curvature.distributed import is_first
from thalweg.outcomes import Outcome, ThalwegWarning, bad_input
from thalweg.units import format_lr

__all__ = ["Action", "Alarm", "Guard", "LrCap", "OnUnstable", "StopTraining"]

OnUnstable = Literal["record", "alert", "cap_lr", "stop"]

UNSTABLE = (
    0.75  # a step a third beyond its critical learning rate: healthy runs at the edge of stability scatter around 1
)
RECOVERED = 2.0  # margins of this size are well again; 1/RECOVERED is the safety factor of the cap
SEVERE = 0.5  # a step at twice its critical learning rate is believed at once
REMEMBERED = 3  # measurements; otherwise their second smallest decides, so that one batch alone does not


class Action(NamedTuple):
    """Something that is done about a step.

    Attributes:
        name: "alert", "cap_lr", "release" (of a cap) or "stop".
        lr: learning rate of the step [1].
        critical_lr: its critical learning rate [1]; NaN where the run is no longer finite.
        ceiling: of the steps that follow [1], or None.

    Example:
        >>> print(Action("cap_lr", 3e-3, 1.9e-3, 0.95e-3))
        cap_lr: LR 3e-3, critical 1.9e-3, next steps under 9.5e-4
    """

    name: str
    lr: float
    critical_lr: float
    ceiling: float | None = None

    def __str__(self) -> str:
        lost = "weights or loss no longer finite"
        critical = lost if math.isnan(self.critical_lr) else f"critical {format_lr(self.critical_lr)}"
        following = "" if self.ceiling is None else f", next steps under {format_lr(self.ceiling)}"
        return f"{self.name}: LR {format_lr(self.lr)}, {critical}{following}"


class StopTraining(RuntimeError):
    """A probe with `on_unstable="stop"` met an unstable step. That step is complete; weights and optimizer are as it left them.

    Attributes:
        step: optimizer steps completed [count].
        action: what was known: `lr` and `critical_lr` of the step [1].

    Example:
        >>> print(StopTraining(300, Action("stop", 3e-3, 1.9e-3)))
        step 300: stop: LR 3e-3, critical 1.9e-3
    """

    def __init__(self, step: int, action: Action) -> None:
        super().__init__(f"step {step}: {action}")
        self.step = step
        self.action = action


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
        return sorted(self._last)[1] if len(self._last) > 1 else math.inf


class LrCap:
    """Holds the learning rate of an optimizer under a ceiling while a step lasts; between steps the schedule's values stand.

    A scheduler that computes the next value from the present one therefore never sees the cap. All groups are lowered by
    one factor; the ceiling is on the first group's learning rate.

    Attributes:
        ceiling: largest learning rate of the first group [1], or None: no cap.
        scheduled: what the schedule set for the step that was begun last [1].

    Example:
        >>> import torch
        >>> optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.4)
        >>> cap = LrCap(optimizer)
        >>> cap.set(critical_lr=0.2, lr=0.4)
        >>> cap.lower()
        >>> during = optimizer.param_groups[0]["lr"]
        >>> cap.lift()
        >>> during, optimizer.param_groups[0]["lr"]
        (0.1, 0.4)
    """

    def __init__(self, optimizer: Optimizer) -> None:
        self.ceiling: float | None = None
        self.scheduled = math.nan
        self._optimizer = optimizer
        self._lowered: list[tuple[dict[str, Any], float | Tensor, float]] = []

    def lower(self) -> None:
        """Cap what the schedule has set; called before the optimizer reads it."""
        self.lift()  # a step that raised never came to its end
        groups = self._optimizer.param_groups
        self.scheduled = float(groups[0].get("lr", math.nan))
        if self.ceiling is None or not self.scheduled > self.ceiling:
            return
        factor = self.ceiling / self.scheduled
        for group in groups:
            lr = group["lr"]
            if isinstance(lr, Tensor):
                kept = lr.clone()
                lr.mul_(factor)
            else:
                kept = lr
                group["lr"] = factor * lr
            self._lowered.append((group, kept, float(group["lr"])))

    def lift(self) -> None:
        """Put the schedule's values back, except where somebody has set another value since."""
        for group, kept, lowered in self._lowered:
            if float(group["lr"]) != lowered:
                continue
            if isinstance(kept, Tensor):
                group["lr"].copy_(kept)
            else:
                group["lr"] = kept
        self._lowered.clear()

    def set(self, critical_lr: float, lr: float) -> None:
        """Cap at half the critical learning rate; at half of `lr` where steps climb from the start and there is none [1]."""
        self.ceiling = (critical_lr if critical_lr > 0 else lr) / RECOVERED

    def follow(self, critical_lr: float, lr: float) -> bool:
        """Move the cap with the critical learning rate, at most to twice its height; whether it was removed.

        It is removed where half the critical learning rate is no less than what the schedule asks for.
        """
        assert self.ceiling is not None
        highest = 2 * self.ceiling
        self.set(critical_lr, lr)
        self.ceiling = min(self.ceiling, highest)
        if self.ceiling >= self.scheduled:
            self.ceiling = None
        return self.ceiling is None


class Guard:
    """What a probe does about a margin: the policy `on_unstable`, and the callbacks of `on_margin`."""

    def __init__(self, optimizer: Optimizer, on_unstable: OnUnstable, *, measures: Iterable[str]) -> None:
        if on_unstable not in get_args(OnUnstable):
            raise bad_input("on_unstable", on_unstable, "one of " + ", ".join(get_args(OnUnstable)))
        self._has_margins = "critical" in measures
        if on_unstable != "record":
            self._require_margins("on_unstable", on_unstable)
        self._policy = on_unstable
        self._alarm = Alarm(UNSTABLE, RECOVERED)
        self._margin, self._critical_lr = Typical(), Typical()
        self._callbacks: list[tuple[Alarm, Callable[[dict[str, Any]], object]]] = []
        self._cap = LrCap(optimizer)

    def add(
        self, alarm: Alarm, callback: Callable[[dict[str, Any]], object], rows: Iterable[Mapping[str, Any]]
    ) -> None:
        """Call back when the alarm rings; what `rows` already show rings no more."""
        self._require_margins("on_margin", alarm.below)
        _replay(alarm, rows)
        self._callbacks.append((alarm, callback))

    def before_step(self) -> None:
        """Cap the coming step."""
        self._cap.lower()

    def after_step(self) -> None:
        """Give the schedule its values back."""
        self._cap.lift()

    def decide(self, row: dict[str, Any], lr: float) -> Action | None:
        """Decide on a measured row, and write it there: `probe/action` with its numbers, and `lr/cap` while one is in force.

        Args:
            row: of the step.
            lr: the step ran at [1].
        """
        if self._policy == "record" or _margin(row) is None:
            name = ""
        elif self._can_cap(row):
            name = self._capped(row, lr)
        elif self._alarm.rings(self._hear(row)[0]):  # no learning rate mends weights that are not finite
            name = "alert" if self._policy == "cap_lr" else self._policy
        else:
            name = ""
        if self._cap.ceiling is not None:
            row["lr/cap"] = self._cap.ceiling
        if not name:
            return None
        action = Action(name, lr, row.get("lr/critical", math.nan), self._cap.ceiling if name == "cap_lr" else None)
        row["probe/action"] = str(action)
        return action

    def act(self, row: dict[str, Any], action: Action | None) -> None:
        """Do what was decided, once the row is written: callbacks first, then the warning or the stop.

        Raises:
            StopTraining: where `on_unstable` is "stop".
        """
        margin = _margin(row)
        for alarm, callback in self._callbacks:
            if margin is not None and alarm.rings(margin):
                callback(row)
        if action is None:
            return
        if action.name == "stop":
            raise StopTraining(row["step"], action)
        if action.name != "release" and is_first():
            warnings.warn(f"step {row['step']}: {action}", ThalwegWarning, stacklevel=2)

    @property
    def ceiling(self) -> float | None:
        """Of the learning rate [1], while a cap is in force: what a resumed run needs beside the rows."""
        return self._cap.ceiling

    def load(self, rows: Iterable[Mapping[str, Any]], ceiling: float | None) -> None:
        """Continue after these rows: everything is as they left it; a ceiling stands only where the policy is to cap."""
        rows = list(rows)
        self._cap.lift()
        self._cap.ceiling = ceiling if self._policy == "cap_lr" else None
        for heard in (self._alarm, self._margin, self._critical_lr):
            heard.reset()
        for row in rows:
            if _margin(row) is not None:
                margin, _ = self._hear(row)
                if not self._can_cap(row):
                    self._alarm.rings(margin)
        for alarm, _ in self._callbacks:
            _replay(alarm, rows)

    def _hear(self, row: Mapping[str, Any]) -> tuple[float, float]:
        """The margin and the critical learning rate that decide; 0 where the run is no longer finite."""
        margin = row.get("stability/margin")
        if margin is None:
            return 0.0, 0.0
        typical = self._margin(margin), self._critical_lr(row["lr/critical"])
        # A climb is not severe: with momentum, single batches climb in healthy runs too.
        return (margin, row["lr/critical"]) if 0 < margin < SEVERE else typical

    def _can_cap(self, row: Mapping[str, Any]) -> bool:
        return self._policy == "cap_lr" and "stability/margin" in row

    def _capped(self, row: Mapping[str, Any], lr: float) -> str:
        """Set the cap, or let it follow; the action's name, or "" where nothing is new."""
        margin, critical_lr = self._hear(row)
        if self._cap.ceiling is None:
            if margin < UNSTABLE:
                self._cap.set(critical_lr, lr)
                return "cap_lr"
            return ""
        return "release" if self._cap.follow(critical_lr, lr) else ""

    def _require_margins(self, name: str, given: object) -> None:
        if not self._has_margins:
            raise bad_input(
                name, given, "a probe that measures margins", 'Write measures=("critical",) or add it to the mapping'
            )


def _margin(row: Mapping[str, Any]) -> float | None:
    """The margin of a row, 0 where the run is no longer finite, None where nothing is known."""
    if row.get("probe/outcome") == Outcome.NOT_FINITE.name:
        return 0.0
    margin: float | None = row.get("stability/margin")
    return margin


def _replay(alarm: Alarm, rows: Iterable[Mapping[str, Any]]) -> None:
    alarm.reset()
    for row in rows:
        margin = _margin(row)
        if margin is not None:
            alarm.rings(margin)
