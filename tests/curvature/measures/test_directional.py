"""Directional sharpness against closed forms, dense Hessians and its own exact form; and where there is no number."""

from __future__ import annotations

import math

import pytest
import torch
import torch.nn.functional as F
from hypothesis import given
from hypothesis import strategies as st
from torch import nn
from torch.func import functional_call

from tests.curvature.state import everything
from tests.curvature.training import batches, cross_entropy
from thalweg.curvature import Directional, Step, capture, directional_sharpness
from thalweg.curvature.measures.directional import directional_measure, parabola
from thalweg.experiments.models import GPT, MLP
from thalweg.outcomes import Outcome

torch.set_num_threads(1)


def step_on(loss, start, optimizer=torch.optim.SGD, **settings):
    x = nn.Parameter(torch.tensor(start, dtype=torch.float64))
    made = optimizer([x], **settings)

    def closure():
        return loss(x)

    closure().backward()
    with capture(nn.ParameterList([x]), made, closure) as step:
        made.step()
    return step


@given(
    spectrum=st.lists(st.floats(0.01, 100), min_size=3, max_size=3),
    start=st.lists(st.floats(0.1, 3), min_size=3, max_size=3),
    log_lr=st.floats(-5, -1),
)
def test_gradient_descent_weights_the_spectrum(spectrum, start, log_lr):
    """Eq. 3: Σ c²λ / Σ c² with c = λx, whatever the learning rate."""
    curvature = torch.tensor(spectrum, dtype=torch.float64)
    step = step_on(lambda x: 0.5 * (curvature * x * x).sum(), start, lr=10**log_lr)
    weights = [(a * x) ** 2 for a, x in zip(spectrum, start, strict=True)]
    expected = math.fsum(w * a for w, a in zip(weights, spectrum, strict=True)) / math.fsum(weights)
    found, exact = directional_sharpness(step), directional_sharpness(step, exact=True)
    assert abs(found.sharpness / expected - 1) <= found.error + 1e-12
    assert found.error <= 1e-2  # steps of 1e-6 of the crossing are told from rounding to this, no better
    assert exact.sharpness == pytest.approx(expected, rel=1e-7)  # d itself is rounded
    assert found.multiple == pytest.approx(2 / (found.sharpness * 10**log_lr))


@pytest.mark.parametrize("clip", [None, 1e-3])
def test_against_the_dense_hessian_in_float64(clip):
    """AdamW with decay on a GELU network; gradients that were clipped afterwards are not asked."""
    model = MLP((4, 6, 3), activation="gelu", seed=0).double()
    (x, y) = next(batches(1))
    x = x[:, :4].double()
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01, weight_decay=0.1)
    for _ in range(3):
        optimizer.zero_grad()
        cross_entropy(model, (x, y)).backward()
        before = {name: p.detach().clone() for name, p in model.named_parameters()}
        gradient = torch.cat([p.grad.reshape(-1).clone() for p in model.parameters()])
        if clip is not None:
            nn.utils.clip_grad_norm_(model.parameters(), clip)
        with capture(model, optimizer, lambda: cross_entropy(model, (x, y))) as step:
            optimizer.step()
    flat = torch.cat([p.reshape(-1) for p in before.values()])
    sizes = [p.numel() for p in before.values()]

    def loss(vector):
        parts = zip(before.items(), vector.split(sizes), strict=True)
        weights = {name: part.view_as(p) for (name, p), part in parts}
        return F.cross_entropy(functional_call(model, weights, (x,)), y)

    hessian = torch.func.hessian(loss)(flat)
    d = torch.cat([p.detach().reshape(-1) for p in model.parameters()]) - flat
    expected = float(-(d @ hessian @ d) / (0.01 * d @ gradient))
    found, exact = directional_sharpness(step), directional_sharpness(step, exact=True)
    assert exact.sharpness == pytest.approx(expected, rel=1e-9)
    assert exact.error == 0
    assert exact.forward_passes == 2
    assert found.sharpness == pytest.approx(expected, rel=1e-4)
    assert abs(found.sharpness / expected - 1) <= found.error <= 0.01


def test_float32_training_stays_within_the_estimated_error():
    """A GELU network on minibatches: memory carries h along, and most measurements need six evaluations."""
    model = MLP((6, 32, 32, 3), activation="gelu", seed=0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=2e-3)
    memory, errors, passes = {}, [], []
    for i, batch in enumerate(batches(60, rows=64)):
        optimizer.zero_grad()
        cross_entropy(model, batch).backward()
        with capture(model, optimizer, lambda batch=batch: cross_entropy(model, batch)) as step:
            optimizer.step()
        step.memory, step.check_determinism = memory, False
        if i % 3 == 2:
            found, exact = directional_sharpness(step), directional_sharpness(step, exact=True)
            assert found.outcome is Outcome.OK
            assert found.error <= 0.03
            errors.append(abs(found.sharpness / exact.sharpness - 1))
            assert errors[-1] <= found.error
            passes.append(found.forward_passes)
    assert sorted(errors)[len(errors) // 2] < 2e-3
    assert sorted(passes)[len(passes) // 2] == 7  # six, and L(θ_before)


def test_a_small_gpt_with_attention():
    """The exact form needs attention's second derivative, and switches its kernel for the call."""
    model = GPT(16, length=8, width=16, layers=1, heads=2, seed=0).double()
    tokens = torch.randint(0, 16, (4, 9), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)

    def closure():
        return F.cross_entropy(model(tokens[:, :-1]).flatten(0, 1), tokens[:, 1:].flatten())

    closure().backward()
    with capture(model, optimizer, closure) as step:
        optimizer.step()
    before = everything(model, optimizer)
    found, exact = directional_sharpness(step), directional_sharpness(step, exact=True)
    assert everything(model, optimizer) == before
    assert found.sharpness == pytest.approx(exact.sharpness, rel=1e-3)


def test_negative_curvature_is_reported():
    """Down from near the top of a cosine: it bends down, λ_dir = -cos x / 1 along gradient descent."""
    step = step_on(lambda x: torch.cos(x).sum(), [0.5], lr=0.1)
    found = directional_sharpness(step)
    assert found.outcome is Outcome.OK
    assert found.sharpness == pytest.approx(-math.cos(0.5), rel=1e-4)
    assert found.multiple < 0 < -found.curvature
    assert directional_measure(step)["sharpness/directional"] == pytest.approx(found.sharpness, rel=1e-4)


def test_a_climbing_step_is_named():
    step = step_on(lambda x: 1.5 * (x**2).sum(), [1.0], lr=0.1, maximize=True)
    found = directional_sharpness(step)
    assert found.outcome is Outcome.NOT_DESCENT
    assert found.sharpness == pytest.approx(-3.0, rel=1e-6)
    assert found.slope == pytest.approx(0.9, rel=1e-6)
    assert "NOT_DESCENT" in found.summary()
    assert set(directional_measure(step)) == {"sharpness/directional", "sharpness/directional_error"}
    assert step.outcome is Outcome.NOT_DESCENT


@pytest.mark.parametrize("loss", [lambda x: -x.sum(), lambda x: 0 * x.sum() + 1], ids=["straight", "flat"])
def test_a_curvature_that_rounding_hides_is_not_given(loss):
    model = nn.ParameterList([nn.Parameter(torch.ones(1))])
    step = Step.between([torch.ones(1)], [torch.full((1,), 1.1)], model, lambda: loss(model[0]), lr=0.1)
    found = directional_sharpness(step)
    assert found.outcome is Outcome.NOT_RESOLVED
    assert directional_measure(step) == {}
    assert step.outcome is Outcome.NOT_RESOLVED
    assert "directional" not in step.memory
    assert "exact=True" in found.summary()


def test_two_values_that_agree_by_accident_are_not_believed():
    """Quotients ½ at h = 1 and at h = ½, but 1 at h = 0."""
    found = parabola(lambda m: -m + m**2 / 2 - 1.25 * m**4 + m**6, rounding=1e-16)
    assert found.curvature == pytest.approx(1.0, abs=0.01)
    assert abs(found.curvature - 1) <= found.error <= 0.01


def test_unknown_noise_sends_h_up():
    """Noise of 1e-4 where 1e-12 was told, as products in bfloat16 make it."""
    found = parabola(lambda m: -m + m**2 / 20 + 1e-4 * math.sin(1e9 * m**3 + 1e5 * m), rounding=1e-12, start=0.5)
    assert found.error <= 0.1
    assert found.curvature == pytest.approx(0.1, rel=0.05)


def test_a_loss_that_is_not_finite_sends_h_down():
    found = parabola(lambda m: -m + m**2 if abs(m) < 0.3 else math.inf, rounding=1e-16)
    assert found.curvature == pytest.approx(2.0, rel=1e-6)
    assert found.slope == pytest.approx(-1.0, rel=1e-6)


def test_the_first_h_is_found_from_far_away():
    """m_dir = 2e4 in float32: at h = 1 the sum of both sides is rounding alone."""
    model = nn.ParameterList([nn.Parameter(torch.ones(1))])
    step = Step.between([torch.ones(1)], [torch.full((1,), 1 - 1e-4)], model, lambda: (model[0] ** 2).sum(), lr=1e-4)
    found = directional_sharpness(step)
    assert found.multiple == pytest.approx(2e4, rel=0.02)
    assert found.forward_passes < 16


def test_weights_that_moved_without_requiring_gradients_count():
    model = nn.ParameterList([nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2)])
    model[1].requires_grad_(False)
    start, end = [torch.ones(1)] * 2, [torch.full((1,), 0.9)] * 2
    step = Step.between(start, end, model, lambda: (model[0] ** 2 + 3 * model[1] ** 2).sum(), lr=0.1)
    before = everything(model)
    exact = directional_sharpness(step, exact=True)
    assert everything(model) == before
    assert exact.curvature == pytest.approx(8 * 0.01, rel=1e-6)
    assert directional_sharpness(step).curvature == pytest.approx(8 * 0.01, rel=1e-6)


def test_a_first_group_at_learning_rate_0():
    x, y = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    model = nn.ParameterList([x, y])
    optimizer = torch.optim.SGD([{"params": [x], "lr": 0.0}, {"params": [y], "lr": 0.1}])

    def closure():
        return (x**2 + y**2).sum()

    closure().backward()
    with capture(model, optimizer, closure) as step:
        optimizer.step()
    found = directional_sharpness(step)
    assert math.isnan(found.sharpness)
    assert found.multiple == pytest.approx(10.0)
    assert "learning rate of 0" in found.summary()


def test_result_saves_and_summarises(tmp_path):
    found = directional_sharpness(step_on(lambda x: 1.5 * (x**2).sum(), [1.0], lr=0.1))
    assert Directional.load(found.save(tmp_path / "directional.json")) == found
    assert found.summary().startswith("directional sharpness 3 [1/lr]")
    assert found.summary().endswith("threshold 20 [1/lr]")
    assert "kalra2026critical" in found.cite()
