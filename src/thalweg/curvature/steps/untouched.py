"""Evaluate a loss and leave no trace: random states, buffers, gradients and flags come back bit-identical."""

from __future__ import annotations

import contextlib
import random
import sys
from collections.abc import Iterable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor, nn

from thalweg.outcomes import ThalwegError

__all__ = ["RandomState", "eagerly", "untouched"]


@dataclass(frozen=True, slots=True)
class RandomState:
    """The global random states of Python, NumPy and torch (CPU and every CUDA device in use) at one moment.

    Example:
        >>> state = RandomState.now()
        >>> first = torch.rand(2)
        >>> state.restore()
        >>> bool((torch.rand(2) == first).all())
        True
    """

    python: tuple[Any, ...]
    numpy: dict[str, Any]
    cpu: Tensor
    cuda: tuple[Tensor, ...]

    @classmethod
    def now(cls) -> RandomState:
        """The states as they are."""
        cuda = tuple(torch.cuda.get_rng_state_all()) if torch.cuda.is_initialized() else ()  # type: ignore[no-untyped-call]
        return cls(random.getstate(), np.random.get_state(legacy=False), torch.get_rng_state(), cuda)  # noqa: NPY002

    def restore(self) -> None:
        """Put the states back."""
        random.setstate(self.python)
        np.random.set_state(self.numpy)  # noqa: NPY002
        torch.set_rng_state(self.cpu)
        if self.cuda:
            torch.cuda.set_rng_state_all(list(self.cuda))


@contextlib.contextmanager
def eagerly() -> Iterator[None]:
    """Compiled code runs operator by operator while the block lasts, and stays compiled.

    Example:
        >>> with eagerly():
        ...     torch.ones(2).sum().item()
        2.0
    """
    with contextlib.ExitStack() as stack:
        if "torch._dynamo" in sys.modules:  # importing it takes seconds; where it is absent nothing is compiled
            stack.enter_context(torch.compiler.set_stance("force_eager"))
        yield


@contextlib.contextmanager
def untouched(model: nn.Module, parameters: Iterable[Tensor] = ()) -> Iterator[None]:
    """Restore random states, buffers, gradients, `training` and `requires_grad` flags when the block ends, however it ends.

    Gradients are put out of reach during the block (`.grad` is None), so that not even an operation in place can change
    them. Memory: one copy of the buffers. Weights are not looked after: only `weights.py` writes to them.

    Args:
        model: its buffers, flags and gradients.
        parameters: tensors outside the model whose gradients and flags matter too.

    Raises:
        ThalwegError: the block made gradients.

    Example:
        >>> norm = nn.BatchNorm1d(2)
        >>> with untouched(norm):
        ...     _ = norm(torch.ones(3, 2))
        >>> norm.running_mean.tolist(), norm.num_batches_tracked.item()
        ([0.0, 0.0], 0)
    """
    tensors = list({id(tensor): tensor for tensor in [*model.parameters(), *parameters]}.values())
    gradients = [tensor.grad for tensor in tensors]
    needed = [tensor.requires_grad for tensor in tensors]
    training = [(module, module.training) for module in model.modules()]
    buffers = [(module, dict(module._buffers)) for module in model.modules()]
    copies = {id(buffer): (buffer, buffer.detach().clone()) for buffer in model.buffers()}
    state = RandomState.now()
    made = False
    try:
        for tensor in tensors:
            tensor.grad = None
        yield
    finally:
        made = any(tensor.grad is not None for tensor in tensors)
        for tensor, gradient, need in zip(tensors, gradients, needed, strict=True):
            if tensor.requires_grad != need:
                tensor.requires_grad_(need)
            tensor.grad = gradient
        for module, flag in training:
            module.training = flag
        for module, named in buffers:  # a module may have replaced a buffer instead of writing to it
            module._buffers.clear()
            module._buffers.update(named)
        with torch.no_grad():
            for buffer, copy in copies.values():
                buffer.copy_(copy)
        state.restore()
    if made:
        raise ThalwegError(
            "closure: it changed gradients, expected one that only computes the loss. "
            "Write for example closure=lambda: loss_fn(model(x), y), without zero_grad() and backward()."
        )
