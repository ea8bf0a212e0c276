"""The edge of stability: the curvature above which an optimizer's steps no longer settle on a quadratic."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import torch

from thalweg.curvature.steps.hooks import unwrap
from thalweg.results import Result

__all__ = ["Threshold", "edge_of_stability", "why_no_edge"]


@dataclass(frozen=True, slots=True)
class Threshold(Result):
    """A threshold of sharpness.

    Attributes:
        value: largest stable eigenvalue [1/lr].
        measure: the eigenvalue it is for, "hessian" or "preconditioned".
        optimizer: "gd", "heavy ball", "nesterov", "adam" or "adamw".
        formula: of the value, with lr, momentum, dampening, decay, beta1.
        note: a reservation, or "".
    """

    sources: ClassVar[tuple[str, ...]] = ("critical-sharpness",)

    value: float
    measure: str
    optimizer: str
    formula: str
    note: str = ""

    def summary(self) -> str:
        """The threshold in one line."""
        return f"{self.optimizer}: {self.measure} sharpness is stable up to {self.formula} = {self.value:.6g} [1/lr]. {self.note}".rstrip()


def edge_of_stability(optimizer: Any) -> Threshold | None:
    """The largest stable eigenvalue for torch's SGD, Adam and AdamW as they are set now; None where no constant one exists.

    With η = lr, γ = weight_decay, μ = momentum, τ = dampening: gradient descent 2/η - γ; heavy ball
    2(1+μ)/(η(1-τ)) - γ; Nesterov 2(1+μ)/(η(1+2μ)) - γ, all for the Hessian. Adam without decay (2/η)(1+β1)/(1-β1), AdamW
    (2/η - γ)(1+β1)/(1-β1), for the preconditioned Hessian with P = (1 - β1^t)(√v̂ + ε). Where groups differ only in decay,
    the largest counts. None for Adam with coupled decay (its shift depends on P), amsgrad, maximize, groups that differ in
    anything else, other optimizers: `why_no_edge` says which.

    Source: critical-sharpness paper, appendix D.2, Eq. 5 (the proof's last line; the box of Result D.4 drops a factor).

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> round(edge_of_stability(torch.optim.SGD([x], lr=0.1, momentum=0.9)).value, 6)
        38.0
        >>> round(edge_of_stability(torch.optim.AdamW([x], lr=0.1, weight_decay=1.0)).value, 6)
        361.0
    """
    found = _threshold(optimizer)
    return found if isinstance(found, Threshold) else None


def why_no_edge(optimizer: Any) -> str:
    """Why `edge_of_stability` is None here, or "" where it is not.

    Example:
        >>> x = torch.zeros(1, requires_grad=True)
        >>> why_no_edge(torch.optim.Adam([x], weight_decay=0.1))
        'Adam with coupled weight decay: the shift depends on the preconditioner, no constant threshold exists.'
    """
    found = _threshold(optimizer)
    return found if isinstance(found, str) else ""


def _threshold(optimizer: Any) -> Threshold | str:
    inner = unwrap(optimizer)
    groups = inner.param_groups
    if any(group.get("maximize") for group in groups):
        return "maximize=True: the thresholds are those of descent."
    if type(inner) is torch.optim.SGD:
        return _sgd(groups)
    if type(inner) in (torch.optim.Adam, torch.optim.AdamW):
        return _adam(groups, decoupled=type(inner) is torch.optim.AdamW)
    return f"{type(inner).__name__}: no threshold is known here; SGD, Adam and AdamW have one."


def _sgd(groups: Sequence[Mapping[str, Any]]) -> Threshold | str:
    settings = _common(groups, ("lr", "momentum", "dampening", "nesterov"))
    if isinstance(settings, str):
        return settings
    (lr, momentum, dampening, nesterov), decay, note = settings
    if momentum == 0:
        return Threshold(2 / lr - decay, "hessian", "gd", "2/lr - decay", note)
    if nesterov:
        value = 2 * (1 + momentum) / (lr * (1 + 2 * momentum)) - decay
        return Threshold(value, "hessian", "nesterov", "2(1 + momentum)/(lr(1 + 2 momentum)) - decay", note)
    if dampening == 1:
        return "dampening=1: the gradient enters once, there is no threshold."
    value = 2 * (1 + momentum) / (lr * (1 - dampening)) - decay
    return Threshold(value, "hessian", "heavy ball", "2(1 + momentum)/(lr(1 - dampening)) - decay", note)


def _adam(groups: Sequence[Mapping[str, Any]], *, decoupled: bool) -> Threshold | str:
    if any(group["amsgrad"] for group in groups):
        return "amsgrad=True: the preconditioner keeps its largest values, no threshold is known."
    # Since torch 2.7 the group says how decay is applied, not the class: Adam can decouple it too.
    if any(group["weight_decay"] and not group.get("decoupled_weight_decay", decoupled) for group in groups):
        return "Adam with coupled weight decay: the shift depends on the preconditioner, no constant threshold exists."
    settings = _common(groups, ("lr", "beta1"))
    if isinstance(settings, str):
        return settings
    (lr, beta1), decay, note = settings
    factor = (1 + beta1) / (1 - beta1)
    if decay == 0:
        return Threshold(2 / lr * factor, "preconditioned", "adam", "(2/lr)(1 + beta1)/(1 - beta1)", note)
    value = (2 / lr - decay) * factor
    return Threshold(value, "preconditioned", "adamw", "(2/lr - decay)(1 + beta1)/(1 - beta1)", note)


def _common(groups: Sequence[Mapping[str, Any]], names: Sequence[str]) -> tuple[tuple[float, ...], float, str] | str:
    """The settings all groups share, the largest decay and a note on it; or which setting differs."""

    def setting(group: Mapping[str, Any], name: str) -> float:
        return float(group["betas"][0] if name == "beta1" else group[name])

    rows = [tuple(setting(group, name) for name in names) for group in groups]
    for name, values in zip(names, zip(*rows, strict=True), strict=True):
        if len(set(values)) > 1:
            return f"parameter groups differ in {name}: one threshold does not fit them."
    if rows[0][0] <= 0:
        return "lr is 0: every curvature is stable."
    decays = {float(group["weight_decay"]) for group in groups}
    note = f"groups differ in weight decay; the largest, {max(decays):g}, counts." if len(decays) > 1 else ""
    return rows[0], max(decays), note
