from __future__ import annotations

import types

import pytest
import torch

from thalweg.curvature.steps.hooks import around_step, unwrap
from thalweg.outcomes import ThalwegError


class Wrapper(torch.optim.Optimizer):
    """As Accelerate wraps: a torch optimizer itself, whose hooks never run."""

    def __init__(self, optimizer):
        self.optimizer = optimizer

    def step(self):
        self.optimizer.step()


def sgd():
    return torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)


def test_wrappers_of_wrappers():
    inner = sgd()
    assert unwrap(inner) is inner
    assert unwrap(Wrapper(types.SimpleNamespace(optimizer=inner))) is inner
    with pytest.raises(ThalwegError, match=r"optimizer: got 'adam', expected a torch\.optim\.Optimizer"):
        unwrap("adam")


def test_hooks_are_called_around_each_step_of_the_inner_optimizer_and_removed():
    inner = sgd()
    calls = []
    with (
        pytest.raises(ZeroDivisionError),
        around_step(inner, lambda: calls.append("before"), lambda: calls.append("after")),
    ):
        Wrapper(inner).step()
        inner.step(lambda: calls.append("closure"))
        raise ZeroDivisionError
    inner.step()
    assert calls == ["before", "after", "before", "closure", "after"]
