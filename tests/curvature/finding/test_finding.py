"""find_lr on quadratics, where the critical learning rate is known, and what it leaves behind: nothing."""

from __future__ import annotations

import random

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.data import DataLoader, TensorDataset

import thalweg as tw
from tests.curvature.state import everything
from tests.curvature.training import adamw, batches, cross_entropy, network, train
from thalweg.curvature import capture, critical_sharpness
from thalweg.outcomes import ThalwegError

torch.set_num_threads(1)

CLOSE = 1 / 64


def bowl(model, spectrum):
    """½ Σ λ x² over all parameters, λ times a batch's number."""
    x = torch.cat([p.flatten() for p in model.parameters()])
    return 0.5 * (spectrum * x * x).sum()


def vector(values):
    return nn.ParameterList([nn.Parameter(torch.tensor(values, dtype=torch.float64))])


@pytest.mark.parametrize("lr", [1e-4, 0.1, 5.0])
def test_gradient_descent_on_a_quadratic_gives_two_over_curvature(lr):
    """Whatever the learning rate that it is asked at."""
    model = vector([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)
    band = tw.find_lr(model, optimizer, [4.0, 4.0, 4.0], loss_fn=bowl, steps=0)
    assert band.edge == pytest.approx(0.5, rel=CLOSE)
    assert band.safe == pytest.approx(0.5, rel=CLOSE)
    assert band.critical_lrs.shape == (3,)
    assert (band.lr, band.groups) == (lr, ())


def test_edge_is_where_a_run_diverges_and_safe_is_never_above_it():
    """Heavy ball diverges above 2(1 + μ)/λ. From rest its first step is gradient descent's, which tolerates 2/λ."""
    model = vector([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=1e-3, momentum=0.9)
    band = tw.find_lr(model, optimizer, [4.0], loss_fn=bowl)
    assert band.typical == pytest.approx(0.5, rel=CLOSE)
    assert band.trials.lower < 0.95 < band.trials.upper
    assert band.edge == band.trials.edge
    assert band.safe == band.typical
    assert "training diverges between lr " in band.summary()
    assert [figure.name for figure in band.figures()] == ["critical_lrs", "trials"]
    stretched = tw.find_lr(model, optimizer, [1.0, 16.0], loss_fn=bowl)  # every second step tolerates 2, a run does not
    assert stretched.safe <= stretched.trials.lower < stretched.typical


def test_safe_and_edge_over_batches_of_known_curvature():
    """λ = 1, …, 11: η_c = 2/λ; the median is 2/6, and ten of eleven tolerate 2/10."""
    model = vector([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    band = tw.find_lr(model, optimizer, [float(k) for k in range(1, 12)], loss_fn=bowl, steps=0)
    assert band.critical_lrs == pytest.approx([2 / k for k in range(1, 12)], rel=CLOSE)
    assert band.edge == pytest.approx(2 / 6, rel=CLOSE)
    assert band.safe == pytest.approx(2 / 10, rel=CLOSE)


def test_each_group_alone():
    """Curvatures 1 and 100, rates .1 and .01: alone 2/λ; together where Σ η_i g_i² (m η_i λ_i / 2 - 1) = 0."""
    model = nn.ParameterList([nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)])
    spectrum = torch.tensor([1.0, 100.0], dtype=torch.float64)
    groups = [{"params": [p], "lr": lr} for p, lr in zip(model, (0.1, 0.01), strict=True)]
    band = tw.find_lr(model, torch.optim.SGD(groups, lr=1.0), [spectrum], loss_fn=bowl, steps=0)
    assert [group.edge for group in band.groups] == pytest.approx([2.0, 0.02], rel=CLOSE)
    assert [group.name for group in band.groups] == ["group 0", "group 1"]
    assert [group.lr for group in band.groups] == [0.1, 0.01]
    lrs, curvatures = np.array([0.1, 0.01]), np.array([1.0, 100.0])
    multiple = 2 * (lrs * curvatures**2).sum() / (lrs**2 * curvatures**3).sum()
    assert band.edge == pytest.approx(0.1 * multiple, rel=CLOSE)
    assert "group 1 alone: safe " in band.summary()


def test_the_update_is_that_of_the_running_optimizer():
    """Momentum and Adam's moments as they are: the answer is that of a step that is really made."""
    for make in (adamw, lambda model: torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)):
        model = network()
        optimizer = make(model)
        train(model, optimizer, batches(30))
        (batch,) = batches(1, seed=5)
        band = tw.find_lr(model, optimizer, [batch], loss_fn=cross_entropy, steps=0)
        optimizer.zero_grad()
        state = torch.get_rng_state()
        cross_entropy(model, batch).backward()
        torch.set_rng_state(state)
        with capture(model, optimizer, lambda: cross_entropy(model, batch)) as step:  # noqa: B023
            optimizer.step()
        critical = critical_sharpness(step, tolerance=1 / 64)
        assert band.edge == pytest.approx(critical.critical_lr, rel=2 * CLOSE)


def test_nothing_is_different_afterwards():
    """Weights, gradients, buffers, flags, Adam's state, hooks, the scheduler, random states: bit for bit."""
    model = network()
    optimizer = adamw(model)
    scheduler = torch.optim.lr_scheduler.StepLR(optimizer, 10)
    with tw.probe(model, optimizer, every=2) as probe:
        train(model, optimizer, probe.watch(batches(3)))
        data = TensorDataset(torch.randn(48, 6), torch.randint(0, 3, (48,)))
        loader = DataLoader(data, batch_size=12, shuffle=True)
        random.random()
        before, hooks = everything(model, optimizer), dict(vars(optimizer))
        schedule = scheduler.state_dict()
        band = tw.find_lr(model, optimizer, loader)
        assert everything(model, optimizer) == before
        assert vars(optimizer) == hooks
        assert scheduler.state_dict() == schedule
        assert probe.state_dict()["steps"] == 3
        assert [row["step"] for row in probe.history.rows] == [2]
    assert band.critical_lrs.shape == (4,)
    assert (band.critical_lrs > 0).all()


def test_nothing_is_different_after_an_error():
    model = network()
    optimizer = adamw(model)
    train(model, optimizer, batches(3))
    calls = []

    def failing(model, batch):
        calls.append(torch.rand(()).item())
        if len(calls) == 4:
            raise torch.OutOfMemoryError("no memory left")
        return cross_entropy(model, batch)

    before = everything(model, optimizer)
    with pytest.raises(torch.OutOfMemoryError):
        tw.find_lr(model, optimizer, batches(3), loss_fn=failing)
    assert everything(model, optimizer) == before


def test_a_run_goes_on_as_if_it_had_not_been_asked():
    def losses(ask):
        model = network()
        optimizer = adamw(model)
        first = train(model, optimizer, batches(10))
        if ask:
            tw.find_lr(model, optimizer, list(batches(3, seed=9)))
        return first + train(model, optimizer, batches(10, seed=1))

    assert losses(ask=True) == losses(ask=False)


def test_an_attached_probe_does_not_take_it_for_training():
    """Asked before the forward of a step that is measured: the probe's rows, and its dropout masks, are the same."""

    def rows(ask):
        model = network()
        optimizer = adamw(model)
        with tw.probe(model, optimizer, every=1) as probe:
            for batch in probe.watch(batches(4)):
                if ask:
                    state = torch.get_rng_state()
                    tw.find_lr(model, optimizer, list(batches(2, seed=9)))
                    assert torch.equal(torch.get_rng_state(), state)
                torch.rand(3)  # so that the forward begins in another random state
                optimizer.zero_grad()
                cross_entropy(model, batch).backward()
                optimizer.step()
        return [{k: v for k, v in row.items() if k != "probe/seconds"} for row in probe.history.rows]

    assert rows(ask=True) == rows(ask=False)


def test_a_warmup_that_begins_at_0_is_asked_at_its_initial_lr():
    model = vector([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: min(1.0, step / 100))
    assert optimizer.param_groups[0]["lr"] == 0
    band = tw.find_lr(model, optimizer, [4.0], loss_fn=bowl, steps=0)
    assert (band.edge, band.lr) == (pytest.approx(0.5, rel=CLOSE), 0.1)
    assert optimizer.param_groups[0]["lr"] == 0
    assert "re-ask after warmup" in band.summary()


def test_frozen_and_unused_weights_tied_weights_and_sparse_gradients():
    class Tied(nn.Module):
        def __init__(self):
            super().__init__()
            self.tokens = nn.Embedding(5, 4, sparse=True)
            self.unused, self.frozen = nn.Linear(2, 2), nn.Linear(4, 4)
            self.head = nn.Linear(4, 3)
            self.also = self.head
            self.frozen.requires_grad_(False)

        def forward(self, x):
            return self.also(self.frozen(self.tokens(x)))

    torch.manual_seed(0)
    model = Tied()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    before = everything(model, optimizer)
    band = tw.find_lr(model, optimizer, [(torch.tensor([0, 1, 2]), torch.tensor([0, 1, 2]))])
    assert everything(model, optimizer) == before
    assert band.edge > 0


def test_a_random_stream_of_batches_goes_on_between_batches():
    """Numbers drawn while iterating are not the same again and again, and the state comes back at the end."""
    model = vector([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    state = torch.get_rng_state()
    band = tw.find_lr(
        model, optimizer, (1 + torch.rand(()).double() for _ in range(100)), loss_fn=bowl, limit=5, steps=0
    )
    assert len(set(band.critical_lrs.tolist())) == 5
    assert torch.equal(torch.get_rng_state(), state)


def test_a_loss_without_a_crossing_is_left_out_and_said():
    model = vector([1.0])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    band = tw.find_lr(model, optimizer, [4.0, 0.0, 4.0], loss_fn=bowl, steps=0)
    assert band.critical_lrs == pytest.approx([0.5, 0.5], rel=CLOSE)
    assert "1 batches gave no number, NO_UPDATE" in band.summary()


def test_bad_input():
    model = network()
    batch = next(batches(1))
    with pytest.raises(ThalwegError, match=r"batches: .*Write batches=\[batch\]"):
        tw.find_lr(model, adamw(model), batch)
    with pytest.raises(ThalwegError, match="steps: got -1"):
        tw.find_lr(model, adamw(model), [batch], steps=-1)
    with pytest.raises(ThalwegError, match="limit: got 0"):
        tw.find_lr(model, adamw(model), [batch], limit=0)
    with pytest.raises(ThalwegError, match="at least one batch"):
        tw.find_lr(model, adamw(model), [])
    with pytest.raises(ThalwegError, match="LBFGS"):
        tw.find_lr(model, torch.optim.LBFGS(model.parameters()), [batch])
    with pytest.raises(ThalwegError, match="a learning rate above 0"):
        tw.find_lr(model, torch.optim.SGD(model.parameters(), lr=0.0), [batch])
    with pytest.raises(ThalwegError, match="not the model's"):
        tw.find_lr(model, adamw(network()), [batch])
