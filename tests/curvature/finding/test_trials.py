"""Trial trainings bracket the learning rates where optimizers are known to diverge, and leave no trace."""

from __future__ import annotations

import math

import numpy as np
import pytest
import torch
from torch import nn

from tests.curvature.state import everything
from tests.curvature.training import adamw, batches, cross_entropy, network, train
from thalweg.curvature.finding.trials import RATIO, Trials, try_lrs

torch.set_num_threads(1)


def bowl(model, curvature):
    """½ λ x², λ a batch's number."""
    return 0.5 * curvature * model[0].sum() ** 2


def tried(optimizer, numbers, guess=0.01, steps=60, scale=1.0, **options):
    model = nn.ParameterList([nn.Parameter(torch.full((1,), scale, dtype=torch.float64))])
    made = optimizer(model.parameters(), lr=0.01, **options)
    trials = try_lrs(model, made, numbers, bowl, lrs=[0.01], guess=guess, steps=steps)
    assert model[0].item() == scale
    return trials


@pytest.mark.parametrize("guess", [1e-4, 0.5, 300.0])
@pytest.mark.parametrize("curvature", [0.1, 4.0])
def test_gradient_descent_diverges_above_two_over_curvature(curvature, guess):
    trials = tried(torch.optim.SGD, [curvature], guess)
    assert trials.lower < 2 / curvature < trials.upper <= 1.01 * RATIO * trials.lower
    assert len(set(trials.lrs)) == trials.lrs.size and (np.diff(trials.lrs) > 0).all()


@pytest.mark.parametrize(("momentum", "nesterov"), [(0.5, False), (0.9, False), (0.5, True)])
def test_momentum_diverges_where_theory_says(momentum, nesterov):
    """Heavy ball 2(1 + μ)/λ, Nesterov 2(1 + μ)/(λ(1 + 2μ))."""
    trials = tried(torch.optim.SGD, [4.0], steps=200, momentum=momentum, nesterov=nesterov)
    edge = (1 + momentum) / 2 / ((1 + 2 * momentum) if nesterov else 1)
    assert trials.lower < edge < trials.upper


def test_one_step_that_overshoots_is_not_a_run_that_diverges():
    """Curvatures 1 and 4 in turn: |1 - η| |1 - 4η| = 1 at η = 5/4, where steps on the second batch tolerate 1/2 alone."""
    trials = tried(torch.optim.SGD, [1.0, 4.0], steps=200)
    assert trials.lower < 5 / 4 < trials.upper


def test_the_scale_of_weights_and_the_guess_do_not_matter():
    small, large = (tried(torch.optim.SGD, [4.0], scale=scale) for scale in (1e-6, 1e6))
    assert small.lrs.tolist() == large.lrs.tolist()
    assert (small.edge, small.spent) == (large.edge, large.spent)


def test_groups_keep_their_ratio():
    """Curvature 1 everywhere: the group at ten times the rate diverges first."""
    model = nn.ParameterList([nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)])
    groups = [{"params": [model[0]], "lr": 0.1}, {"params": [model[1]], "lr": 1.0}]
    trials = try_lrs(
        model,
        torch.optim.SGD(groups, lr=1.0),
        [0],
        lambda m, _: 0.5 * (m[0].sum() ** 2 + m[1].sum() ** 2),
        lrs=[0.1, 1.0],
        guess=0.1,
        steps=60,
    )
    assert trials.lower < 0.2 < trials.upper


def test_no_trial_ends_well_or_badly():
    """A loss that training cannot change is never above its start, nor is one at its minimum."""
    assert tried(torch.optim.SGD, [0.0]).edge == math.inf
    up = tried(torch.optim.SGD, [4.0], guess=1e9, scale=0.0)  # at the minimum nothing moves
    assert (up.lower, up.upper) == (up.lrs[-1], math.inf)
    assert "no trial diverged, up to lr " in up.summary()
    never = Trials(np.array([0.1, 0.4]), np.array([3.0, np.inf]), start=2.0, steps=10, spent=20)
    assert (never.lower, never.upper, never.edge) == (0.0, 0.1, 0.0)
    assert never.summary().startswith("no trial ended under its start, down to lr 1e-1")


def test_a_run_that_is_no_longer_finite_is_ended_at_once():
    trials = tried(torch.optim.SGD, [4.0], guess=1e200, steps=1000)
    assert trials.lower < 0.5 < trials.upper
    assert trials.spent < 1000 * (trials.lrs.size + 6)


def test_nothing_is_different_afterwards_nor_after_an_error():
    """Dropout, BatchNorm, Adam's state, gradients, random numbers."""
    model = network()
    optimizer = adamw(model)
    train(model, optimizer, batches(3))
    data = list(batches(4, seed=5))
    before = everything(model, optimizer)
    first, again = (try_lrs(model, optimizer, data, cross_entropy, lrs=[3e-3], guess=0.1, steps=12) for _ in range(2))
    assert everything(model, optimizer) == before
    assert (first.lrs.tolist(), first.losses.tolist()) == (again.lrs.tolist(), again.losses.tolist())
    calls = []

    def failing(model, batch):
        calls.append(1)
        if len(calls) == 20:
            raise torch.OutOfMemoryError("no memory left")
        return cross_entropy(model, batch)

    with pytest.raises(torch.OutOfMemoryError):
        try_lrs(model, optimizer, data, failing, lrs=[3e-3], guess=0.1, steps=12)
    assert everything(model, optimizer) == before
