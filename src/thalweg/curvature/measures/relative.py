"""Relative critical sharpness: how far a step of one loss can go before it raises another."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from thalweg.curvature.measures.critical import Critical, critical_sharpness, memory_of
from thalweg.curvature.searching.search_memory import SearchMemory
from thalweg.curvature.steps.step import Step
from thalweg.outcomes import Outcome
from thalweg.units import format_lr

__all__ = ["RelativeCritical", "relative_critical_sharpness", "relative_measure"]


@dataclass(frozen=True, slots=True)
class RelativeCritical(Critical):
    """`Critical` along an update that was made for one loss, where another loss is asked.

    `multiple`, `critical_lr` and `sharpness` are those of the other loss. Where the update raises it at once, the outcome is
    NOT_DESCENT, `critical_lr` is 0 and `sharpness` is ∞.
    """

    def summary(self) -> str:
        """Where the other loss is back where it began, that it rises at once, or the outcome's sentence."""
        if self.outcome is Outcome.NOT_DESCENT:
            return "this update raises the other loss at once: relative critical lr 0, sharpness ∞"
        if self.outcome is Outcome.NOT_BRACKETED:
            return "NOT_BRACKETED: this update does not raise the other loss, however far it goes"
        if self.outcome is not Outcome.OK:
            return f"{self.outcome.name}: {self.outcome.value}"
        return (
            f"this update lowers the other loss up to lr {format_lr(self.critical_lr)} (it ran at {format_lr(self.lr)}), "
            f"{self.multiple:.4g} times the step; relative critical sharpness {self.sharpness:.4g} [1/lr]"
        )


def relative_critical_sharpness(
    step: Step,
    loss: Callable[[], Any],
    *,
    tolerance: float = 1 / 16,
    guess: float | None = None,
    memory: SearchMemory | None = None,
    scan: bool = False,
) -> RelativeCritical:
    """Critical learning rate and sharpness of a loss L1 along an update that another loss L2 made.

    η_c = min {η > 0 | L1(θ - ηΔθ2) > L1(θ)} and λ_c = 2/η_c, by the search of `critical_sharpness` and with its guarantees:
    weights, buffers, gradients and random states come back bit for bit.

    Args:
        step: the update of L2, from `capture`, `Step.between` or a probe.
        loss: zero-argument callable → L1 [loss]; no backward, no zero_grad. Its batch stays the same from call to call.
        tolerance: as in `critical_sharpness`.
        guess: as in `critical_sharpness`.
        memory: what earlier measurements of this loss in this run have taught; updated in place.
        scan: as in `critical_sharpness`.

    Raises:
        ThalwegError: as in `critical_sharpness`.

    Source: critical-sharpness paper, Definition 4.1.

    Example:
        The step goes from x = 3 towards 0; (x - 2)² is back where it began at x = 1, so at 2/3 of the way to 0.

        >>> import torch
        >>> from thalweg.curvature.steps.step import Step
        >>> model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))])
        >>> step = Step.between([torch.tensor([3.0])], [torch.tensor([0.0])], model, lambda: model[0] ** 2, lr=0.5)
        >>> found = relative_critical_sharpness(step, lambda: (model[0] - 2) ** 2, tolerance=1e-6)
        >>> round(found.multiple, 4), round(found.critical_lr, 4), round(found.sharpness, 4)
        (0.6667, 0.3333, 6.0)
        >>> relative_critical_sharpness(step, lambda: (model[0] - 4) ** 2).summary()
        'this update raises the other loss at once: relative critical lr 0, sharpness ∞'
    """
    other = step.under(loss)
    found = critical_sharpness(other, tolerance=tolerance, guess=guess, memory=memory, scan=scan)
    step.forward_passes += other.forward_passes
    return RelativeCritical(
        found.multiple,
        found.lower,
        found.upper,
        found.lr,
        found.critical_lr,
        found.sharpness,
        found.forward_passes,
        found.outcome,
    )


def relative_measure(losses: Mapping[str, Callable[[], Any]]) -> Callable[[Step], dict[str, float]]:
    """A measure for probes: `relative_critical_sharpness` of every task, under `sharpness/relative/<task>` [1/lr].

    Put it into `MEASURES` under a name of its own. Each task has a memory of its own, as the critical measure has. A task
    whose loss rises at once has no row value (λ = ∞ is not a number that logs take), and the row's outcome says NOT_DESCENT.

    Args:
        losses: task → zero-argument callable → loss.

    Example:
        >>> import torch
        >>> model = torch.nn.ParameterList([torch.nn.Parameter(torch.tensor([3.0], dtype=torch.float64))])
        >>> measure = relative_measure({"two": lambda: (model[0] - 2) ** 2, "four": lambda: (model[0] - 4) ** 2})
        >>> step = Step.between([torch.tensor([3.0])], [torch.tensor([0.0])], model, lambda: model[0] ** 2, lr=0.5)
        >>> row = measure(step)
        >>> 5.5 < row["sharpness/relative/two"] < 6.5, row["sharpness/relative/four"], step.outcome.name
        (True, inf, 'NOT_DESCENT')
    """

    def measure(step: Step) -> dict[str, float]:
        row = {}
        for task, loss in losses.items():
            found = relative_critical_sharpness(step, loss, memory=memory_of(step, f"search/relative/{task}"))
            step.report(found.outcome)
            if not math.isnan(found.sharpness):
                row[f"sharpness/relative/{task}"] = found.sharpness
        return row

    return measure
