"""Everything a measurement must not change, as bytes."""

from __future__ import annotations

import random
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn


def bits(tensor: Tensor | None) -> tuple[Any, ...] | None:
    """Dtype, shape and bytes: NaN equals itself, 0 does not equal -0."""
    if tensor is None:
        return None
    return (
        tensor.dtype,
        tuple(tensor.shape),
        tensor.detach().clone().contiguous().reshape(-1).view(torch.uint8).numpy().tobytes(),
    )


def random_state() -> tuple[Any, ...]:
    numpy = np.random.get_state(legacy=False)  # noqa: NPY002
    return random.getstate(), repr(numpy), numpy["state"]["key"].tobytes(), bits(torch.get_rng_state())


def everything(model: nn.Module, optimizer: torch.optim.Optimizer | None = None) -> dict[str, Any]:
    """Weights, gradients (and which tensor each is), buffers, flags, random states, optimizer state."""
    state = {
        "weights": {name: bits(p) for name, p in model.named_parameters()},
        "identity": {name: id(p) for name, p in model.named_parameters()},
        "gradients": {name: (id(p.grad), bits(p.grad)) for name, p in model.named_parameters()},
        "requires_grad": {name: p.requires_grad for name, p in model.named_parameters()},
        "buffers": {name: (id(b), bits(b)) for name, b in model.named_buffers()},
        "training": {name: module.training for name, module in model.named_modules()},
        "random": random_state(),
    }
    if optimizer is not None:
        state["optimizer"] = optimizer_state(optimizer)
    return state


def optimizer_state(optimizer: torch.optim.Optimizer) -> list[Any]:
    found: list[Any] = [{k: v for k, v in group.items() if k != "params"} for group in optimizer.param_groups]
    for group in optimizer.param_groups:
        for p in group["params"]:
            entries = optimizer.state.get(p, {})
            found.append({k: bits(v) if isinstance(v, Tensor) else v for k, v in entries.items()})
    return found
