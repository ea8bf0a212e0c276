"""What is ranked when nobody names candidates: schedules and spaces within the range of the runs a law was fitted on."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg.laws.evidence import inputs
from thalweg.laws.law import Law
from thalweg.laws.plans.families import shape_of
from thalweg.schedules import Budget, Schedule, Space, cosine, linear, wsd

if TYPE_CHECKING:
    from thalweg.runs import Runs

__all__ = ["cooldowns_outside", "default_candidates", "default_spaces"]

DECAY = (0.05, 0.5)  # of wsd where no table says otherwise
ROUNDING = 0.01  # of the run, by which a cooldown may be shorter or longer than those fitted on


def default_candidates(budget: Budget, *, law: Law | None = None, runs: Runs | None = None) -> tuple[Schedule, ...]:
    """The grid that is ranked when nobody names candidates: cosine, linear and wsd × 6 peaks × up to 4 warmups.

    Peaks and warmups span the range the law was fitted on in equal ratios; where the law does not see one of them, the range in
    the runs, or else that of the published Opt-Law (1e-3 to 1.5e-2 and 128 to 6000 steps); warmups over a quarter of the run are left out, and where none remains they are 1, 2, 5
    and 10 % of it. wsd decays over the last 15 %.

    Example:
        >>> grid = default_candidates(Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048))
        >>> len(grid), str(grid[0])
        (54, 'cosine(0.001, 23842, warmup=128)')
    """
    ranges = _ranges(law, runs)
    steps = budget.steps
    peaks = sorted({float(f"{peak:.2e}") for peak in np.geomspace(*ranges["peak_lr"], 6)})
    low, high = (max(1.0, end) for end in ranges["warmup"])
    warmups = sorted({round(warmup) for warmup in np.geomspace(low, high, 4) if warmup <= steps / 4})
    if not warmups:
        warmups = sorted({max(1, round(share * steps)) for share in (0.01, 0.02, 0.05, 0.1)})
    final_lr = ranges["final_lr"][0]
    return tuple(
        shape(peak, steps, warmup=warmup, final_lr=final_lr)
        for shape in (cosine, linear, wsd)
        for peak in peaks
        for warmup in warmups
    )


def default_spaces(budget: Budget, *, law: Law | None = None, runs: Runs | None = None) -> tuple[Space, ...]:
    """The spaces around `default_candidates`: cosine, linear and wsd over the same peaks and warmups; wsd decays over 5 to 50 %.

    A search finds whatever the law gets wrong, so with the table that it was fitted on only the shapes in it are searched, and
    wsd within its decays.

    Example:
        >>> default_spaces(Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048))[0]
        Space('cosine', peak_lr=(0.001, 0.015), warmup=(128, 5960), final_lr=0.0)
    """
    ranges = _ranges(law, runs)
    low, high = (int(np.clip(end, 1, max(1, budget.steps // 4))) for end in ranges["warmup"])
    options = {
        "peak_lr": _range_or_value(*ranges["peak_lr"]),
        "warmup": _range_or_value(low, high),
        "final_lr": ranges["final_lr"][0],
    }
    decay = _range_or_value(*DECAY)
    shapes = {"cosine", "linear", "wsd"}
    if runs is not None:
        shapes = shapes & set(map(shape_of, runs.schedules)) or shapes
        decays = [round(_cooldown(schedule), 3) for schedule in runs.schedules if shape_of(schedule) == "wsd"]
        decay = _range_or_value(min(decays), max(decays)) if decays else decay
    return tuple(Space(shape, **options, **({"decay": decay} if shape == "wsd" else {})) for shape in sorted(shapes))


def cooldowns_outside(schedules: Sequence[Schedule], runs: Runs) -> tuple[tuple[str, ...], ...]:
    """For each schedule, a phrase where its cooldown is a smaller or larger share of the run than any in a table.

    Example:
        >>> import pandas as pd
        >>> from thalweg.runs import Runs
        >>> table = {"params": [1e8], "tokens": [1e9], "batch_tokens": [1e6], "loss": [3.0]}
        >>> runs = Runs.from_frame(pd.DataFrame({**table, "schedule": ["wsd(0.003, 1000, warmup=50, decay=0.2)"]}))
        >>> cooldowns_outside([wsd(0.003, 1000, decay=0.05), wsd(0.003, 1000, decay=0.2)], runs)
        (('cooldown 5% of the run, fitted on 20% alone',), ())
    """
    fitted = [_cooldown(schedule) for schedule in runs.schedules]
    low, high = min(fitted), max(fitted)
    words = f"{low:.0%} to {high:.0%}" if high - low > ROUNDING else f"{low:.0%} alone"
    shares = [_cooldown(schedule) for schedule in schedules]
    return tuple(
        () if low - ROUNDING <= share <= high + ROUNDING else (f"cooldown {share:.0%} of the run, fitted on {words}",)
        for share in shares
    )


def _cooldown(schedule: Schedule) -> float:
    return 1 - schedule.phases.cooldown_start / schedule.steps


def _range_or_value(low: Any, high: Any) -> Any:
    return (low, high) if low < high else low


def _ranges(law: Law | None, runs: Runs | None) -> Mapping[str, tuple[float, float]]:
    """The ranges of the law; of what it does not see those of the runs, or else of the published Opt-Law."""
    from thalweg.laws.opt_law import OptLaw  # imported when it is used, like every law

    ranges = dict(OptLaw.published().evidence.ranges)
    if runs is not None:
        columns = inputs(runs.schedules, runs.budgets, ("peak_lr", "warmup", "final_lr"))
        ranges |= {name: (float(values.min()), float(values.max())) for name, values in columns.items()}
    return ranges if law is None else {**ranges, **law.evidence.ranges}
