"""A figure as plain data: what is drawn, not how. Results describe their own figures; `plots` and `report` draw them."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Literal

import numpy as np
from numpy.typing import ArrayLike, NDArray

__all__ = ["Band", "Bars", "Figure", "Heatmap", "Line", "Mark", "Note", "Points", "Threshold"]

Floats = NDArray[np.float64]
Scale = Literal["linear", "log", "symlog"]


def _floats(values: ArrayLike) -> Floats:
    return np.asarray(values, dtype=np.float64)


@dataclass(frozen=True, slots=True)
class Line:
    """A curve y(x). `series` picks the colour: marks of one series share it across the figures of a page."""

    x: ArrayLike
    y: ArrayLike
    label: str = ""
    series: int = 0
    style: Literal["solid", "dashed", "dotted"] = "solid"
    faint: bool = False  # one of many: drawn thin and pale


@dataclass(frozen=True, slots=True)
class Points:
    """Scattered points, with optional vertical errors (lower, upper as absolute values of y)."""

    x: ArrayLike
    y: ArrayLike
    label: str = ""
    series: int = 0
    lower: ArrayLike | None = None
    upper: ArrayLike | None = None
    hollow: bool = False


@dataclass(frozen=True, slots=True)
class Band:
    """The region between two curves over x: an interval, a spread."""

    x: ArrayLike
    lower: ArrayLike
    upper: ArrayLike
    label: str = ""
    series: int = 0


@dataclass(frozen=True, slots=True)
class Bars:
    """Horizontal bars, one a name, with optional intervals: rankings."""

    names: Sequence[str]
    values: ArrayLike
    label: str = ""
    series: int = 0
    lower: ArrayLike | None = None
    upper: ArrayLike | None = None


@dataclass(frozen=True, slots=True)
class Heatmap:
    """A matrix z of shape (len(y), len(x)), or (rows, columns) with names on both sides; NaN cells stay blank."""

    z: ArrayLike
    x: ArrayLike | Sequence[str]
    y: ArrayLike | Sequence[str]
    label: str = ""
    diverging: bool = False
    show_values: bool = False
    limits: tuple[float, float] | None = None  # of the colours; the data's range by default


@dataclass(frozen=True, slots=True)
class Threshold:
    """A line with a meaning, across the whole figure: the edge of stability, the end of warmup."""

    value: float
    label: str
    axis: Literal["x", "y"] = "y"
    below: bool = False  # the label of a horizontal line under it: where another line is close above


@dataclass(frozen=True, slots=True)
class Note:
    """A short text at a point of the data."""

    x: float
    y: float
    text: str


Mark = Line | Points | Band | Bars | Heatmap | Threshold | Note


@dataclass(frozen=True, slots=True)
class Figure:
    """One set of axes: marks, axis labels with units, and a caption that says what to see.

    Example:
        >>> figure = Figure("A line", marks=(Line([0, 1], [0, 1], "y = x"),), x_label="x [1]", y_label="y [1]")
        >>> figure.extent("y")
        (0.0, 1.0)
    """

    title: str
    marks: tuple[Mark, ...]
    x_label: str = ""
    y_label: str = ""
    x_scale: Scale = "linear"
    y_scale: Scale = "linear"
    caption: str = ""
    name: str = ""  # a stable file name
    y_limits: tuple[float | None, float | None] = field(default=(None, None))

    def extent(self, axis: Literal["x", "y"]) -> tuple[float, float]:
        """Smallest and largest finite coordinate on an axis over lines, points and bands.

        Raises:
            ValueError: no finite coordinate at all.
        """
        parts: list[Floats] = []
        for mark in self.marks:
            if isinstance(mark, Line | Points):
                parts.append(_floats(mark.x if axis == "x" else mark.y))
            elif isinstance(mark, Band):
                parts.extend([_floats(mark.x)] if axis == "x" else [_floats(mark.lower), _floats(mark.upper)])
        values = np.concatenate([np.ravel(part) for part in parts]) if parts else np.empty(0)
        values = values[np.isfinite(values)]
        if values.size == 0:
            raise ValueError(f"figure {self.title!r} has no finite {axis}")
        return float(values.min()), float(values.max())
