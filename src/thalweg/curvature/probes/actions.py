"""From number to action: a callback, a cap on the learning rate, a stop. Nothing acts unless it is asked to.

Everything is decided from margins alone. Those are reduced over ranks before they are compared, so all ranks decide alike.
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Callable, Iterable, Mapping
from typing import Any, Literal, NamedTuple, get_args

from torch import Tensor
from torch.optim import Optimizer

from thalweg.curvature.probes.alarms import RECOVERED, Alarm, Evidence, Typical
from thalweg.curvature.steps.distributed import is_first
from thalweg.outcomes import Outcome, ThalwegWarning, bad_input
from thalweg.units import format_lr

__all__ = ["Action", "Guard", "LrCap", "OnUnstable", "StopTraining"]

OnUnstable = Literal["record", "alert", "cap_lr", "stop"]

SAFETY = 2.0  # the cap is the critical learning rate over it
RISE = 1.05  # of the cap from one measurement to the next, at most


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
        self.ceiling = (critical_lr if critical_lr > 0 else lr) / SAFETY

    def follow(self, critical_lr: float, lr: float) -> bool:
        """Move the cap with the critical learning rate, up by RISE at most; whether it was removed.

        It is removed where half the critical learning rate is no less than what the schedule asks for.
        """
        assert self.ceiling is not None
        highest = RISE * self.ceiling
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
        self._evidence, self._critical_lr = Evidence(), Typical()
        self._told = False
        self._watching = False
        self.stop: Callable[[StopTraining], object] | None = None  # raised where there is none
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
        margin = _margin(row)
        if self._policy == "record" or margin is None:
            name = ""
        else:
            name = self._capped(row, lr) if self._can_cap(row) else self._rings(row)
            self._watching = 0 < margin < RECOVERED
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
            StopTraining: where `on_unstable` is "stop", and nobody else was asked to.
        """
        margin = _margin(row)
        for alarm, callback in self._callbacks:
            if margin is not None and alarm.rings(margin):
                callback(row)
        if action is None:
            return
        if action.name == "stop":
            stop = StopTraining(row["step"], action)
            if self.stop is None:
                raise stop
            self.stop(stop)
        if action.name != "release" and is_first():
            warnings.warn(f"step {row['step']}: {action}", ThalwegWarning, stacklevel=2)

    @property
    def watching(self) -> bool:
        """Whether the coming step is measured whatever its number: the last margin was low, or there is a cap."""
        return self._watching or self._cap.ceiling is not None

    @property
    def ceiling(self) -> float | None:
        """Of the learning rate [1], while a cap is in force: what a resumed run needs beside the rows."""
        return self._cap.ceiling

    def load(self, rows: Iterable[Mapping[str, Any]], ceiling: float | None) -> None:
        """Continue after these rows: everything is as they left it; a ceiling stands only where the policy is to cap."""
        rows = list(rows)
        self._cap.lift()
        self._cap.ceiling = ceiling if self._policy == "cap_lr" else None
        self._evidence.reset()
        self._critical_lr.reset()
        self._told = self._watching = False
        for row in rows if self._policy != "record" else ():
            margin = _margin(row)
            if margin is None:
                continue
            if not self._can_cap(row):
                self._rings(row)
            elif "lr/cap" in row or str(row.get("probe/action")).startswith("release"):
                self._critical_lr(row["lr/critical"])
                self._evidence.reset()
            else:
                self._convinced(row)
            self._watching = 0 < margin < RECOVERED
        for alarm, _ in self._callbacks:
            _replay(alarm, rows)

    def _convinced(self, row: Mapping[str, Any]) -> bool:
        """Whether this row makes it certain that steps are too long, or that the run is no longer finite."""
        margin = row.get("stability/margin")
        if margin is None:
            return True
        self._critical_lr(row["lr/critical"])
        return self._evidence.hear(margin, 2 / row["sharpness/threshold_critical"])

    def _rings(self, row: Mapping[str, Any]) -> str:
        """The policy's name where it has to be told; once, until margins have recovered. A cap mends nothing that is lost."""
        if self._convinced(row):
            name = "" if self._told else "alert" if self._policy == "cap_lr" else self._policy
            self._told = True
            return name
        if self._evidence.total == 0 and row["stability/margin"] >= RECOVERED:
            self._told = False
        return ""

    def _can_cap(self, row: Mapping[str, Any]) -> bool:
        return self._policy == "cap_lr" and "stability/margin" in row

    def _capped(self, row: Mapping[str, Any], lr: float) -> str:
        """Set the cap, or let it follow; the action's name, or "" where nothing is new."""
        if self._cap.ceiling is not None:
            return "release" if self._cap.follow(self._critical_lr(row["lr/critical"]), lr) else ""
        if not self._convinced(row):
            return ""
        self._cap.set(self._critical_lr.value, lr)
        self._evidence.reset()
        return "cap_lr"

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
