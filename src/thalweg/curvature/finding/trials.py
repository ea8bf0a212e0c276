"""Trial trainings from a checkpoint: at which learning rate does a run that goes on from here end higher than it began?"""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.curvature.finding.twins import set_lrs, twin_optimizer
from thalweg.curvature.steps.untouched import RandomState, untouched
from thalweg.curvature.steps.weights import restored
from thalweg.figures import Figure, Line, Threshold
from thalweg.results import Result
from thalweg.units import format_lr

__all__ = ["Trials", "try_lrs"]

RATIO = math.sqrt(2)  # of the bracket at the end
STRIDE = 4.0  # between trials while nothing is bracketed
MOST = 12  # trials without a bracket
SCREENED = 0.25  # the share of the steps that tells where full trials begin
JUDGED = 0.2  # the share of the batches, the last ones, that a trial is judged on


@dataclass(frozen=True, slots=True)
class Trials(Result):
    """Short trainings from one checkpoint on the same batches, each at its own constant learning rate.

    A trial diverges where its loss on the last fifth of the batches, while it trains, is higher than theirs at the
    checkpoint, or is no longer finite.

    Attributes:
        lrs: of the trials, rising (n,) [1].
        losses: the mean over the last fifth of the batches, each before its own step (n,) [loss]; ∞ where not finite.
        start: the same batches' mean loss at the checkpoint [loss].
        steps: of one trial [count].
        spent: steps made by all of them, the shorter ones that came before and stand nowhere else included [count].

    Example:
        >>> trials = Trials(np.array([0.1, 0.2, 0.4]), np.array([1.0, 1.5, np.inf]), start=2.0, steps=100, spent=300)
        >>> trials.lower, trials.upper, round(trials.edge, 6)
        (0.2, 0.4, 0.282843)
    """

    lrs: NDArray[np.float64]
    losses: NDArray[np.float64]
    start: float
    steps: int
    spent: int

    @property
    def upper(self) -> float:
        """The lowest learning rate from which on all trials diverged [1]; ∞ where the highest did not."""
        lower = self.lower
        return float(min(self.lrs[self.lrs > lower], default=math.inf))

    @property
    def lower(self) -> float:
        """The highest learning rate whose trial did not diverge [1]; 0 where all did."""
        return float(max(self.lrs[self.losses <= self.start], default=0.0))

    @property
    def edge(self) -> float:
        """The middle of the two, by ratio [1]: 0 or ∞ where one side has no trial."""
        return math.sqrt(self.lower) * math.sqrt(self.upper) if self.lower else 0.0

    def summary(self) -> str:
        """Where training diverges, and what it cost to know."""
        cost = f"trials of {self.steps} steps, {self.spent} steps in all"
        if not self.lower:
            return f"no trial ended under its start, down to lr {format_lr(float(self.lrs[0]))} ({cost})"
        if math.isinf(self.upper):
            return f"no trial diverged, up to lr {format_lr(self.lower)} ({cost})"
        return f"training diverges between lr {format_lr(self.lower)} and {format_lr(self.upper)} ({cost})"

    def figures(self) -> tuple[Figure, ...]:
        """Loss at the end of each trial over its learning rate, and the loss that they began with."""
        finite = np.isfinite(self.losses)
        positive = min(self.start, *self.losses[finite], math.inf) > 0
        marks: list[Line | Threshold] = [Threshold(self.start, "at the checkpoint")]
        if finite.any():
            marks.append(Line(self.lrs[finite], self.losses[finite], f"after {self.steps} steps"))
        if 0 < self.edge < math.inf:
            marks.append(Threshold(self.edge, f"edge {format_lr(self.edge)}", axis="x"))
        return (
            Figure(
                "Trial trainings",
                tuple(marks),
                x_label="lr [1]",
                y_label="loss",
                x_scale="log",
                y_scale="log" if positive else "linear",
                caption=f"{self.summary()}.",
                name="trials",
            ),
        )


def try_lrs(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Sequence[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    *,
    lrs: Sequence[float],
    guess: float,
    steps: int,
) -> Trials:
    """Train from here at constant learning rates until the one where training diverges is known to a factor of √2.

    All trials see the same batches in the same order, with the same random numbers. The model and its optimizer are
    bit-identical afterwards.

    Args:
        model: in the mode that it trains in.
        optimizer: it is copied with all it remembers for each trial.
        batches: at least one; used again from the first where they are fewer than the steps.
        loss_fn: (model, batch) → mean loss.
        lrs: of the groups; a trial keeps their ratios [1].
        guess: the first trial's learning rate of the first group [1].
        steps: of one trial [count].

    Example:
        Gradient descent on 2x²: it diverges above lr 2/4.

        >>> model = nn.ParameterList([nn.Parameter(torch.ones(1, dtype=torch.float64))])
        >>> optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
        >>> trials = try_lrs(model, optimizer, [2.0], lambda m, a: a * m[0].sum() ** 2, lrs=[0.1], guess=0.1, steps=50)
        >>> trials.lower < 0.5 < trials.upper < 1.5 * trials.lower, model[0].item()
        (True, 1.0)
    """
    state = RandomState.now()
    spent = 0

    def tried(count: int, guess: float, stride: float) -> tuple[dict[float, float], float]:
        """Loss at the end by learning rate, and the loss at the start, of trials of so many steps."""
        order = [batches[i % len(batches)] for i in range(count)]
        judged = max(1, round(JUDGED * count))
        start = _start(model, order[-judged:], loss_fn)
        ends: dict[float, float] = {}

        def diverges(lr: float) -> bool:
            nonlocal spent
            state.restore()
            losses = _train(model, optimizer, order, loss_fn, [lr / lrs[0] * group for group in lrs])
            spent += len(losses)
            ends[lr] = float(np.mean(losses[-judged:])) if len(losses) == count else math.inf
            return not ends[lr] <= start

        _bracket(diverges, guess, stride)
        return dict(sorted(ends.items())), start

    ends, start = tried(max(1, round(SCREENED * steps)), guess, STRIDE)
    screened = _trials(ends, start, 0, 0)
    near = screened.edge if 0 < screened.edge < math.inf else screened.lower or min(ends)
    return _trials(*tried(steps, near, RATIO), steps, spent)


def _bracket(diverges: Callable[[float], bool], guess: float, stride: float) -> None:
    """Ask until the highest learning rate that does not diverge and the lowest that does are a factor √2 apart."""
    lower, upper, lr = 0.0, math.inf, guess
    for _ in range(MOST):
        if diverges(lr):
            upper, lr = lr, lr / stride
        else:
            lower, lr = lr, lr * stride
        if lower and math.isfinite(upper):
            break
        stride = min(stride**2, STRIDE)
    while lower and math.isfinite(upper) and upper > 1.001 * RATIO * lower:
        lr = math.sqrt(lower * upper)
        lower, upper = (lower, lr) if diverges(lr) else (lr, upper)


def _trials(ends: dict[float, float], start: float, steps: int, spent: int) -> Trials:
    return Trials(np.array(list(ends)), np.array(list(ends.values())), start, steps, spent)


def _start(model: nn.Module, batches: Sequence[Any], loss_fn: Callable[[nn.Module, Any], Tensor]) -> float:
    """Mean loss at the checkpoint, without a step [loss]."""
    with untouched(model), torch.no_grad():
        return float(np.mean([float(loss_fn(model, batch)) for batch in batches]))


def _train(
    model: nn.Module,
    optimizer: Optimizer,
    batches: Sequence[Any],
    loss_fn: Callable[[nn.Module, Any], Tensor],
    lrs: list[float],
) -> list[float]:
    """The loss of each batch before its step, up to the first that is not finite."""
    trained = [p for p in model.parameters() if p.requires_grad]
    losses: list[float] = []
    with restored(model) as written, torch.enable_grad():
        made = twin_optimizer(optimizer, {id(p): p for p in model.parameters()})
        set_lrs(made, lrs)
        for batch in batches:
            loss = loss_fn(model, batch)
            gradients = torch.autograd.grad(loss, trained, allow_unused=True)
            losses.append(loss.item())
            if not math.isfinite(losses[-1]):
                return losses[:-1]
            for parameter, gradient in zip(trained, gradients, strict=True):
                parameter.grad = gradient
            made.step()
            for parameter in trained:
                parameter.grad = None  # `restored` refuses gradients that are left: they would be taken for the run's
            written()
    return losses
