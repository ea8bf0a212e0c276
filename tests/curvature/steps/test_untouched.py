from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn

from tests.curvature.state import everything
from thalweg.curvature.steps.untouched import RandomState, untouched
from thalweg.outcomes import ThalwegError


class Restless(nn.Module):
    """Writes to one buffer, replaces another, drops a third, and makes a new one."""

    def __init__(self):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(3))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)
        self.norm = nn.BatchNorm1d(3)
        self.register_buffer("count", torch.zeros((), dtype=torch.int64))
        self.register_buffer("mean", torch.zeros(3), persistent=False)
        self.register_buffer("once", torch.full((2,), float("nan")))
        self.register_buffer("none", None)

    def forward(self, x):
        self.count += 1
        self.mean = self.mean + x.mean(0)
        self.once = None
        self.none = torch.ones(1)
        self.register_buffer("late", torch.ones(1))
        return self.norm(x * self.weight * torch.rand(()) * random.random() * np.random.rand())  # noqa: NPY002


@pytest.fixture
def restless():
    model = Restless()
    model.weight.grad = torch.full((3,), 7.0)
    return model


def disturb(model):
    model(torch.randn(4, 3))
    model.eval()
    model.norm.train()
    model.weight.requires_grad_(False)
    model.frozen.requires_grad_(True)


@pytest.mark.parametrize("error", [None, RuntimeError, KeyboardInterrupt])
def test_everything_comes_back(restless, error):
    before = everything(restless)
    try:
        with untouched(restless):
            disturb(restless)
            if error:
                raise error
    except (RuntimeError, KeyboardInterrupt) as caught:
        assert type(caught) is error
    assert everything(restless) == before
    disturb(restless)
    assert everything(restless) != before  # the comparison sees what the forward does


def test_gradients_are_out_of_reach(restless):
    before = everything(restless)
    with untouched(restless):
        torch.optim.SGD([restless.weight], lr=0.1).zero_grad(set_to_none=False)
        assert restless.weight.grad is None
    assert everything(restless) == before


def test_a_block_that_makes_gradients_is_refused(restless):
    before = everything(restless)
    with (
        pytest.raises(ThalwegError, match=r"changed gradients.*without zero_grad\(\) and backward\(\)"),
        untouched(restless),
    ):
        restless(torch.randn(4, 3)).sum().backward()
    assert everything(restless) == before


def test_tensors_outside_the_model(restless):
    outside = torch.zeros(2, requires_grad=True)
    outside.grad = torch.ones(2)
    with pytest.raises(ThalwegError), untouched(restless, [outside]):
        outside.sum().backward()
    assert outside.grad.tolist() == [1.0, 1.0]


def test_random_state_covers_python_numpy_and_torch():
    def draw():
        return random.random(), np.random.rand(), torch.rand(()).item()  # noqa: NPY002

    state = RandomState.now()
    first = draw()
    assert draw() != first
    state.restore()
    assert draw() == first
