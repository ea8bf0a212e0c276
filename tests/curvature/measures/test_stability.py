"""Thresholds against torch's own optimizers, iterated on quadratics."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from thalweg.curvature import Threshold, edge_of_stability
from thalweg.curvature.measures.stability import why_no_edge

torch.set_num_threads(1)


def grows(curvatures, make, *, steps, frozen=False, start=1e-6):
    """For each curvature λ of ½ λ x²: whether |x| ever grew a thousandfold. One vector holds all of them."""
    x = nn.Parameter(torch.full((len(curvatures),), start, dtype=torch.float64))
    optimizer = make([x])
    if frozen:  # Adam with a preconditioner that stays 1: v constant, β2 = 1 - 1e-12, bias corrections long gone
        one = torch.ones_like(x)
        optimizer.state[x] = {"step": torch.tensor(1e15), "exp_avg": torch.zeros_like(x), "exp_avg_sq": one}
    curvature = torch.tensor(curvatures, dtype=torch.float64)
    worst = torch.zeros_like(x)
    for _ in range(steps):
        x.grad = curvature * x.detach()
        optimizer.step()
        worst = torch.maximum(worst, x.detach().abs())
        with torch.no_grad():
            x.clamp_(-1e3, 1e3)
    return (worst >= 1e3 * start).tolist()


def onset(make, guess, *, steps=6000, frozen=False, resolution=1e-4):
    """The smallest curvature that grows, on a grid of relative steps of 1e-4 within 1 % of the guess."""
    grid = [guess * (1 + resolution * i) for i in range(-100, 101)]
    grown = grows(grid, make, steps=steps, frozen=frozen)
    assert not grown[0]
    assert grown[-1]
    return grid[grown.index(True)]


SGD = [
    ({"lr": 0.1}, "gd", 20.0),
    ({"lr": 0.1, "weight_decay": 1.5}, "gd", 18.5),
    ({"lr": 0.1, "momentum": 0.9}, "heavy ball", 38.0),
    ({"lr": 0.1, "momentum": 0.5, "dampening": 0.25, "weight_decay": 1.0}, "heavy ball", 39.0),
    ({"lr": 0.1, "momentum": 0.9, "nesterov": True}, "nesterov", 38 / 2.8),
    ({"lr": 0.1, "momentum": 0.5, "nesterov": True, "weight_decay": 2.0}, "nesterov", 13.0),
]


@pytest.mark.parametrize(("settings", "name", "value"), SGD)
def test_sgd(settings, name, value):
    def make(parameters):
        return torch.optim.SGD(parameters, foreach=False, **settings)

    threshold = edge_of_stability(make([torch.zeros(1, requires_grad=True)]))
    assert (threshold.optimizer, threshold.measure) == (name, "hessian")
    assert threshold.value == pytest.approx(value, rel=1e-12)
    # Growth by 1e3 within the steps needs a little more than the threshold itself.
    assert 1 <= onset(make, value) / value < 1 + 2e-3


@pytest.mark.parametrize(("decay", "name", "value"), [(0.0, "adam", 380.0), (1.0, "adamw", 361.0)])
def test_adam(decay, name, value):
    def make(parameters):
        return torch.optim.AdamW(parameters, lr=0.1, betas=(0.9, 1 - 1e-12), eps=0.0, weight_decay=decay, foreach=False)

    threshold = edge_of_stability(make([torch.zeros(1, requires_grad=True)]))
    assert (threshold.optimizer, threshold.measure) == (name, "preconditioned")
    assert threshold.value == pytest.approx(value, rel=1e-12)
    assert 1 <= onset(make, value, frozen=True) / value < 1 + 2e-3


def test_published_onset_of_adamw():
    """Spec: growth by 1e3 from 1e-6 sets in at 361.03, against (2/0.1 - 1) 1.9/0.1 = 361."""

    def make(parameters):
        return torch.optim.AdamW(parameters, lr=0.1, betas=(0.9, 1 - 1e-12), eps=0.0, weight_decay=1.0, foreach=False)

    grid = [361 + 0.01 * i for i in range(-5, 11)]
    grown = grows(grid, make, steps=20000, frozen=True)
    assert grid[grown.index(True)] == pytest.approx(361.03, abs=0.02)


def x():
    return torch.zeros(1, requires_grad=True)


@pytest.mark.parametrize(
    ("optimizer", "why"),
    [
        (torch.optim.Adam([x()], weight_decay=0.1), "coupled"),
        (torch.optim.Adam([x()], amsgrad=True), "amsgrad"),
        (torch.optim.AdamW([x()], amsgrad=True), "amsgrad"),
        (torch.optim.SGD([x()], lr=0.1, maximize=True), "maximize"),
        (torch.optim.RMSprop([x()]), "RMSprop"),
        (torch.optim.NAdam([x()]), "NAdam"),
        (torch.optim.SGD([x()], lr=0.0), "lr is 0"),
        (torch.optim.SGD([x()], lr=0.1, momentum=0.9, dampening=1.0), "dampening=1"),
        (torch.optim.SGD([{"params": [x()]}, {"params": [x()], "lr": 0.2}], lr=0.1), "differ in lr"),
        (torch.optim.SGD([{"params": [x()]}, {"params": [x()], "momentum": 0.2}], lr=0.1), "differ in momentum"),
        (torch.optim.AdamW([{"params": [x()]}, {"params": [x()], "betas": (0.8, 0.9)}]), "differ in beta1"),
    ],
)
def test_no_line_where_there_is_none(optimizer, why):
    assert edge_of_stability(optimizer) is None
    assert why in why_no_edge(optimizer)


def test_coupling_is_read_from_the_group_not_the_class():
    decoupled = torch.optim.Adam([x()], lr=0.1, weight_decay=1.0, decoupled_weight_decay=True)
    assert edge_of_stability(decoupled).value == pytest.approx(361.0)
    assert why_no_edge(decoupled) == ""


def test_a_subclass_may_do_anything():
    class Mine(torch.optim.SGD):
        pass

    assert edge_of_stability(Mine([x()], lr=0.1)) is None


def test_groups_that_differ_only_in_decay_take_the_largest():
    groups = [{"params": [x()], "weight_decay": 0.0}, {"params": [x()], "weight_decay": 1.0}]
    threshold = edge_of_stability(torch.optim.AdamW(groups, lr=0.1))
    assert threshold.value == pytest.approx(361.0)
    assert "differ in weight decay; the largest, 1, counts" in threshold.note
    assert threshold.note in threshold.summary()


def test_a_tensor_learning_rate():
    assert edge_of_stability(
        torch.optim.AdamW([x()], lr=torch.tensor(0.1, dtype=torch.float64), weight_decay=0.0)
    ).value == pytest.approx(380.0)


def test_result_saves(tmp_path):
    threshold = edge_of_stability(torch.optim.SGD([x()], lr=0.1))
    assert Threshold.load(threshold.save(tmp_path / "threshold.json")) == threshold
