"""A twin optimizer makes the step that its original would have made, and the original does not notice."""

from __future__ import annotations

import copy

import pytest
import torch
from torch import nn

from thalweg.curvature.finding.twins import set_lrs, twin, twin_optimizer
from thalweg.outcomes import ThalwegError

torch.set_num_threads(1)

MADE = {
    "momentum": lambda p: torch.optim.SGD(p, lr=0.1, momentum=0.9),
    "adamw": lambda p: torch.optim.AdamW(p, lr=torch.tensor(0.1), weight_decay=0.1),
}


@pytest.mark.parametrize("make", MADE.values(), ids=MADE)
def test_the_twin_makes_the_next_step_of_the_original(make):
    weights = [nn.Parameter(torch.tensor([1.0, -2.0])), nn.Parameter(torch.tensor([0.5]))]
    optimizer = make(weights)
    calls = []
    optimizer.register_step_post_hook(lambda *_: calls.append(1))

    def step():
        for weight in weights:
            weight.grad = 3 * weight.detach()
        optimizer.step()

    step()
    before = copy.deepcopy(optimizer.state_dict())
    twins = {id(p): twin(p, 3 * p.detach()) for p in weights}
    twin_optimizer(optimizer, twins).step()
    assert str(optimizer.state_dict()) == str(before)
    assert len(calls) == 1
    step()
    assert all(torch.equal(twins[id(p)], p) for p in weights)


def test_learning_rates_are_set_where_they_are_tensors_too():
    weights = [nn.Parameter(torch.ones(1)) for _ in range(2)]
    groups = [{"params": weights[:1], "lr": 0.1}, {"params": weights[1:], "lr": torch.tensor(0.2)}]
    optimizer = torch.optim.SGD(groups, lr=1.0)
    set_lrs(optimizer, [0.5, 0.25])
    assert optimizer.param_groups[0]["lr"] == 0.5
    assert torch.equal(optimizer.param_groups[1]["lr"], torch.tensor(0.25))


def test_a_parameter_without_a_twin_is_told():
    optimizer = torch.optim.SGD([nn.Parameter(torch.ones(1))], lr=0.1)
    with pytest.raises(ThalwegError, match="1 of its parameters are not the model's"):
        twin_optimizer(optimizer, {})
