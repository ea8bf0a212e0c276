"""Operators that read a weight are given another tensor; whatever they do with it, the weight stays as it is."""

from __future__ import annotations

import weakref

import pytest
import torch
from torch import nn
from torch.utils.checkpoint import checkpoint

from tests.curvature.state import bits
from thalweg.curvature.steps.reading import MixedReads
from thalweg.outcomes import ThalwegError

torch.set_num_threads(1)


def seen_as(weights, values):
    return MixedReads(weights, weights, lambda i: values[i])


@pytest.fixture
def world():
    """A network, the values it is to be seen with, and a twin that has them."""
    torch.manual_seed(0)
    model, twin = (nn.Sequential(nn.Linear(4, 8), nn.Tanh(), nn.Linear(8, 3)).double() for _ in range(2))
    return list(model.parameters()), [p.detach() for p in twin.parameters()], model, twin


X = torch.randn(5, 4, dtype=torch.float64, generator=torch.Generator().manual_seed(1))

WAYS = {
    "forward": lambda model: model(X),
    "attribute .data": lambda model: model[0].weight.data * 2,
    "detach and numpy": lambda model: torch.from_numpy(model[0].weight.detach().numpy() * 2),
    "item": lambda model: torch.tensor(model[0].bias[3].item()),
    "list of weights": lambda model: torch.cat([p.flatten() for p in model.parameters()]),
    "foreach": lambda model: torch.stack(torch._foreach_norm(list(model.parameters()))),
    "vmap": lambda model: torch.func.vmap(model)(X),
    "functional gradient": lambda model: torch.func.grad(
        lambda weights: torch.func.functional_call(model, weights, (X,)).square().sum()
    )(dict(model.named_parameters()))["0.weight"],
    "checkpointing": lambda model: checkpoint(model, X, use_reentrant=False),
    "a state dict": lambda model: torch.cat([v.flatten() for v in model.state_dict().values()]),
    "an autograd function": lambda model: Doubled.apply(model[0].weight),
}


class Doubled(torch.autograd.Function):
    @staticmethod
    def forward(ctx, weight):
        return 2 * weight

    @staticmethod
    def backward(ctx, gradient):
        return 2 * gradient


@pytest.mark.parametrize("way", WAYS)
def test_every_way_of_reading_gives_what_the_twin_gives(world, way):
    weights, values, model, twin = world
    expected, before = WAYS[way](twin), [bits(p) for p in weights]
    assert not torch.equal(WAYS[way](model), expected)
    with seen_as(weights, values):
        found = WAYS[way](model)
    assert bits(found) == bits(expected)
    assert [bits(p) for p in weights] == before


def test_derivatives_are_those_there_with_respect_to_the_weights(world):
    weights, values, model, twin = world

    def first_and_second(module):
        parameters = list(module.parameters())
        gradients = torch.autograd.grad(module(X).square().mean(), parameters, create_graph=True)
        return [*gradients, *torch.autograd.grad(sum(g.square().sum() for g in gradients), parameters)]

    expected = first_and_second(twin)
    with seen_as(weights, values):
        found = first_and_second(model)
    assert [bits(a) for a in found] == [bits(b) for b in expected]


def test_a_mix_lives_no_longer_than_the_operator_that_reads_it(world):
    weights, values, model, _ = world
    alive, most = set(), []

    def mixed(i):
        made = values[i].clone()
        alive.add(i)
        most.append(set(alive))
        weakref.finalize(made.untyped_storage(), alive.discard, i)
        return made

    with torch.no_grad(), MixedReads(weights, weights, mixed):
        model(X)
    assert not alive
    assert sorted(map(sorted, most)) == [[0], [0, 1], [2], [2, 3]]  # weight and bias of one layer


@pytest.mark.parametrize(
    "write",
    [
        lambda w: w.add_(1.0),
        lambda w: w.data.mul_(2.0),
        lambda w: w.detach().zero_(),
        lambda w: w.data[0].fill_(1.0),
        lambda w: torch.add(w, 1.0, out=w.data),
        lambda w: torch._foreach_add_([w], 1.0),
    ],
)
def test_a_write_is_refused(world, write):
    weights, values, *_ = world
    before = [bits(t) for t in [*weights, *values]]
    with torch.no_grad(), seen_as(weights, values), pytest.raises(ThalwegError, match="only reads its weights"):
        write(weights[0])
    assert [bits(t) for t in [*weights, *values]] == before


def test_a_write_to_something_else_is_not(world):
    weights, values, *_ = world
    with torch.no_grad(), seen_as(weights, values):
        copy = weights[0].clone().mul_(2.0)
        total = torch.zeros_like(weights[0]).add_(weights[0])
    assert torch.equal(copy, 2 * values[0])
    assert torch.equal(total, values[0])


def test_other_tensors_in_the_same_memory(world):
    weights, values, *_ = world
    same, view = weights[0].detach(), weights[0].detach().T
    with seen_as(weights, values):
        assert torch.equal(same * 1, values[0])
        with pytest.raises(ThalwegError, match=r"a view of shape \(4, 8\) was made of one earlier"):
            view * 1
    assert torch.equal(view.T, weights[0])
