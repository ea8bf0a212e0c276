"""The diagonal preconditioner P that an optimizer divides its update by, read from its state."""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.optim import Optimizer

from thalweg.outcomes import bad_input

__all__ = ["check_preconditioner", "preconditioner_of"]


def preconditioner_of(optimizer: Optimizer, parameters: Sequence[Tensor]) -> tuple[list[Tensor], list[Tensor] | None]:
    """The parameters that have been stepped, and the diagonal of P for each of them; None stands for P = 1.

    Adam and AdamW: P = (1 - β1^t)(√v̂ + ε) with v̂ = v/(1 - β2^t), so that torch's update without decay is -η P⁻¹ m with the
    raw first moment m. The state is read as it is: after step t, P is P_t. Conventions without the factor 1 - β1^t differ
    tenfold at t = 1. SGD, with or without momentum, has P = 1.

    Raises:
        ThalwegError: another optimizer.

    Source: critical-sharpness paper, appendix D.2, proof of Result D.4.

    Example:
        One step of Adam: m = .1 g, so P = .1 (|g| + ε).

        >>> x = torch.nn.Parameter(torch.zeros(2, dtype=torch.float64))
        >>> optimizer = torch.optim.Adam([x], eps=0.0)
        >>> x.grad = torch.tensor([3.0, -0.5], dtype=torch.float64)
        >>> optimizer.step()
        >>> _, (diagonal,) = preconditioner_of(optimizer, [x])
        >>> diagonal.round(decimals=9).tolist()
        [0.3, 0.05]
    """
    check_preconditioner(optimizer)
    if isinstance(optimizer, torch.optim.SGD):
        return list(parameters), None
    groups = {id(p): group for group in optimizer.param_groups for p in group["params"]}
    stepped = [p for p in parameters if "exp_avg_sq" in optimizer.state.get(p, {})]
    diagonals = []
    for parameter in stepped:
        group, state = groups[id(parameter)], optimizer.state[parameter]
        beta1, beta2 = (float(beta) for beta in group["betas"])
        steps = float(state["step"])
        second = state["max_exp_avg_sq" if group["amsgrad"] else "exp_avg_sq"].double()
        diagonals.append((1 - beta1**steps) * ((second / (1 - beta2**steps)).sqrt() + group["eps"]))
    return stepped, diagonals


def check_preconditioner(optimizer: Optimizer) -> None:
    """Refuse an optimizer whose preconditioner is not known here.

    Raises:
        ThalwegError: anything but torch's SGD, Adam, AdamW and classes derived from them.

    Example:
        >>> check_preconditioner(torch.optim.AdamW([torch.zeros(1, requires_grad=True)]))
    """
    if not isinstance(optimizer, torch.optim.SGD | torch.optim.Adam | torch.optim.AdamW):
        raise bad_input(
            "measures",
            f"'preconditioned' with {type(optimizer).__name__}",
            "torch's SGD, Adam or AdamW",
            "Write 'hessian' instead",
        )
