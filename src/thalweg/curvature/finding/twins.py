"""Twins of an optimizer and of parameters: steps that are made beside a run, with all that its optimizer remembers."""

from __future__ import annotations

import copy
from collections import OrderedDict
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.outcomes import ThalwegError

__all__ = ["set_lrs", "twin", "twin_optimizer"]


def twin(parameter: Tensor, gradient: Tensor | None) -> nn.Parameter:
    """A parameter with the same values, in memory of its own, and this gradient."""
    made = nn.Parameter(parameter.detach().clone(), requires_grad=parameter.requires_grad)
    made.grad = gradient
    return made


def twin_optimizer(optimizer: Optimizer, twins: Mapping[int, Tensor]) -> Optimizer:
    """The optimizer with all it remembers, on other parameters; without hooks and without a scheduler's patches.

    Args:
        optimizer: any torch optimizer; it is only read.
        twins: id of a parameter → the tensor that takes its place.

    Raises:
        ThalwegError: a parameter without a twin.

    Example:
        >>> p, q = (nn.Parameter(torch.ones(1)) for _ in range(2))
        >>> made = twin_optimizer(torch.optim.SGD([p], lr=0.1, momentum=0.9), {id(p): q})
        >>> made.param_groups[0]["params"][0] is q, made.param_groups[0]["momentum"]
        (True, 0.9)
    """
    outside = [p for group in optimizer.param_groups for p in group["params"] if id(p) not in twins]
    if outside:
        raise ThalwegError(
            f"optimizer: {len(outside)} of its parameters are not the model's, expected one for this model. "
            "Pass the model that the optimizer was made for."
        )
    hooks = {key: OrderedDict[int, Any]() for key in vars(optimizer) if key.endswith("_hooks")}
    kept = {key: value for key, value in vars(optimizer).items() if key != "step" and key not in hooks}
    made: Optimizer = object.__new__(type(optimizer))
    vars(made).update(copy.deepcopy(kept, dict(twins)), **hooks)
    return made


def set_lrs(optimizer: Optimizer, lrs: Sequence[float]) -> None:
    """Give each group its learning rate [1], as a tensor where it is one."""
    for group, lr in zip(optimizer.param_groups, lrs, strict=True):
        group["lr"] = torch.full_like(group["lr"], lr) if isinstance(group["lr"], Tensor) else lr
