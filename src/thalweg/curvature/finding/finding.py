"""The learning rates that this checkpoint tolerates, for a step and for a run; nothing is different afterwards."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterable, Iterator, Sequence
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.curvature.finding.band import Band
from thalweg.curvature.finding.trials import try_lrs
from thalweg.curvature.finding.twins import set_lrs, twin, twin_optimizer
from thalweg.curvature.measures.critical import critical_sharpness
from thalweg.curvature.steps.distributed import ranks, refuse_sharded, unwrap_model
from thalweg.curvature.steps.hooks import unwrap
from thalweg.curvature.steps.replay import default_loss, moved, unheard
from thalweg.curvature.steps.step import Step
from thalweg.curvature.steps.untouched import RandomState, untouched
from thalweg.outcomes import Outcome, bad_input

__all__ = ["find_lr"]

TOLERANCE = 1 / 64  # of one critical learning rate; batches differ by more
NOTE = (
    "Asked at this checkpoint: curvature moves during training, most of all in warmup; re-ask after warmup. "
    "The gradient is not clipped."
)


def find_lr(
    model: nn.Module,
    optimizer: Any,
    batches: Iterable[Any],
    *,
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    limit: int = 16,
    steps: int = 100,
) -> Band:
    """The learning rate from which on training diverges from here, and what a single step would tolerate.

    Edge: short trainings at constant learning rates, all on the same batches, bisect to a factor of √2 where a run ends at
    a higher loss than it began with. One step that raises its own batch's loss is not yet a run that diverges; many
    optimizers and losses recover from it.

    Single steps: for each batch a copy of the optimizer, with its momentum and moments as they are, makes one step on a copy
    of the weights; the loss is then followed along that update to where it is back at its beginning. With several parameter
    groups each group's part of the update is followed alone too, the others held still.

    Afterwards everything is bit-identical: weights, gradients, buffers, flags, optimizer state, hooks, schedulers and
    global random states. A loader is iterated once, for at most `steps` batches, which are kept; a generator of its own
    moves on. While it runs there are three copies of the weights and one of the optimizer's state. It costs 2 to 7
    times `steps` training steps, mostly 3 (measured in benchmarks/find_lr.py); a run that is no longer finite is ended at once.

    A group whose learning rate is 0 is asked at its `initial_lr`, which schedulers write down: the first step of a warmup.

    Args:
        model: in the mode that it trains in.
        optimizer: any torch optimizer whose step needs no closure, fresh or in the middle of a run; or a wrapper of one.
        batches: a batch a step: (x, y), or dicts with `input_ids` and `labels`, or whatever `loss_fn` takes.
        loss_fn: (model, batch) → mean loss, a differentiable scalar; `default_loss` by default.
        limit: of batches for single steps [count].
        steps: of a trial training; batches are used again where there are fewer; 0: none are made [count].

    Returns:
        `Band` with `safe`, `edge`, `spread` in units of the first group's learning rate, the `trials`, and a band of single
        steps for each group in its own. Batches whose update climbed count as 0; those without a crossing are left out, and
        the note says so.

    Raises:
        ThalwegError: no batch, LBFGS, no learning rate above 0, several ranks or sharded weights.

    Source: critical-sharpness paper, Eq. 1 and Definition 2.1, on an update that was not applied; the trials are ours.

    Example:
        Gradient descent on 3x²/2: the critical learning rate is 2/3, for a step and for a run.

        >>> x = nn.Parameter(torch.ones(1, dtype=torch.float64))
        >>> optimizer = torch.optim.SGD([x], lr=0.01)
        >>> band = find_lr(
        ...     nn.ParameterList([x]),
        ...     optimizer,
        ...     [1.0, 1.0],
        ...     loss_fn=lambda model, scale: scale * 1.5 * model[0].sum() ** 2,
        ... )
        >>> abs(band.typical - 2 / 3) < 2 / 3 / 64, band.trials.lower < 2 / 3 < band.trials.upper, x.item()
        (True, True, 1.0)
    """
    if isinstance(batches, tuple | dict):
        raise bad_input("batches", type(batches).__name__, "an iterable of batches", "Write batches=[batch]")
    if limit < 1:
        raise bad_input("limit", limit, "at least one batch for single steps", "Write limit=16")
    if steps < 0:
        raise bad_input("steps", steps, "a number of steps", "Write steps=100, or steps=0 for no trials")
    model, inner = unwrap_model(model), unwrap(optimizer)
    refuse_sharded("find_lr", model.parameters())
    if ranks() > 1:
        raise bad_input("find_lr", f"{ranks()} ranks", "one process", "Ask a checkpoint on one process")
    if isinstance(inner, torch.optim.LBFGS):
        raise bad_input("optimizer", "LBFGS", "one whose step needs no closure")
    lrs = _lrs(inner)
    parts = ["all groups", *(f"group {i}" for i in range(len(lrs)) if len(lrs) > 1)]
    found: dict[str, list[float]] = {name: [] for name in parts}
    guesses: dict[str, float] = {}
    missed: list[Outcome] = []
    loss_fn = loss_fn or default_loss
    state = RandomState.now()
    trials = None
    try:
        device = next((p.device for p in model.parameters()), torch.device("cpu"))
        taken = [moved(batch, device) for batch in itertools.islice(batches, max(limit, steps))]
        with unheard():
            for batch in taken[:limit]:
                for name, step in zip(parts, _steps(model, inner, batch, loss_fn, lrs), strict=True):
                    critical = critical_sharpness(step, tolerance=TOLERANCE, guess=guesses.get(name))
                    if critical.outcome is Outcome.OK:
                        guesses[name] = critical.multiple
                    if critical.outcome in (Outcome.OK, Outcome.NOT_DESCENT):
                        found[name].append(critical.critical_lr)
                    elif name == parts[0]:
                        missed.append(critical.outcome)
            if steps and found[parts[0]]:
                guess = float(np.median(found[parts[0]])) or lrs[0]
                trials = try_lrs(model, inner, taken, loss_fn, lrs=lrs, guess=guess, steps=steps)
    finally:
        state.restore()
    if not taken:
        raise bad_input("batches", batches, "at least one batch", "Write for example batches=[batch]")
    note = f"{len(missed)} batches gave no number, {missed[0].name}: {missed[0].value} {NOTE}" if missed else NOTE
    whole, *alone = (np.array(values) for values in found.values())
    groups = tuple(Band(values, lr, name) for values, lr, name in zip(alone, lrs, parts[1:], strict=False))
    return Band(whole, lrs[0], parts[0], groups, note, trials)


def _lrs(optimizer: Optimizer) -> list[float]:
    """Each group's learning rate as it is asked at."""
    lrs = [float(group["lr"]) or float(group.get("initial_lr", 0.0)) for group in optimizer.param_groups]
    if not lrs[0] > 0:
        raise bad_input(
            "optimizer", f"lr {lrs[0]}", "a learning rate above 0", "Set one; the answer does not depend on it"
        )
    return lrs


def _steps(
    model: nn.Module,
    optimizer: Optimizer,
    batch: Any,
    loss_fn: Callable[[nn.Module, Any], Tensor],
    lrs: Sequence[float],
) -> Iterator[Step]:
    """The update of the whole optimizer, and where there are several groups the part of each."""
    named = list(model.parameters())
    trained = [p for p in named if p.requires_grad]
    with untouched(model), torch.enable_grad():
        gradients = torch.autograd.grad(loss_fn(model, batch), trained, allow_unused=True)
    twins = {id(p): twin(p, None) for p in named}
    twins |= {id(p): twin(p, g) for p, g in zip(trained, gradients, strict=True)}
    copied = twin_optimizer(optimizer, twins)
    set_lrs(copied, lrs)
    copied.step()

    def moved_only(parameters: Iterable[Tensor], lr: float) -> Step:
        chosen = {id(p) for p in parameters}
        after = [twins[id(p)] if id(p) in chosen else p for p in named]
        return Step.between(named, after, model, lambda: loss_fn(model, batch), lr=lr)

    groups = [group["params"] for group in optimizer.param_groups]
    yield moved_only(itertools.chain(*groups), lrs[0])
    if len(groups) > 1:
        yield from (moved_only(parameters, lr) for parameters, lr in zip(groups, lrs, strict=True))
