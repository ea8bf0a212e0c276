"""The battery of measures: quadratics with known spectra under SGD, momentum and AdamW, weights bit-identical after.

A new measure is one row in MEASURES and one function in EXPECTED: (quadratic, what happened) → its values.
"""

from __future__ import annotations

import functools
import math
from dataclasses import dataclass

import pytest
import torch
from torch import Tensor, nn

from tests.curvature.state import everything
from thalweg.curvature import MEASURES, Step, capture
from thalweg.curvature.measures import hessian as hessian_module
from thalweg.outcomes import ThalwegError

torch.set_num_threads(1)

OPTIMIZERS = {
    "sgd": (torch.optim.SGD, {"lr": 0.02}),
    "momentum": (torch.optim.SGD, {"lr": 0.02, "momentum": 0.9, "weight_decay": 0.01}),
    "adamw": (torch.optim.AdamW, {"lr": 0.02, "betas": (0.8, 0.9), "eps": 1e-6, "weight_decay": 0.1}),
}
SPECTRA = {
    "convex": [40.0, 7.0, 1.0, 0.1, 0.0],
    "repeated": [9.0, 9.0, 9.0, 2.0, 2.0],
    "indefinite": [10.0, 3.0, -1.0, -4.0, -20.0],
}


@dataclass
class Happened:
    """One step on ½ xᵀHx as followed by hand: nothing here is read from the optimizer or from thalweg."""

    hessian: Tensor
    before: Tensor
    update: Tensor
    gradients: list[Tensor]  # of all steps, oldest first
    kind: str
    lr: float


class Quadratic(nn.Module):
    def __init__(self, spectrum, dtype):
        super().__init__()
        generator = torch.Generator().manual_seed(1)
        q, _ = torch.linalg.qr(torch.randn(5, 5, generator=generator, dtype=torch.float64))
        hessian = q @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ q.T
        self.x, self.y = (nn.Parameter(torch.randn(n, generator=generator).to(dtype)) for n in (2, 3))
        self.register_buffer("hessian", ((hessian + hessian.T) / 2).to(dtype))
        self.frozen = nn.Parameter(torch.ones(2), requires_grad=False)

    def forward(self):
        point = torch.cat([self.x, self.y])
        return 0.5 * point @ self.hessian @ point


def made_step(kind, spectrum, dtype):
    model = Quadratic(SPECTRA[spectrum], dtype)
    optimizer_class, settings = OPTIMIZERS[kind]
    optimizer = optimizer_class(model.parameters(), **settings)
    hessian, gradients = model.hessian.double(), []
    for _ in range(4):
        optimizer.zero_grad()
        model().backward()
        before = torch.cat([model.x, model.y]).detach().double()
        gradients.append(hessian @ before)
        with capture(model, optimizer, model) as step:
            optimizer.step()
    update = torch.cat([model.x, model.y]).detach().double() - before
    return model, optimizer, step, Happened(hessian, before, update, gradients, kind, settings["lr"])


def preconditioner(happened):
    """P = (1 - β1^t)(√v̂ + ε) from the gradients of all steps; 1 for SGD."""
    if happened.kind != "adamw":
        return torch.ones(5, dtype=torch.float64)
    steps = len(happened.gradients)
    second = torch.zeros(5, dtype=torch.float64)
    for gradient in happened.gradients:
        second = 0.9 * second + 0.1 * gradient**2
    return (1 - 0.8**steps) * ((second / (1 - 0.9**steps)).sqrt() + 1e-6)


def expected_critical(happened):
    """f(m) = m d·g + m² dᵀHd / 2 comes back to 0 at -2 d·g / dᵀHd."""
    slope = float(happened.update @ happened.gradients[-1])
    bend = float(happened.update @ happened.hessian @ happened.update)
    keys = {"sharpness/threshold_critical": 2 / happened.lr}
    if slope > 0:  # momentum against the gradient
        return {**keys, "stability/margin": 0.0, "lr/critical": 0.0, "sharpness/critical": math.inf}, "NOT_DESCENT"
    if bend <= 0:  # downhill for ever
        nothing = dict.fromkeys(("stability/margin", "lr/critical", "sharpness/critical"), math.nan)
        return {**keys, **nothing}, "NOT_BRACKETED"
    margin = -2 * slope / bend
    critical_lr = margin * happened.lr
    return {**keys, "stability/margin": margin, "lr/critical": critical_lr, "sharpness/critical": 2 / critical_lr}, "OK"


def expected_hessian(happened):
    row = {"sharpness/hessian": float(torch.linalg.eigvalsh(happened.hessian)[-1])}
    if happened.kind == "sgd":
        row["sharpness/threshold"] = 100.0
    if happened.kind == "momentum":
        row["sharpness/threshold"] = 190.0 - 0.01
    return row, "OK"


def expected_preconditioned(happened):
    scale = preconditioner(happened).rsqrt()
    row = {"sharpness/preconditioned": float(torch.linalg.eigvalsh(scale[:, None] * happened.hessian * scale)[-1])}
    row["sharpness/threshold"] = {"sgd": 100.0, "momentum": 189.99, "adamw": (100 - 0.1) * 9}[happened.kind]
    return row, "OK"


def expected_directional(happened):
    """-dᵀHd / (η d·g), whatever the signs."""
    slope = float(happened.update @ happened.gradients[-1])
    bend = float(happened.update @ happened.hessian @ happened.update)
    return {"sharpness/directional": -bend / (happened.lr * slope)}, "NOT_DESCENT" if slope > 0 else "OK"


def expected_norms(happened):
    update, before = happened.update.norm().item(), happened.before.norm().item()
    ratios = happened.update.split([2, 3]), happened.before.split([2, 3])
    return {
        "norm/update": update,
        "norm/update_ratio": update / before,
        "norm/update_ratio_max": max((d.norm() / w.norm()).item() for d, w in zip(*ratios, strict=True)),
        "norm/gradient": happened.gradients[-1].norm().item(),
    }, "OK"


EXPECTED = {
    "critical": expected_critical,
    "hessian": expected_hessian,
    "preconditioned": expected_preconditioned,
    "directional": expected_directional,
    "norms": expected_norms,
}
TOLERANCE = {
    "critical": 1 / 30,
    "directional": 1e-3,
}  # half of 1/16: the centre of the certified interval; 1/10 of the target
WITHOUT_FORWARDS = {"norms"}


def test_every_measure_has_its_expectation():
    assert set(EXPECTED) == set(MEASURES)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32], ids=["float64", "float32"])
@pytest.mark.parametrize("spectrum", SPECTRA)
@pytest.mark.parametrize("kind", OPTIMIZERS)
@pytest.mark.parametrize("measure", MEASURES)
def test_known_values_and_weights_untouched(measure, kind, spectrum, dtype):
    model, optimizer, step, happened = made_step(kind, spectrum, dtype)
    before = everything(model, optimizer)
    row = MEASURES[measure](step)
    assert everything(model, optimizer) == before
    estimated_error = row.pop("sharpness/directional_error", 0.0)
    assert 0 <= estimated_error <= 0.01
    expected, outcome = EXPECTED[measure](happened)
    assert step.outcome.name == outcome
    assert row == pytest.approx(expected, rel=TOLERANCE.get(measure, 1e-5), nan_ok=True)
    assert (step.forward_passes == 0) == (measure in WITHOUT_FORWARDS)


@pytest.mark.parametrize("measure", [name for name in MEASURES if name not in WITHOUT_FORWARDS])
def test_weights_come_back_from_an_exception_in_the_middle(measure):
    model, optimizer, step, _ = made_step("adamw", "convex", torch.float64)
    before = everything(model, optimizer)

    def failing():
        model()
        raise torch.OutOfMemoryError("in the middle")

    step.closure = failing
    with pytest.raises(torch.OutOfMemoryError, match="in the middle"):
        MEASURES[measure](step)
    assert everything(model, optimizer) == before


@pytest.mark.parametrize(
    ("measure", "dtype", "outcome"),
    [(name, torch.float32, "NOT_FINITE") for name in MEASURES]
    + [(name, torch.bfloat16, "LOW_PRECISION") for name in MEASURES if name not in WITHOUT_FORWARDS],
)
def test_no_number_where_there_is_none(measure, dtype, outcome):
    model = Quadratic(SPECTRA["convex"], torch.float32)
    if outcome == "NOT_FINITE":
        model.x.data[0] = math.nan
    model.to(dtype)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.01)
    model().backward()
    with capture(model, optimizer, model) as step:
        optimizer.step()
    row = MEASURES[measure](step)
    assert step.outcome.name == outcome
    assert not any(math.isfinite(value) for key, value in row.items() if "threshold" not in key)


def test_a_step_that_did_not_move_still_has_a_hessian():
    model = Quadratic(SPECTRA["convex"], torch.float64)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0)
    model().backward()
    with capture(model, optimizer, model) as step:
        optimizer.step()
    assert MEASURES["hessian"](step) == pytest.approx({"sharpness/hessian": 40.0})
    assert step.outcome.name == "OK"


@pytest.mark.parametrize("measure", ["hessian", "preconditioned"])
def test_an_eigenvalue_that_has_not_converged_is_not_given(measure, monkeypatch):
    short = functools.partial(hessian_module.hessian_eigenpairs, max_products=2)
    monkeypatch.setattr(hessian_module, "hessian_eigenpairs", short)
    _, _, step, _ = made_step("adamw", "convex", torch.float64)
    assert MEASURES[measure](step) == {}
    assert step.outcome.name == "NOT_CONVERGED"
    assert not step.memory


def test_a_preconditioner_needs_an_optimizer():
    model = Quadratic(SPECTRA["convex"], torch.float64)
    step = Step.between(model.state_dict(), {k: v / 2 for k, v in model.state_dict().items()}, model, model, lr=0.1)
    with pytest.raises(ThalwegError, match=r"expected one that an optimizer made\. Use capture or a probe"):
        MEASURES["preconditioned"](step)
