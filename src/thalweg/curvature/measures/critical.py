"""Critical sharpness: the learning rate at which this step would have raised its own loss, from forward passes alone."""

from __future__ import annotations

import math
from dataclasses import dataclass
from typing import ClassVar

from thalweg.curvature.searching.certified import search
from thalweg.curvature.searching.scanning import scan_below
from thalweg.curvature.searching.search_memory import SearchMemory
from thalweg.curvature.steps.step import Step
from thalweg.outcomes import Outcome
from thalweg.results import Result
from thalweg.units import format_lr

__all__ = ["Critical", "critical_measure", "critical_sharpness", "memory_of"]


@dataclass(frozen=True, slots=True)
class Critical(Result):
    """How far one step could have gone.

    Attributes:
        multiple: m_c, the multiple of the step at which its loss is back where it began; the margin [1]. Under 1, the step
            raised its own loss; 0 where it climbs from the start.
        lower, upper: certified interval around it [1]; upper = ∞ where the loss never rose.
        lr: learning rate η of the step [1].
        critical_lr: η_c = m_c η [1].
        sharpness: λ_c = 2 / η_c [1/lr]; its threshold is 2 / η.
        forward_passes: evaluations of the loss spent here [count].
        outcome: OK, or why there is no number; numbers that were not measured are NaN.
    """

    sources: ClassVar[tuple[str, ...]] = ("critical-sharpness",)

    multiple: float
    lower: float
    upper: float
    lr: float
    critical_lr: float
    sharpness: float
    forward_passes: int
    outcome: Outcome

    def summary(self) -> str:
        """The margin with its interval, or the outcome's sentence."""
        if self.outcome is not Outcome.OK:
            return f"{self.outcome.name}: {self.outcome.value}"
        return (
            f"margin {self.multiple:.4g} [1] ({self.lower:.4g} to {self.upper:.4g}): this step becomes unstable at "
            f"lr {format_lr(self.critical_lr)} (it ran at {format_lr(self.lr)}); critical sharpness {self.sharpness:.4g} [1/lr]"
        )


def critical_sharpness(
    step: Step,
    *,
    tolerance: float = 1 / 16,
    guess: float | None = None,
    memory: SearchMemory | None = None,
    scan: bool = False,
) -> Critical:
    """Critical learning rate and sharpness along an applied update.

    η_c = min {η > 0 | L(θ - ηΔθ) > L(θ)} and λ_c = 2/η_c, bracketed by a certified `search` along the step. It
    finds a crossing; where the loss crosses several times it need not be the first, unless `scan` looks for it.

    Args:
        step: from `capture`, `Step.between` or a probe.
        tolerance: 1 - lower/upper at the end [1].
        guess: first multiple to try [1]; 1, the step itself, by default. Not used where `memory` has a prediction.
        memory: what earlier measurements of this run have taught; updated in place, by the search and not by the scan.
        scan: look on a grid below the crossing for an earlier one, ten evaluations at most, and about seven more where there
            is one; `scanning.scan_below` says what it can find.

    Raises:
        ThalwegError: a guess or tolerance out of range, a closure that changes gradients.

    Source: critical-sharpness paper, Eq. 1, Definition 2.1, Algorithms 1 and 2.

    Example:
        Gradient descent on 3x²/2: the critical sharpness is the curvature 3, the margin is (2/η)/3.

        >>> import torch
        >>> from thalweg.curvature.steps.step import capture
        >>> x = torch.nn.Parameter(torch.ones(1, dtype=torch.float64))
        >>> optimizer = torch.optim.SGD([x], lr=0.1)
        >>> closure = lambda: 1.5 * (x**2).sum()
        >>> closure().backward()
        >>> with capture(torch.nn.ParameterList([x]), optimizer, closure) as step:
        ...     optimizer.step()
        >>> critical = critical_sharpness(step, tolerance=1e-4)
        >>> round(critical.sharpness, 3), round(critical.multiple, 3)
        (3.0, 6.667)
    """
    spent = step.forward_passes
    outcome = step.obstacle()
    multiple = lower = upper = sharpness = math.nan
    if outcome is Outcome.OK:
        found = search(
            step.at,
            guess=guess or 1.0,
            slope=step.slope,
            tolerance=tolerance,
            memory=memory,
            rounding=step.rounding,
        )
        if scan:
            found = scan_below(step.at, found, tolerance=tolerance, rounding=step.rounding)
        outcome, lower, upper = found.outcome, found.lower, found.upper
        if outcome is Outcome.OK:
            multiple = found.centre
        elif outcome is Outcome.NOT_DESCENT:
            multiple = 0.0
    critical_lr = multiple * step.lr
    if not math.isnan(critical_lr):
        sharpness = 2 / critical_lr if critical_lr > 0 else math.inf
    return Critical(multiple, lower, upper, step.lr, critical_lr, sharpness, step.forward_passes - spent, outcome)


def critical_measure(step: Step, *, scan: bool = False) -> dict[str, float]:
    """The row of `critical_sharpness`, with a memory of the critical learning rates measured before.

    Keys: `sharpness/critical` [1/lr], `sharpness/threshold_critical` = 2/η [1/lr], `lr/critical` [1], `stability/margin` [1].
    """
    critical = critical_sharpness(step, memory=memory_of(step, "search"), scan=scan)
    step.report(critical.outcome)
    return {
        "sharpness/critical": critical.sharpness,
        "sharpness/threshold_critical": 2 / step.lr if step.lr > 0 else math.inf,
        "lr/critical": critical.critical_lr,
        "stability/margin": critical.multiple,
    }


def memory_of(step: Step, name: str) -> SearchMemory:
    """What the searches of that name along earlier steps have taught, told in multiples of this step.

    It lives in `step.memory`, which a probe hands on from step to step and through its `state_dict`.
    """
    memory: SearchMemory = step.memory.setdefault(name, SearchMemory())
    memory.convert(step.lr)
    return memory
