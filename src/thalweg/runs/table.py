"""`Runs`: a validated table of finished runs, one row a run, raw counts and raw learning rates."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import ArrayLike, NDArray

from thalweg.outcomes import bad_input
from thalweg.runs.checks import check_columns, check_numbers, check_schedules, schedules_of, warn_of_mixed_kinds
from thalweg.runs.frames import Assumed, prepare
from thalweg.schedules import Budget, Schedule

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Runs"]


@dataclass(frozen=True, slots=True, eq=False, repr=False)
class Runs:
    """Finished runs, validated: build it with `Runs.from_frame` or `thalweg.runs.read`.

    Attributes:
        frame: the table, with a row a run and at least the columns `params tokens batch_tokens loss diverged schedule`
            (the schedule as text); further columns are kept as they came.
        schedules: the learning rate of each run as a function of the step.
        budgets: the budget of each run.

    Example:
        >>> import pandas as pd
        >>> table = {
        ...     "params": [1e8, 2e8],
        ...     "tokens": [2e9, 2e9],
        ...     "batch_tokens": 1e6,
        ...     "loss": [3.1, 2.9],
        ...     "schedule": ["cosine(0.003, 2000, warmup=100)", "linear(0.003, 2000, warmup=100)"],
        ... }
        >>> runs = Runs.from_frame(pd.DataFrame(table))
        >>> runs
        Runs(2 runs in 2 cells)
        >>> runs.schedules[0].peak_lr, runs.budgets[0].steps, runs.cells
        (0.003, 2000, array([0, 1]))
    """

    frame: pd.DataFrame
    schedules: tuple[Schedule, ...]
    budgets: tuple[Budget, ...]

    @classmethod
    def from_frame(
        cls,
        df: pd.DataFrame,
        *,
        rename: Mapping[str, str] | None = None,
        assume: Assumed | None = None,
        where: str | None = None,
    ) -> Runs:
        """Check a table and read its schedules.

        Args:
            df: a row a run. Columns: `params tokens batch_tokens loss` [count, count, count, nats] and `schedule` (text, as
                `thalweg.schedules.parse` reads it) or `peak_lr warmup final_lr shape`, with `steps` where the run's length is
                not tokens/batch_tokens, and `decay` for wsd. Optional: `diverged seed loss_kind run`.
            rename: your column → the name here.
            assume: column → what fills it where the table has no such column: a value, or a function of the frame, as in
                `DataFrame.assign`.
            where: rows to keep, as an expression of the columns, those of `assume` included (`DataFrame.query`).

        Raises:
            ThalwegError: a column is missing; the table is empty or in billions; a loss of a run that did not diverge is
                missing or not positive; a schedule is impossible, or disagrees with tokens/batch_tokens by over .5 %.
        """
        frame = prepare(df, rename, assume, where)
        check_columns(frame)
        frame = check_numbers(frame)
        schedules = schedules_of(frame)
        budgets = tuple(
            Budget(params=params, tokens=tokens, batch_tokens=batch_tokens)
            for params, tokens, batch_tokens in frame[["params", "tokens", "batch_tokens"]].itertuples(index=False)
        )
        check_schedules(schedules, budgets)
        warn_of_mixed_kinds(frame)
        return cls(frame.assign(schedule=[str(schedule) for schedule in schedules]), schedules, budgets)

    @property
    def loss(self) -> NDArray[np.float64]:
        """The loss each run reached [nats], shape (runs,); may be NaN where `diverged`."""
        return self.frame["loss"].to_numpy(dtype=np.float64)

    @property
    def diverged(self) -> NDArray[np.bool_]:
        """Which runs diverged, shape (runs,)."""
        return self.frame["diverged"].to_numpy(dtype=np.bool_)

    @property
    def cells(self) -> NDArray[np.intp]:
        """The number of each run's (params, tokens) cell, shape (runs,): 0, 1, … in ascending order of the pair."""
        return self._groups("params", "tokens")

    @property
    def configurations(self) -> NDArray[np.intp]:
        """The number of each run's configuration, shape (runs,): runs that share it differ only in seed."""
        return self._groups("params", "tokens", "batch_tokens", "schedule")

    def subset(self, mask: ArrayLike) -> Runs:
        """The runs where the mask, shape (runs,), is true, in their order.

        Raises:
            ThalwegError: the mask is not one boolean a run.
        """
        keep = np.asarray(mask)
        if keep.shape != (len(self),) or keep.dtype != np.bool_:
            raise bad_input("mask", f"{keep.dtype} of shape {keep.shape}", f"{len(self)} booleans, one a run")
        rows = np.flatnonzero(keep)
        return Runs(
            self.frame.iloc[rows].reset_index(drop=True),
            tuple(self.schedules[row] for row in rows),
            tuple(self.budgets[row] for row in rows),
        )

    def __len__(self) -> int:
        return len(self.schedules)

    def __repr__(self) -> str:
        cells = len(np.unique(self.cells)) if len(self) else 0
        return f"Runs({len(self)} runs in {cells} cell{'s' if cells != 1 else ''})"

    def _groups(self, *columns: str) -> NDArray[np.intp]:
        return np.asarray(self.frame.groupby(list(columns), sort=True).ngroup(), dtype=np.intp)
