"""Use a model for a measurement and hand it back unchanged."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

import torch
from torch import nn

from thalweg.curvature.steps.untouched import untouched

__all__ = ["borrowed"]


@contextmanager
def borrowed(model: nn.Module) -> Iterator[None]:
    """A model in eval mode whose weights may be overwritten: all comes back bit-identical, also after an error.

    Weights, buffers, gradients, `training` and `requires_grad` flags, and the global random states. Memory: one copy of
    parameters and buffers.
    """
    weights = [(parameter, parameter.detach().clone()) for parameter in model.parameters()]  # tied ones come once
    with untouched(model):
        model.eval()
        try:
            yield
        finally:
            with torch.no_grad():
                for parameter, copy in weights:
                    parameter.copy_(copy)
