"""Critical sharpness on quadratics with closed forms, and every outcome from a situation that makes it."""

from __future__ import annotations

import copy
import itertools
import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

from tests.curvature.state import everything
from thalweg.curvature import Critical, capture, critical_sharpness, paper_search, probe
from thalweg.curvature.measures.critical import critical_measure
from thalweg.outcomes import Outcome

torch.set_num_threads(1)


def quadratic_step(spectrum, start, optimizer=torch.optim.SGD, dtype=torch.float64, steps=1, **settings):
    """The last of some steps on sum(spectrum x²)/2."""
    x = nn.Parameter(torch.tensor(start, dtype=dtype))
    curvature = torch.tensor(spectrum, dtype=dtype)
    made = optimizer([x], **settings)
    model = nn.ParameterList([x])

    def closure():
        return 0.5 * (curvature * x * x).sum()

    for _ in range(steps):
        made.zero_grad()
        closure().backward()
        before = x.detach().clone()
        with capture(model, made, closure) as step:
            made.step()
    return step, before, x.detach() - before, curvature


def test_one_dimension_is_the_curvature():
    step, *_ = quadratic_step([3.0], [1.0], lr=0.1)
    critical = critical_sharpness(step, tolerance=1e-6)
    assert critical.outcome is Outcome.OK
    assert critical.sharpness == pytest.approx(3.0, rel=1e-6)
    assert critical.critical_lr == pytest.approx(2 / 3, rel=1e-6)
    assert critical.multiple == pytest.approx(20 / 3, rel=1e-6)
    assert critical.lower <= 20 / 3 < critical.upper


@given(
    spectrum=st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    start=st.lists(st.floats(0.1, 3), min_size=3, max_size=3),
    log_lr=st.floats(-6, -3),
)
def test_gradient_descent_weights_the_spectrum(spectrum, start, log_lr):
    """Eq. 3: on a quadratic λ_c = λ_dir = Σ c² λ / Σ c² with c = λ x, whatever the learning rate."""
    step, *_ = quadratic_step(spectrum, start, lr=10**log_lr)
    weights = [(a * x) ** 2 for a, x in zip(spectrum, start, strict=True)]
    expected = math.fsum(w * a for w, a in zip(weights, spectrum, strict=True)) / math.fsum(weights)
    critical = critical_sharpness(step, tolerance=1e-4)
    assert critical.sharpness == pytest.approx(expected, rel=2e-4)


@pytest.mark.parametrize(
    ("optimizer", "settings"),
    [
        (torch.optim.SGD, {"lr": 0.01, "momentum": 0.9}),
        (torch.optim.AdamW, {"lr": 0.01, "weight_decay": 0.1}),
        (torch.optim.RMSprop, {"lr": 0.01}),
    ],
)
def test_any_update_crosses_where_the_parabola_does(optimizer, settings):
    """f(m) = m d·g + m² dᵀHd/2, so m_c = -2 d·g / dᵀHd."""
    step, x, d, curvature = quadratic_step([5.0, 1.0, 0.2], [1.0, -2.0, 3.0], optimizer, steps=3, **settings)
    expected = float(-2 * d @ (curvature * x) / (d @ (curvature * d)))
    critical = critical_sharpness(step, tolerance=1e-4)
    assert critical.multiple == pytest.approx(expected, rel=1e-4)
    assert critical.sharpness == pytest.approx(2 / (expected * 0.01), rel=1e-4)


@pytest.mark.parametrize(
    ("optimizer", "settings", "threshold"),
    [
        (torch.optim.SGD, {"lr": 0.25}, 8.0),
        (torch.optim.SGD, {"lr": 0.25, "momentum": 0.5}, 12.0),
        (torch.optim.SGD, {"lr": 0.25, "momentum": 0.5, "nesterov": True}, 6.0),
    ],
)
def test_margin_is_one_on_a_period_2_orbit(optimizer, settings, threshold):
    """At the edge of stability x flips its sign at every step: d = -2x, and f(1) = 0."""
    step, x, d, _ = quadratic_step([threshold], [1.0], optimizer, steps=401, **settings)
    assert float(d) == pytest.approx(float(-2 * x), rel=1e-9)
    critical = critical_sharpness(step, tolerance=1e-4)
    assert critical.outcome is Outcome.OK
    assert critical.multiple == pytest.approx(1.0, abs=2e-4)
    assert critical.sharpness == pytest.approx(2 / 0.25, rel=2e-4)


def test_margin_is_one_on_a_period_2_orbit_of_adam():
    """β2 = 1 - 1e-12 keeps v where it is: P = 1 and the edge is (2/η)(1 + β1)/(1 - β1)."""
    x = nn.Parameter(torch.ones(1, dtype=torch.float64))
    optimizer = torch.optim.Adam([x], lr=0.1, betas=(0.5, 1 - 1e-12), eps=0.0)
    curvature = 2 / 0.1 * 3

    def closure():
        return 0.5 * curvature * (x * x).sum()

    for i in range(301):
        optimizer.zero_grad()
        closure().backward()
        if i == 0:
            optimizer.state[x] = {
                "step": torch.tensor(1e15),
                "exp_avg": torch.zeros_like(x),
                "exp_avg_sq": torch.ones_like(x),
            }
        with capture(nn.ParameterList([x]), optimizer, closure) as step:
            optimizer.step()
    critical = critical_sharpness(step, tolerance=1e-4)
    assert critical.multiple == pytest.approx(1.0, abs=2e-4)


def test_passes_are_counted():
    step, *_ = quadratic_step([3.0], [1.0], lr=0.65)  # m_c = 1.026: the step and a multiple 1/16 from it
    first = critical_sharpness(step)
    assert first.forward_passes == 2 + 1 + 1  # f, L(θ_before), and its repetition
    step, *_ = quadratic_step([3.0], [1.0], lr=0.65)
    step.check_determinism = False
    assert critical_sharpness(step).forward_passes == 2 + 1


def test_the_next_measurement_starts_from_the_last():
    step, *_ = quadratic_step([3.0], [1.0], lr=1e-4)
    row = critical_measure(step)
    first = step.forward_passes
    again, *_ = quadratic_step([3.0], [1.0], lr=1e-4)
    again.memory = step.memory
    assert critical_measure(again)["sharpness/critical"] == pytest.approx(row["sharpness/critical"], rel=1 / 8)
    assert again.forward_passes == 4 < first
    halved, *_ = quadratic_step([3.0], [1.0], lr=0.5e-4)  # the margin doubles, the critical learning rate stays
    halved.memory = step.memory
    assert critical_measure(halved)["sharpness/critical"] == pytest.approx(row["sharpness/critical"], rel=1 / 8)
    assert halved.forward_passes == 4


def test_result_saves_and_summarises(tmp_path):
    step, *_ = quadratic_step([3.0], [1.0], lr=0.1)
    critical = critical_sharpness(step, tolerance=1e-4)
    assert Critical.load(critical.save(tmp_path / "critical.json")) == critical
    assert "critical sharpness 3" in critical.summary()
    assert "kalra2026critical" in critical.cite()


# Each world gives (model, optimizer, closure): a step is made from them, then measured.


def regression(dtype=torch.float32, lr=0.1):
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(3, 8), nn.Tanh(), nn.Linear(8, 1)).to(dtype)
    x, y = torch.randn(32, 3).to(dtype), torch.randn(32, 1).to(dtype)
    return model, torch.optim.SGD(model.parameters(), lr=lr), lambda: (model(x) - y).square().mean()


def learning_rate_zero():
    return regression(lr=0.0)


def ascent():
    """Float32, a step that climbs: bit-equal losses at small multiples are no evidence of descent."""
    model, _, closure = regression()
    return model, torch.optim.SGD(model.parameters(), lr=0.1, maximize=True), closure


def ascent_from_a_minimum():
    x = nn.Parameter(torch.zeros(4))
    start = torch.tensor([1e-3, 0, 0, 0])

    def closure():
        return 1 + (x**2).sum() - (x * start).sum()

    return nn.ParameterList([x]), torch.optim.SGD([x], lr=1.0, maximize=True), closure


def flat():
    model, optimizer, closure = regression()
    calls = itertools.count()

    def once():  # the loss of the step depends on the weights, the one that is given to the probe does not
        return closure() if next(calls) == 0 else torch.ones(())

    return model, optimizer, once


def endless_descent():
    x = nn.Parameter(torch.ones(1, dtype=torch.float64))
    return nn.ParameterList([x]), torch.optim.SGD([x], lr=1.0), lambda: -x.sum()


def nan_weights():
    model, optimizer, closure = regression()
    with torch.no_grad():
        model[0].weight[0, 0] = math.nan
    return model, optimizer, closure


def infinite_loss():
    model, optimizer, closure = regression()
    calls = itertools.count()
    return model, optimizer, lambda: closure() * (1.0 if next(calls) == 0 else math.inf)


def nondeterministic():
    """Noise from a generator of its own, which no global state restores."""
    model, optimizer, closure = regression()
    generator = torch.Generator().manual_seed(0)
    return model, optimizer, lambda: closure() + 1e-3 * torch.rand((), generator=generator)


def bfloat16():
    return regression(torch.bfloat16)


SITUATIONS = {
    learning_rate_zero: Outcome.NO_UPDATE,
    ascent: Outcome.NOT_DESCENT,
    ascent_from_a_minimum: Outcome.NOT_DESCENT,
    flat: Outcome.NOT_BRACKETED,
    endless_descent: Outcome.NOT_BRACKETED,
    nan_weights: Outcome.NOT_FINITE,
    infinite_loss: Outcome.NOT_FINITE,
    nondeterministic: Outcome.NOT_DETERMINISTIC,
    bfloat16: Outcome.LOW_PRECISION,
}


@pytest.mark.parametrize("situation", SITUATIONS, ids=lambda situation: situation.__name__)
def test_every_outcome_from_a_real_situation(situation):
    model, optimizer, closure = situation()
    closure().backward()
    with capture(model, optimizer, closure) as step:
        optimizer.step()
    before = everything(model, optimizer)
    critical = critical_sharpness(step)
    assert everything(model, optimizer) == before
    assert critical.outcome is SITUATIONS[situation]
    assert critical.summary().startswith(critical.outcome.name)
    numbers = (critical.multiple, critical.critical_lr, critical.sharpness)
    if critical.outcome is Outcome.NOT_DESCENT:
        assert numbers == (0.0, 0.0, math.inf)
        assert critical.lower == 0.0 < critical.upper
    else:
        assert all(math.isnan(number) for number in numbers)
    if critical.outcome in (Outcome.NO_UPDATE, Outcome.LOW_PRECISION):
        assert critical.forward_passes == 0


def test_rounding_is_no_evidence_of_descent():
    """Steps that climb by a hundred roundings: somewhere below, noise looks like descent to Algorithm 1, which trusts it."""
    misled = []
    for seed in range(12):
        torch.manual_seed(seed)
        model = nn.Sequential(nn.Linear(3, 32), nn.Tanh(), nn.Linear(32, 1))
        x, y = torch.randn(256, 3), torch.randn(256, 1)
        optimizer = torch.optim.SGD(model.parameters(), lr=1e-5, maximize=True)

        def closure(model=model, x=x, y=y):
            return (model(x) - y).square().mean()

        closure().backward()
        with capture(model, optimizer, closure) as step:
            optimizer.step()
        assert step.at(1.0) > step.rounding
        assert critical_sharpness(step).outcome is Outcome.NOT_DESCENT
        misled.append(paper_search(step.at).outcome is Outcome.OK)
    assert any(misled)


def test_a_wall_is_a_crossing():
    """A loss that leaves the finite numbers at x = -1 while it still falls: the crossing is there."""
    x = nn.Parameter(torch.zeros(1, dtype=torch.float64))
    optimizer = torch.optim.SGD([x], lr=0.1)

    def closure():
        return torch.where(x > -1, x, math.nan).sum()

    closure().backward()
    with capture(nn.ParameterList([x]), optimizer, closure) as step:
        optimizer.step()
    critical = critical_sharpness(step, tolerance=1e-3)
    assert critical.outcome is Outcome.OK
    assert critical.multiple == pytest.approx(10.0, rel=1e-3)


def test_a_step_far_below_rounding_is_still_measured():
    """At lr 1e-9 the first multiples change nothing in float32; the curvature comes out all the same."""
    step, *_ = quadratic_step([3.0, 3.0], [1.0, -1.0], lr=1e-9, dtype=torch.float32)
    copy_of_x = copy.deepcopy(step.parameters[0])
    assert step.obstacle() is Outcome.NO_UPDATE  # not even the weights moved
    assert torch.equal(copy_of_x, step.parameters[0])
    step, *_ = quadratic_step([3.0, 3.0], [1.0, -1.0], lr=3e-8, dtype=torch.float32)
    assert abs(step.at(1.0)) <= step.rounding
    critical = critical_sharpness(step)
    assert critical.outcome is Outcome.OK
    assert critical.multiple == pytest.approx(-2 / float(step.update[0][0]), rel=1 / 16)


def test_a_probe_carries_the_memory_through_json():
    """What a resumed probe measures next costs what it would have cost without the stop."""
    x = nn.Parameter(torch.tensor([1.0, -2.0], dtype=torch.float64))
    curvature = torch.tensor([3.0, 0.5], dtype=torch.float64)
    optimizer = torch.optim.SGD([x], lr=1e-3)

    def closure():
        return 0.5 * (curvature * x * x).sum()

    def train(watching, steps):
        with watching:
            for _ in range(steps):
                optimizer.zero_grad()
                closure().backward()
                optimizer.step()

    model = nn.ParameterList([x])
    first = probe(model, optimizer, every=1, closure=closure)
    train(first, 5)
    state = json.loads(json.dumps(first.state_dict()))
    assert state["memory"]["search"]["measurements"] == 5
    there = x.detach().clone()
    train(first, 3)
    with torch.no_grad():
        x.copy_(there)
    again = probe(model, optimizer, every=1, closure=closure)
    again.load_state_dict(state)
    train(again, 3)

    def rows(made):
        return [{k: v for k, v in row.items() if k != "probe/seconds"} for row in made.history.rows]

    assert rows(again) == rows(first)
    assert [row["probe/forward_passes"] for row in rows(again)[1:]] == [3.0] * 7
