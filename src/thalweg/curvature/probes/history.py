"""What a probe measured: rows, what they say in prose, their figures, and a JSON Lines file that survives a crash."""

from __future__ import annotations

import json
import math
import os
from collections import Counter
from collections.abc import Callable, Iterable, Mapping
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from numpy.typing import NDArray

from thalweg.curvature.finding.band import Band
from thalweg.figures import Figure, Line, Points, Threshold
from thalweg.outcomes import Outcome, ThalwegError
from thalweg.results import Result, write_atomically

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["UNITS", "History", "JsonlLog", "Row", "tensorboard_log"]

Row = dict[str, Any]

GRAY = 6  # the series of what is not measured: thresholds
UNITS: Mapping[str, str] = {
    "step": "count",
    "sharpness/critical": "1/lr",
    "sharpness/threshold_critical": "1/lr",
    "sharpness/directional": "1/lr",
    "sharpness/directional_error": "1",
    "sharpness/relative/<task>": "1/lr",
    "sharpness/hessian": "1/lr",
    "sharpness/preconditioned": "1/lr",
    "sharpness/threshold": "1/lr",
    "lr/critical": "1",
    "lr/cap": "1",
    "stability/margin": "1",
    "norm/update": "1",
    "norm/update_ratio": "1",
    "norm/update_ratio_max": "1",
    "norm/gradient": "loss",
    "norm/output_layer": "1",
    "logit/attention_max": "1",
    "probe/forward_passes": "count",
    "probe/seconds": "s",
    "probe/outcome": "name",
    "probe/action": "text",
}


@dataclass(frozen=True, slots=True)
class History(Result):
    """The rows of a probe.

    Attributes:
        rows: one dict a measured step: `step`, the measures' keys as far as they were measured, `probe/forward_passes`,
            `probe/seconds`, and `probe/outcome`, the name of an `Outcome`; `lr/cap` and `probe/action` where the probe
            acted. Every number in a row is finite.
        units: key → unit.
        note: why there is no edge of stability for this optimizer, or "".

    Example:
        >>> rows = [
        ...     {"step": s, "stability/margin": m, "probe/outcome": "OK"} for s, m in [(1, 90.0), (2, 3.0), (3, 8.0)]
        ... ]
        >>> history = History(tuple(rows))
        >>> history.lowest_margin, history.plateau
        ((3.0, 2), 3.0)
    """

    sources: ClassVar[tuple[str, ...]] = ("critical-sharpness",)

    rows: tuple[Row, ...]
    units: dict[str, str] = field(default_factory=lambda: dict(UNITS))
    note: str = ""

    def column(self, key: str) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        """Steps and values of the rows that hold a key, both (n,)."""
        pairs = [(row["step"], row[key]) for row in self.rows if key in row]
        steps = np.array([step for step, _ in pairs], dtype=np.int64)
        return steps, np.array([value for _, value in pairs], dtype=np.float64)

    @property
    def lowest_margin(self) -> tuple[float, int] | None:
        """The smallest certified margin [1] and its step; None before the first. Steps that only climb are counted apart."""
        steps, margins = self._margins()
        if steps.size == 0:
            return None
        at = int(margins.argmin())
        return float(margins[at]), int(steps[at])

    @property
    def plateau(self) -> float | None:
        """The median margin [1] in the middle half of the measured steps; None before the first."""
        steps, margins = self._margins()
        if steps.size == 0:
            return None
        middle = margins[self._middle(steps)]
        return float(np.median(middle if middle.size else margins))

    def safe_lr(self) -> Band | None:
        """The learning rates that the measured steps of the plateau would have tolerated; None before the first margin.

        The critical learning rates η_c of the middle half of the measured steps, as `Band`: `safe` was tolerated by at
        least 90 % of those steps, `edge` by half, `spread` is the ratio of the 90 % and 10 % quantiles. All are of the
        first parameter group. Each η_c is that of one step on its own batch, at the weights this run came to; a run at that
        learning rate would come to others, usually flatter ones at a higher rate. So it is a limit for the next steps of
        this run, not the best learning rate for a new one.

        Example:
            >>> rows = [
            ...     {"step": s, "lr/critical": 0.01 * s, "sharpness/threshold_critical": 2 / 0.1, "probe/outcome": "OK"}
            ...     for s in range(41)
            ... ]
            >>> band = History(tuple(rows)).safe_lr()
            >>> band.safe, round(band.edge, 9), round(band.lr, 9)
            (0.12, 0.2, 0.1)
        """
        steps, critical_lrs = self.column("lr/critical")
        if steps.size == 0:
            return None
        chosen = self._middle(steps)
        lr = 2 / float(self.column("sharpness/threshold_critical")[1][-1])
        note = f"From the middle half of the steps to {self.rows[-1]['step']}, each on its own batch at the weights of this run."
        return Band(critical_lrs[chosen if chosen.any() else slice(None)], lr, "plateau", (), note)

    @property
    def actions(self) -> tuple[tuple[int, str], ...]:
        """Step and words of everything that the probe did: `on_unstable`."""
        return tuple((row["step"], row["probe/action"]) for row in self.rows if "probe/action" in row)

    @property
    def threshold_fraction(self) -> NDArray[np.float64]:
        """Preconditioned sharpness over its edge of stability [1], a value for each row that holds both."""
        both = [row for row in self.rows if "sharpness/preconditioned" in row and "sharpness/threshold" in row]
        return np.array(
            [row["sharpness/preconditioned"] / row["sharpness/threshold"] for row in both], dtype=np.float64
        )

    def to_frame(self) -> pd.DataFrame:
        """One row a measured step; a cell that was not measured is NaN."""
        import pandas as pd

        present = {key for row in self.rows for key in row}
        known = [key for key in UNITS if key in present]
        return pd.DataFrame(list(self.rows), columns=[*known, *sorted(present - set(known))])

    def summary(self) -> str:
        """Lowest margin with its step, plateau, fraction of the preconditioned threshold, outcomes, and what it cost."""
        if not self.rows:
            return "no step was measured"
        steps = [row["step"] for row in self.rows]
        lines = [f"{len(steps)} steps measured, from {steps[0]} to {steps[-1]}"]
        lowest = self.lowest_margin
        if lowest is not None:
            lines.append(
                f"lowest margin {lowest[0]:.3g} at step {lowest[1]}, plateau {self.plateau:.3g} (under 1 a step raises its own loss)"
            )
        fraction = self.threshold_fraction
        if fraction.size:
            lines.append(
                f"preconditioned sharpness at {np.median(fraction):.2g} of its edge of stability (median), {fraction.max():.2g} at most"
            )
        if self.note:
            lines.append(f"no edge of stability: {self.note}")
        outcomes = Counter(str(row["probe/outcome"]) for row in self.rows if row["probe/outcome"] != "OK")
        lines += [f"{count} × {name}: {Outcome[name].value}" for name, count in outcomes.most_common()]
        lines += [f"step {step}: {action}" for step, action in self.actions[:5]]
        if len(self.actions) > 5:
            lines.append(f"{len(self.actions) - 5} more actions")
        seconds, passes = (math.fsum(self.column(key)[1]) for key in ("probe/seconds", "probe/forward_passes"))
        lines.append(f"cost {seconds:.3g} s, {passes:.0f} forward passes")
        return "\n".join(lines)

    def figures(self) -> tuple[Figure, ...]:
        """Margin with its line at 1; critical sharpness and eigenvalues with their thresholds; the cost. Empty ones left out."""
        made = (self._margin_figure(), self._critical_figure(), self._eigenvalue_figure(), self._cost_figure())
        return tuple(figure for figure in made if figure is not None)

    def write_jsonl(self, path: str | os.PathLike[str]) -> Path:
        """Write all rows as JSON Lines, one object a line, in one go."""
        return write_atomically(path, "".join(_line(row) for row in self.rows))

    @classmethod
    def read_jsonl(cls, path: str | os.PathLike[str], *, restored_step: int | None = None) -> History:
        """Read rows back, those past the restored step left out; a last line that a crash cut short is not a row.

        Raises:
            ThalwegError: no such file, a line before the last that is not JSON.
        """
        source = Path(path)
        if not source.is_file():
            raise ThalwegError(f"path: got {str(path)!r}, expected a JSON Lines file of a probe. Check the name.")
        rows = []
        for number, line in enumerate(source.read_text().split("\n")[:-1], start=1):
            try:
                rows.append(json.loads(line))
            except ValueError:
                raise ThalwegError(f"{source}, line {number}: not a JSON object; remove the line.") from None
        return cls(tuple(row for row in rows if restored_step is None or row["step"] <= restored_step))

    def _middle(self, steps: NDArray[np.int64]) -> NDArray[np.bool_]:
        """Which of the steps are in the middle half of the measured ones."""
        first, last = int(self.rows[0]["step"]), int(self.rows[-1]["step"])
        quarter = (last - first) / 4
        return (steps >= first + quarter) & (steps <= last - quarter)

    def _margins(self) -> tuple[NDArray[np.int64], NDArray[np.float64]]:
        steps, margins = self.column("stability/margin")
        return steps[margins > 0], margins[margins > 0]

    def _margin_figure(self) -> Figure | None:
        steps, margins = self._margins()
        if steps.size == 0:
            return None
        climbing = np.array([row["step"] for row in self.rows if row.get("stability/margin") == 0.0])
        marks: list[Any] = [Line(steps, margins, "margin"), Threshold(1.0, "this step raises its own loss")]
        if climbing.size:
            lowest = np.full(climbing.size, min(1.0, margins.min()))
            marks.append(Points(climbing, lowest, "climbs from the start (margin 0)", series=1, hollow=True))
        acted = [row for row in self.rows if "probe/action" in row and row.get("stability/margin", 0.0) > 0]
        if acted:
            at = [row["step"] for row in acted]
            marks.append(Points(at, [row["stability/margin"] for row in acted], "the probe acted", series=2))
        return Figure(
            "How far each step could have gone",
            tuple(marks),
            x_label="step [count]",
            y_label="margin [multiples of the step]",
            y_scale="log",
            caption="The multiple of the applied step at which its loss is back where it began.",
            name="margin",
        )

    def _critical_figure(self) -> Figure | None:
        marks = self._lines(
            ("sharpness/critical", "critical sharpness", 0),
            ("sharpness/directional", "directional sharpness", 1),
            ("sharpness/threshold_critical", "2 / lr", None),
        )
        if len(marks) < 2:
            return None
        return Figure(
            "Critical sharpness and its threshold",
            marks,
            x_label="step [count]",
            y_label="sharpness [1/lr]",
            y_scale="log",
            caption="Above the dashed line the step raises its own loss.",
            name="critical_sharpness",
        )

    def _eigenvalue_figure(self) -> Figure | None:
        marks = self._lines(
            ("sharpness/hessian", "Hessian", 0),
            ("sharpness/preconditioned", "preconditioned Hessian", 1),
            ("sharpness/threshold", "edge of stability", None),
        )
        if not marks:
            return None
        return Figure(
            "Largest eigenvalue and the edge of stability",
            marks,
            x_label="step [count]",
            y_label="sharpness [1/lr]",
            y_scale="log",
            caption="On a quadratic the optimizer is stable below the dashed line.",
            name="sharpness",
        )

    def _cost_figure(self) -> Figure | None:
        steps, seconds = self.column("probe/seconds")
        if steps.size == 0:
            return None
        return Figure(
            "What the probe cost",
            (Line(steps, np.cumsum(seconds), "seconds so far"),),
            x_label="step [count]",
            y_label="time in the probe [s]",
            caption=f"{seconds.sum():.3g} s in {steps.size} measurements.",
            name="probe_cost",
        )

    def _lines(self, *wanted: tuple[str, str, int | None]) -> tuple[Line, ...]:
        """Lines of the keys that hold positive values; a threshold (no series) is dashed."""
        lines = []
        for key, label, series in wanted:
            steps, values = self.column(key)
            steps, values = steps[values > 0], values[values > 0]
            if steps.size:
                lines.append(
                    Line(
                        steps,
                        values,
                        label,
                        GRAY if series is None else series,
                        "dashed" if series is None else "solid",
                    )
                )
        return tuple(lines)


class JsonlLog:
    """A `log` for probes that appends one JSON object a line, flushed, with `step` and `probe/outcome`.

    On resume (`restored_step`, or `Probe.load_state_dict`), lines past the restored step are dropped, and so is a last line
    that a crash cut short.

    Args:
        path: the file; made with its folder at the first row.
        restored_step: the step that training continues after; None continues the file as it is.

    Example:
        >>> log = JsonlLog("probe.jsonl")
        >>> log.row({"step": 100, "stability/margin": 4.0, "probe/outcome": "OK"})
        >>> log.row({"step": 200, "stability/margin": 3.0, "probe/outcome": "OK"})
        >>> _ = JsonlLog("probe.jsonl", restored_step=150)
        >>> [row["step"] for row in History.read_jsonl("probe.jsonl").rows]
        [100]
    """

    def __init__(self, path: str | os.PathLike[str], *, restored_step: int | None = None) -> None:
        self.path = Path(path)
        self.drop_after(restored_step)
        self.path.parent.mkdir(parents=True, exist_ok=True)

    def drop_after(self, restored_step: int | None) -> None:
        """Drop the rows past the step that training continues after, and a last line that a crash cut short."""
        if self.path.is_file():
            History.read_jsonl(self.path, restored_step=restored_step).write_jsonl(self.path)

    def row(self, row: Mapping[str, Any]) -> None:
        """Append one row."""
        with self.path.open("a") as file:
            file.write(_line(row))

    def __call__(self, values: Mapping[str, float], *, step: int) -> None:
        """Append the values of a step: fits wherever `callable(dict, step=)` does."""
        self.row({"step": step, **values})


def tensorboard_log(writer: Any) -> Callable[..., None]:
    """Adapt a TensorBoard SummaryWriter to `callable(dict, step=)`.

    Example:
        >>> class Writer:
        ...     def add_scalar(self, key, value, step):
        ...         print(key, value, step)
        >>> tensorboard_log(Writer())({"stability/margin": 4.0}, step=100)
        stability/margin 4.0 100
    """

    def log(values: Mapping[str, float], *, step: int) -> None:
        for key, value in values.items():
            writer.add_scalar(key, value, step)

    return log


def finite(values: Iterable[tuple[str, float]]) -> dict[str, float]:
    """The finite ones among a row's values, as Python floats."""
    return {key: float(value) for key, value in values if math.isfinite(value)}


def _line(row: Mapping[str, Any]) -> str:
    return json.dumps(row, allow_nan=False) + "\n"
