from __future__ import annotations

import math
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call

from tests.curvature.state import bits, everything
from thalweg.curvature import Step, capture
from thalweg.curvature.steps import weights as weights_module
from thalweg.outcomes import Outcome, ThalwegError

torch.set_num_threads(1)


class Small(nn.Module):
    """Dropout, BatchNorm, a tied matrix, one that is not contiguous, and a frozen one."""

    def __init__(self, dtype=torch.float64):
        super().__init__()
        self.first = nn.Linear(4, 6)
        self.norm = nn.BatchNorm1d(6)
        self.second = nn.Linear(6, 4)
        self.second.weight = nn.Parameter(self.first.weight.detach().clone().T)
        self.tied = nn.Linear(4, 6)
        self.tied.weight = self.first.weight
        self.frozen = nn.Linear(4, 4).requires_grad_(False)
        self.to(dtype)

    def forward(self, x):
        hidden = F.dropout(self.norm(torch.tanh(self.first(x) + self.tied(x))), 0.3, self.training)
        return self.frozen(self.second(hidden))


@pytest.fixture
def world():
    torch.manual_seed(0)
    model = Small()
    x, y = torch.randn(16, 4, dtype=torch.float64), torch.randn(16, 4, dtype=torch.float64)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.02, weight_decay=0.1)

    def closure():
        return F.mse_loss(model(x), y)

    return types.SimpleNamespace(model=model, x=x, y=y, optimizer=optimizer, closure=closure)


def made_step(world):
    world.closure().backward()
    before = {name: p.detach().clone() for name, p in world.model.named_parameters()}
    with capture(world.model, world.optimizer, world.closure) as step:
        world.optimizer.step()
    return step, before


def test_f_is_the_change_of_the_loss_along_the_applied_update(world):
    """Against weights mixed by hand; dropout off, so that no random state matters."""
    for module in world.model.modules():
        module.training = isinstance(module, nn.BatchNorm1d)
    step, before = made_step(world)
    after = {name: p.detach().clone() for name, p in world.model.named_parameters()}

    def loss(m):
        mixed = {name: before[name] + m * (after[name] - before[name]) for name in before}
        return F.mse_loss(functional_call(world.model, mixed, (world.x,)), world.y).item()

    start = loss(0.0)
    for m in (0.0, 0.3, 1.0, 2.5, 40.0):
        assert step.at(m) == pytest.approx(loss(m) - start, rel=1e-10, abs=1e-14)


def test_weights_at_0_and_1_are_bit_exact(world):
    step, before = made_step(world)
    after = {name: bits(p) for name, p in world.model.named_parameters()}
    seen = []

    def spy():
        seen.append({name: bits(p) for name, p in world.model.named_parameters()})
        return torch.zeros((), dtype=torch.float64)

    step.closure = spy
    step.at(1.0)
    assert seen == [{name: bits(p) for name, p in before.items()}, after]


def test_the_same_masks_and_statistics_at_every_evaluation(world):
    step, _ = made_step(world)
    first = step.at(0.5)
    torch.rand(3)
    assert step.at(0.5) == first
    assert step.at(0.0) == 0.0
    assert step.obstacle() is Outcome.OK


def test_slope_is_the_derivative_at_0(world):
    for module in world.model.modules():
        module.training = isinstance(module, nn.BatchNorm1d)
    step, _ = made_step(world)
    h = 1e-4
    assert step.slope == pytest.approx((step.at(h) - step.at(-h)) / (2 * h), rel=1e-6)
    assert step.slope < 0


def test_nothing_is_changed(world):
    step, _ = made_step(world)
    before = everything(world.model, world.optimizer)
    for m in (0.0, 0.7, 3.0, 1e30):
        step.at(m)
        assert everything(world.model, world.optimizer) == before
    with step.at_start() as loss:
        torch.autograd.grad(loss(), world.model.first.weight)
        assert everything(world.model)["weights"] != before["weights"]
    assert everything(world.model, world.optimizer) == before


@pytest.mark.parametrize("error", [RuntimeError, KeyboardInterrupt, torch.OutOfMemoryError])
def test_nothing_is_changed_after_an_exception_in_the_middle(world, error):
    step, _ = made_step(world)
    before = everything(world.model, world.optimizer)

    def failing():
        world.closure()
        world.model.eval()
        raise error("in the middle")

    step.closure = failing
    with pytest.raises(error, match="in the middle"):
        step.at(0.5)
    assert everything(world.model, world.optimizer) == before


def test_an_interrupt_while_weights_are_written_back(world, monkeypatch):
    """Half of the tensors restored, then Ctrl-C: the other half is still restored."""
    step, _ = made_step(world)
    before = everything(world.model, world.optimizer)
    write, calls = weights_module._write, []

    def interrupted(parameters, values):
        calls.append(len(parameters))
        if len(calls) == 1:
            write(parameters[:2], values[:2])
            raise KeyboardInterrupt
        write(parameters, values)

    monkeypatch.setattr(weights_module, "_write", interrupted)
    with pytest.raises(KeyboardInterrupt):
        step.at(0.5)
    assert len(calls) == 2
    assert everything(world.model, world.optimizer) == before


def test_tied_weights_once_and_frozen_weights_never(world):
    step, _ = made_step(world)
    ids = [id(p) for p in step.parameters]
    assert ids.count(id(world.model.first.weight)) == 1
    assert id(world.model.frozen.weight) not in ids
    assert len(ids) == 7


def test_parameters_that_share_a_storage_are_taken_once():
    x = nn.Parameter(torch.ones(2))
    y = nn.Parameter(x.detach())
    model = nn.ParameterList([x, y])
    optimizer = torch.optim.SGD([x, y], lr=0.1)

    def closure():
        return (x**2).sum() + (y**2).sum()

    closure().backward()
    with capture(model, optimizer, closure) as step:
        optimizer.step()
    assert len(step.parameters) == 1
    assert x.tolist() == pytest.approx([0.6, 0.6])
    assert step.at(1.0) == pytest.approx(4 * (0.36 - 1))


def test_special_values_come_back_bit_for_bit():
    x = nn.Parameter(torch.tensor([-0.0, math.nan, math.inf, 1.0]))
    model = nn.ParameterList([x])
    optimizer = torch.optim.SGD([x], lr=0.1)
    x.grad = torch.zeros(4)
    with capture(model, optimizer, lambda: x[3]) as step:
        optimizer.step()
    before = bits(x)
    step.at(0.5)
    assert bits(x) == before


def test_a_step_measured_later_does_not_take_training_back(world):
    step, _ = made_step(world)
    value = step.at(0.5)
    world.optimizer.zero_grad()
    world.closure().backward()
    world.optimizer.step()
    before = everything(world.model, world.optimizer)
    assert step.at(0.5) == value
    assert everything(world.model, world.optimizer) == before


def test_between_two_sets_of_weights_equals_the_captured_step(world):
    world.model.eval()
    step, _ = made_step(world)
    after = {name: p.clone() for name, p in world.model.state_dict().items()}
    before = {
        **after,
        **dict(zip([n for n, p in world.model.named_parameters() if p.requires_grad], step.start, strict=True)),
    }
    given = Step.between(before, after, world.model, world.closure, lr=0.02)
    assert [given.at(m) for m in (0.5, 1.0, 7.0)] == [step.at(m) for m in (0.5, 1.0, 7.0)]
    with pytest.raises(ThalwegError, match=r"before: got \"no 'first.weight'\""):
        Step.between({}, after, world.model, world.closure, lr=0.02)
    with pytest.raises(ThalwegError, match="after: got"):
        Step.between(before, [torch.zeros(2)], world.model, world.closure, lr=0.02)


def test_any_optimizer_that_calls_a_closure(world):
    """LBFGS runs forward and backward inside its step; d is all that it moved."""
    world.model.eval()
    optimizer = torch.optim.LBFGS([*world.model.first.parameters(), world.model.second.bias], lr=0.5, max_iter=3)

    def train_closure():
        optimizer.zero_grad()
        loss = world.closure()
        loss.backward()
        return loss

    start = world.closure().item()
    with capture(world.model, optimizer, world.closure) as step:
        optimizer.step(train_closure)
    assert step.lr == 0.5
    assert step.at(1.0) == pytest.approx(world.closure().item() - start, rel=1e-12)
    assert step.at(1.0) < 0


def test_several_groups_and_a_wrapped_optimizer(world):
    groups = [
        {"params": world.model.first.parameters(), "lr": 0.5},
        {"params": world.model.second.parameters(), "lr": 0.01},
    ]
    inner = torch.optim.SGD(groups)
    wrapped = types.SimpleNamespace(optimizer=inner)
    world.closure().backward()
    with capture(world.model, wrapped, world.closure) as step:
        inner.step()
    assert step.lr == 0.5
    assert len(step.parameters) == 4


def with_backward(world):
    loss = world.closure()
    loss.backward()
    return loss


def with_its_own_gradients(world):
    with torch.enable_grad():
        return with_backward(world)


@pytest.mark.parametrize("training_closure", [with_backward, with_its_own_gradients])
def test_a_closure_that_changes_gradients_is_refused(world, training_closure):
    step, _ = made_step(world)
    before = everything(world.model, world.optimizer)
    step.closure = lambda: training_closure(world)
    with pytest.raises(ThalwegError, match=r"closure: it changed gradients.*only computes the loss"):
        step.at(0.5)
    assert everything(world.model, world.optimizer) == before


def test_a_loss_with_a_gradient_inside(world):
    """A gradient penalty differentiates within the loss: evaluated with gradients, and not taken for a training closure."""
    world.model.eval()

    def penalised():
        x = world.x.clone().requires_grad_()
        loss = F.mse_loss(world.model(x), world.y)
        return loss + torch.autograd.grad(loss, x, create_graph=True)[0].square().sum()

    step, _ = made_step(world)
    before = everything(world.model, world.optimizer)
    step.closure = penalised
    at_end = step.at(1.0)
    assert everything(world.model, world.optimizer) == before
    with step.at_start() as loss:
        start = loss().item()
    assert at_end == pytest.approx(penalised().item() - start, rel=1e-12)


def test_a_closure_that_does_not_return_a_loss_is_refused(world):
    step, _ = made_step(world)
    step.closure = lambda: torch.zeros(3)
    with pytest.raises(ThalwegError, match="one floating-point number"):
        step.at(0.5)


def test_a_python_float_keeps_its_digits(world):
    step, _ = made_step(world)
    step.closure = lambda: world.closure().item()
    as_float = step.at(0.5)
    step.closure = world.closure
    assert step.at(0.5) == as_float


def test_no_step_inside_the_block(world):
    with (
        pytest.raises(ThalwegError, match=r"no optimizer\.step\(\) inside"),
        capture(world.model, world.optimizer, world.closure),
    ):
        pass
    with (
        pytest.raises(ThalwegError, match="after the `with capture"),
        capture(world.model, world.optimizer, world.closure) as step,
    ):
        step.at(1.0)


def test_stale_casts_of_an_open_autocast_are_not_used():
    """Measured inside autocast, whose cache holds casts of the weights: f must still vary."""
    torch.manual_seed(0)
    model = nn.Linear(8, 8)
    x = torch.randn(4, 8)
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def closure():
        return model(x).float().square().mean()

    with torch.autocast("cpu", dtype=torch.bfloat16):
        loss = closure()
        loss.backward()
        with capture(model, optimizer, closure) as step:
            optimizer.step()
        torch.clear_autocast_cache()
        closure()  # the cache now holds casts of the weights after the step
        assert step.at(1.0) < -1e-3 * loss.item()
        assert step.at(0.5) < -1e-3 * loss.item()
        torch.testing.assert_close(closure().item() - loss.item(), step.at(1.0), rtol=1e-3, atol=0)


def test_obstacles_cost_no_passes(world):
    for group in world.optimizer.param_groups:
        group["lr"] = 0.0
    step, _ = made_step(world)
    assert step.obstacle() is Outcome.NO_UPDATE
    assert step.forward_passes == 0
