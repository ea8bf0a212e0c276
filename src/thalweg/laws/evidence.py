"""What a law rests on: the ranges it was fitted in, and how far its predictions missed runs it had not seen."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field

import numpy as np
from numpy.typing import NDArray

from thalweg.results import Result
from thalweg.schedules import Budget, Schedule
from thalweg.units import format_count, format_lr

__all__ = ["Evidence", "inputs"]

Floats = NDArray[np.float64]

# Rounding is no extrapolation: of steps and tokens (share of a range's ends), nor of a schedule to 0 that is sampled step
# by step and so ends a little above it (share of the peak).
TOLERANCE = 0.005
COVERAGE = (0.05, 0.95)


@dataclass(frozen=True, slots=True, eq=False)
class Evidence(Result):
    """What a law rests on.

    Attributes:
        ranges: input → (lowest, highest) it was fitted on, raw units: `params tokens batch_tokens` [count], `peak_lr
            final_lr` [1], `warmup` [steps].
        runs: number of runs fitted on (0: unknown).
        cells: number of their (params, tokens) cells.
        residuals: log(measured/predicted) of every run, predicted by a fit that had not seen it, shape (runs,); None where
            the runs are not known.
        spread: standard deviation of the residuals within a cell: the part of the error that does not cancel when
            schedules of one budget are compared. None where no cell holds two runs.
        seed_noise: standard deviation of log(loss) between runs that differ only in seed; None where there are none.
        held_out: which runs were left out together.
        setup: whose runs these were, where they are not the user's own.

    Example:
        >>> evidence = Evidence(ranges={"params": (1e8, 1e9)}, residuals=np.linspace(-0.01, 0.01, 99))
        >>> low, high = evidence.interval(np.array([np.log(2.0)]))
        >>> print(f"{low[0]:.3f} {high[0]:.3f}")
        1.982 2.018
    """

    ranges: Mapping[str, tuple[float, float]] = field(default_factory=dict)
    runs: int = 0
    cells: int = 0
    residuals: Floats | None = None
    spread: float | None = None
    seed_noise: float | None = None
    held_out: str = ""
    setup: str = ""

    def interval(self, log_losses: Floats) -> tuple[Floats, Floats] | None:
        """Central 90 % interval of the loss [nats] of one new run, from the held-out residuals; None without them.

        The quantiles are those at k/(n + 1), which cover a new draw without bias when it is exchangeable with the residuals.
        The 90 % hold over many cells: runs of one (params, tokens) cell miss together, so of one cell far fewer may be covered.
        """
        if self.residuals is None:
            return None
        low, high = np.quantile(self.residuals, COVERAGE, method="weibull")
        return np.exp(log_losses + low), np.exp(log_losses + high)

    @property
    def error(self) -> float | None:
        """Mean relative error on held-out runs [1]; None where the runs are not known."""
        return None if self.residuals is None else float(np.mean(np.abs(np.expm1(-self.residuals))))

    def summary(self) -> str:
        """How many runs, how well unseen ones were predicted, and in which ranges."""
        table = f"{self.runs} runs in {self.cells} cells" if self.runs else "runs that are not recorded"
        lines = [f"fitted on {self.setup or table}"]
        if self.error is not None:
            lines.append(f"mean relative error {self.error:.2%} on held-out runs, {self.held_out}")
        lines.append(f"seed noise {self.seed_noise:.2%}" if self.seed_noise is not None else "seed noise unknown")
        lines += [f"{name} {written(name, low)} to {written(name, high)}" for name, (low, high) in self.ranges.items()]
        return "\n".join(lines)

    def outside(self, columns: Mapping[str, Floats]) -> tuple[tuple[str, ...], ...]:
        """For each run, a phrase for every input that lies outside the fitted range.

        Args:
            columns: input → its values, shape (runs,), as `inputs` gives them.

        Example:
            >>> evidence = Evidence(ranges={"params": (1e8, 1e9), "peak_lr": (1e-3, 1e-2)})
            >>> evidence.outside({"params": np.array([4e9, 1e9]), "peak_lr": np.array([3e-3, 3e-3])})
            (('params 4B, fitted on 100M to 1B',), ())
        """
        phrases: list[list[str]] = [[] for _ in next(iter(columns.values()))]
        for name, (low, high) in self.ranges.items():
            values = columns[name]
            beyond = (values < low * (1 - TOLERANCE)) | (values > high * (1 + TOLERANCE))
            fitted = f"{written(name, low)} to {written(name, high)}" if low < high else f"{written(name, low)} alone"
            # one string for each distinct value: thousands of candidates share a budget and a few peaks
            known = {
                value: f"{name} {written(name, value)}, fitted on {fitted}" for value in set(values[beyond].tolist())
            }
            for row in np.flatnonzero(beyond):
                phrases[row].append(known[values.item(row)])
        return tuple(map(tuple, phrases))


def written(name: str, value: float) -> str:
    """A value of an input as people write it."""
    return format_lr(value) if name in ("peak_lr", "final_lr") else format_count(value)


def inputs(schedules: Sequence[Schedule], budgets: Sequence[Budget], names: Sequence[str]) -> dict[str, Floats]:
    """The inputs of a law by name, raw units, shape (runs,) each.

    Args:
        schedules: of each run.
        budgets: of each run.
        names: from params tokens batch_tokens steps peak_lr warmup final_lr, the last only together with peak_lr.

    Example:
        >>> from thalweg.schedules import Budget, cosine
        >>> budget = Budget(params=1e8, tokens=1e9, batch_tokens=1e6)
        >>> print(inputs([cosine(3e-3, 1000, warmup=10)], [budget], ["peak_lr", "warmup"]))
        {'peak_lr': array([0.003]), 'warmup': array([10.])}
    """
    columns = {name: _column(name, schedules, budgets) for name in names}
    if "final_lr" in columns:
        final, peak = columns["final_lr"], columns["peak_lr"]
        columns["final_lr"] = np.where(final < TOLERANCE * peak, 0.0, final)
    return columns


def _column(name: str, schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Floats:
    if name in ("params", "tokens", "batch_tokens"):
        return np.array([getattr(budget, name) for budget in budgets], dtype=np.float64)
    if name == "steps":
        return np.array([schedule.steps for schedule in schedules], dtype=np.float64)
    if name == "warmup":
        return np.array([schedule.phases[0] for schedule in schedules], dtype=np.float64)
    if name == "peak_lr":
        return np.array([schedule.peak_lr for schedule in schedules], dtype=np.float64)
    if name == "final_lr":
        return np.array([schedule.pieces[-1].last_lr for schedule in schedules], dtype=np.float64)
    raise AssertionError(f"unknown input {name}")
