"""Where an optimizer's step begins and ends: hooks of the inner optimizer, nothing read from its insides."""

from __future__ import annotations

import contextlib
from collections.abc import Callable, Iterator
from typing import Any

from torch.optim import Optimizer

from thalweg.outcomes import bad_input

__all__ = ["around_step", "unwrap"]


def unwrap(optimizer: Any) -> Optimizer:
    """The torch optimizer inside wrappers that keep it as `.optimizer` (Accelerate, Lightning, DeepSpeed).

    Raises:
        ThalwegError: no torch optimizer at the end of the chain.

    Example:
        >>> import torch, types
        >>> inner = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
        >>> unwrap(types.SimpleNamespace(optimizer=inner)) is inner
        True
    """
    inner = optimizer
    while hasattr(inner, "optimizer"):
        inner = inner.optimizer
    if not isinstance(inner, Optimizer):
        raise bad_input("optimizer", optimizer, "a torch.optim.Optimizer or a wrapper with one in .optimizer")
    return inner


@contextlib.contextmanager
def around_step(optimizer: Optimizer, before: Callable[[], None], after: Callable[[], None]) -> Iterator[None]:
    """Call `before` and `after` around every `optimizer.step()` while the block lasts.

    Example:
        >>> import torch
        >>> x = torch.zeros(1, requires_grad=True)
        >>> optimizer = torch.optim.SGD([x], lr=0.1)
        >>> with around_step(optimizer, lambda: print("before"), lambda: print("after")):
        ...     optimizer.step()
        before
        after
    """
    handles = [
        optimizer.register_step_pre_hook(lambda *_: before()),
        optimizer.register_step_post_hook(lambda *_: after()),
    ]
    try:
        yield
    finally:
        for handle in handles:
            handle.remove()
