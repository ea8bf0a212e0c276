"""What a whole-curve law sums over a run: learning rates, and their changes from step to step."""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np
from numpy.typing import NDArray

__all__ = ["Drops", "drops", "lag_sum"]

Floats = NDArray[np.float64]
Integers = NDArray[np.intp]


@dataclass(frozen=True, slots=True, eq=False)
class Drops:
    """The steps of a run at which its learning rate changed, and the steps at which its loss is asked for.

    Attributes:
        steps: where the loss is asked for, shape (points,).
        area: Σ η of steps 0 to there, shape (points,).
        at: the steps k ≥ 1 with η_k ≠ η_{k−1}, shape (drops,); the last of its group where drops were grouped.
        size: η_{k−1} − η_k, shape (drops,); negative where the rate rises (warmup).
        log_lr: log η_k, shape (drops,).
        before: Σ η of steps 0 to k − 1, shape (drops,).
    """

    steps: Integers
    area: Floats
    at: Integers
    size: Floats
    log_lr: Floats
    before: Floats

    def since(self) -> Floats:
        """S_k(t) = Σ η of steps k to t, shape (points, drops); 0 where the drop lies ahead of the point."""
        return np.maximum(self.area[:, None] - self.before, 0.0)


def drops(lrs: Floats, steps: Integers, *, group: int = 1) -> Drops:
    """The drops of a schedule; steps of equal learning rate cost nothing.

    Args:
        lrs: the learning rate of every step, shape (steps of the run,).
        steps: where the loss is asked for, shape (points,).
        group: replace the drops of one sign within so many steps, and between two points, by one at their mean (of log η_k
            and of Σ η, weighted by size). A sum over drops of a smooth function then errs in second order; 1 is exact.

    Example:
        >>> found = drops(np.array([2.0, 2.0, 1.0, 1.0, 0.5]), np.array([1, 4]))
        >>> print(found.at, found.size, found.area)
        [2 4] [1.  0.5] [4.  6.5]
        >>> print(found.since())
        [[0.  0. ]
         [2.5 0.5]]
    """
    area = np.cumsum(lrs)
    at = np.flatnonzero(np.diff(lrs)) + 1
    size = lrs[at - 1] - lrs[at]
    with np.errstate(divide="ignore"):
        log_lr = np.log(lrs[at])
    before = area[at - 1]
    if group > 1 and at.size:
        block = at // group
        # a rate of 0 has no logarithm to average and stays alone
        alone = ~np.isfinite(log_lr)
        felt = np.searchsorted(np.sort(steps), at)  # a group must not be half ahead of a point
        new = (np.diff(block) != 0) | (np.diff(felt) != 0) | (np.diff(np.sign(size)) != 0) | alone[1:] | alone[:-1]
        starts = np.flatnonzero(np.concatenate([[True], new]))
        total = np.add.reduceat(size, starts)
        log_lr = np.add.reduceat(size * log_lr, starts) / total
        before = np.add.reduceat(size * before, starts) / total
        at, size = at[np.append(starts[1:], len(at)) - 1], total
    return Drops(steps, area[steps], at, size, log_lr, before)


def lag_sum(lrs: Floats, memory: float) -> Floats:
    """S2 at every step: Σ_{i ≤ t} Σ_{k ≤ i} (η_{k−1} − η_k) · memory^(i−k), shape (steps of the run,).

    Source: Tissue et al. 2024, the annealing area: a drop of the learning rate acts with a momentum of `memory` a step.

    Example:
        >>> lag_sum(np.array([1.0, 1.0, 0.5, 0.5]), 0.5)
        array([0.  , 0.  , 0.5 , 0.75])
    """
    from scipy.signal import lfilter

    momentum = lfilter([1.0], [1.0, -memory], -np.diff(lrs, prepend=lrs[0]))
    return np.asarray(np.cumsum(momentum))
