"""A band of learning rates: what several measurements of the critical one agree on, and how far they part."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

import numpy as np
from numpy.typing import NDArray

from thalweg.curvature.finding.trials import Trials
from thalweg.figures import Figure, Note, Points, Threshold
from thalweg.results import Result
from thalweg.units import format_lr

__all__ = ["Band"]

LOW, HIGH = 0.1, 0.9  # the quantiles of the band


@dataclass(frozen=True, slots=True)
class Band(Result):
    """Critical learning rates η_c measured several times, and two quantiles of them. All are of one parameter group.

    η_c is what a measured step would have tolerated, for one step, with the curvature that was there. It does not say which
    learning rate trains best, nor what curvature a run at that rate would meet: curvature adapts to the learning rate. Trial
    trainings, where they were made, do say where a run from here diverges; ask again as training goes on.

    Attributes:
        critical_lrs: η_c of each measurement, in their order (n,) [1]; 0 where the update climbed from the start.
        lr: learning rate of the group when it was measured, the last where there were several [1].
        name: what was measured.
        groups: the same for each parameter group alone, the others held still; empty where there is one group.
        note: what to keep in mind, or "".
        trials: trial trainings from the same weights, or None.

    Example:
        >>> band = Band(np.array([0.4, 0.2, 0.3]), lr=0.1)
        >>> band.safe, band.edge, round(band.spread, 6)
        (0.2, 0.3, 1.727273)
    """

    sources: ClassVar[tuple[str, ...]] = ("critical-sharpness",)

    critical_lrs: NDArray[np.float64]
    lr: float
    name: str = "all groups"
    groups: tuple[Band, ...] = ()
    note: str = ""
    trials: Trials | None = None

    @property
    def safe(self) -> float:
        """The largest measured η_c that at least 90 % of the measurements reach [1]; NaN without one.

        Never above the highest learning rate whose trial did not diverge.
        """
        reached = self._quantile(LOW, "lower")
        return reached if self.trials is None else min(reached, self.trials.lower)

    @property
    def edge(self) -> float:
        """Where training from here diverges, by the trials [1]; 0 or ∞ where none or all went well. `typical` without them."""
        return self.typical if self.trials is None else self.trials.edge

    @property
    def typical(self) -> float:
        """The median η_c [1]: half of the measured steps would have raised their own loss there; NaN without one."""
        return self._quantile(0.5, "linear")

    @property
    def spread(self) -> float:
        """Ratio of the 90 % and the 10 % quantile of η_c [1]: 1 where all agree, ∞ where many steps climbed."""
        low, high = self._quantile(LOW, "linear"), self._quantile(HIGH, "linear")
        return high / low if low else math.inf

    @property
    def climbs(self) -> int:
        """Measurements whose update climbed from the start: no learning rate suits them [count]."""
        return int((self.critical_lrs == 0).sum())

    def summary(self) -> str:
        """The band, each group's band, and what to keep in mind."""
        if self.critical_lrs.size == 0:
            return f"{self.name}: no critical learning rate was measured. {self.note}".rstrip()
        lines = [
            f"{self.name}: safe {format_lr(self.safe)}, edge {_shown(self.edge)} [lr of the first group], "
            f"spread {self.spread:.3g}, {self.critical_lrs.size} measurements at lr {format_lr(self.lr)}"
        ]
        if self.trials is not None:
            lines.append(f"{self.trials.summary()}; single steps tolerate {format_lr(self.typical)} (median)")
        if self.climbs:
            lines.append(f"{self.climbs} of them climbed from the start: no learning rate suits those batches")
        lines += [
            f"  {band.name} alone: safe {format_lr(band.safe)}, edge {format_lr(band.edge)}, spread {band.spread:.3g}"
            for band in self.groups
            if band.critical_lrs.size
        ]
        return "\n".join([*lines, self.note] if self.note else lines)

    def figures(self) -> tuple[Figure, ...]:
        """Every measurement, over its number, with safe, edge and the learning rate as it was; the trials."""
        shown = [band for band in (self, *self.groups) if (band.critical_lrs > 0).any()]
        if not shown or not self.critical_lrs.size:
            return ()
        marks: list[Points | Threshold | Note] = []
        for series, band in enumerate(shown):
            at = np.flatnonzero(band.critical_lrs > 0)
            marks.append(Points(at + 1, band.critical_lrs[at], band.name, series=series, hollow=series > 0))
        levels = {"safe": self.safe, "edge": self.edge, "lr": self.lr}
        marks += [
            Threshold(level, f"{name} {format_lr(level)}", below=name == "safe")
            for name, level in levels.items()
            if 0 < level < math.inf
        ]
        return (
            Figure(
                "Critical learning rates",
                tuple(marks),
                x_label="measurement [count]",
                y_label="critical lr [1]",
                y_scale="log",
                caption="Each point is the learning rate at which one step would have left its own loss where it was. "
                + self.note,
                name="critical_lrs",
            ),
            *(() if self.trials is None else self.trials.figures()),
        )

    def _quantile(self, share: float, method: str) -> float:
        if self.critical_lrs.size == 0:
            return math.nan
        return float(np.quantile(self.critical_lrs, share, method=method))  # type: ignore[call-overload]


def _shown(lr: float) -> str:
    return "∞" if math.isinf(lr) else format_lr(lr)
