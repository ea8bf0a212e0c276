"""Against dense Hessians in float64: torch.func's, and finite differences of gradients where a norm layer is in the model.

torch.func.hessian is not an oracle for LayerNorm: in torch 2.13 its blocks of the norm's weight are off by some 5 % and
not symmetric, and it refuses BatchNorm in training mode.
"""

from __future__ import annotations

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn
from torch.func import functional_call, hessian
from torch.nn.attention import SDPBackend, sdpa_kernel

from tests.curvature.state import everything
from thalweg.curvature import Eigen, hessian_eigenvalues
from thalweg.curvature.measures.hessian import hessian_eigenpairs
from thalweg.outcomes import ThalwegError

torch.set_num_threads(1)


class Rms(nn.Module):
    def __init__(self, width):
        super().__init__()
        self.weight = nn.Parameter(torch.ones(width))

    def forward(self, x):
        return self.weight * x * torch.rsqrt(x.square().mean(-1, keepdim=True) + 1e-5)


class Block(nn.Module):
    """A small GPT: embeddings, causal attention by scaled_dot_product_attention, norms, MLP, tied head."""

    def __init__(self, norm, vocabulary=5, length=5, width=6, heads=2):
        super().__init__()
        self.heads = heads
        self.tokens, self.positions = nn.Embedding(vocabulary, width), nn.Embedding(length, width)
        self.norm1, self.norm2 = norm(width), norm(width)
        self.qkv, self.out = nn.Linear(width, 3 * width, bias=False), nn.Linear(width, width, bias=False)
        self.mlp = nn.Sequential(nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width))
        self.head = nn.Linear(width, vocabulary, bias=False)
        self.head.weight = self.tokens.weight

    def forward(self, x):
        h = self.tokens(x) + self.positions(torch.arange(x.shape[1]))
        q, k, v = (
            part.unflatten(-1, (self.heads, -1)).transpose(1, 2) for part in self.qkv(self.norm1(h)).chunk(3, -1)
        )
        h = h + self.out(F.scaled_dot_product_attention(q, k, v, is_causal=True).transpose(1, 2).flatten(2))
        return self.head(h + self.mlp(self.norm2(h)))


def perceptron():
    model = nn.Sequential(nn.Linear(5, 8), nn.Tanh(), nn.Linear(8, 3))
    x, y = torch.randn(20, 5), torch.randint(0, 3, (20,))
    return model, x, lambda out: F.cross_entropy(out, y)


def indefinite():
    """Mean squared error far from a minimum: as many negative eigenvalues as positive ones, and of the same size."""
    model = nn.Sequential(nn.Linear(5, 6), nn.GELU(), nn.Linear(6, 2))
    x, y = torch.randn(20, 5), 20 * torch.randn(20, 2)
    return model, x, lambda out: F.mse_loss(out, y.to(out))


def convolution():
    model = nn.Sequential(nn.Conv2d(1, 3, 3), nn.Softplus(), nn.Flatten(), nn.Linear(12, 2))
    x, y = torch.randn(8, 1, 4, 4), torch.randint(0, 2, (8,))
    return model, x, lambda out: F.cross_entropy(out, y)


def attention(norm=Rms):
    x, y = torch.randint(0, 5, (4, 5)), torch.randint(0, 5, (4, 5))
    return Block(norm), x, lambda out: F.cross_entropy(out.flatten(0, 1), y.flatten())


def layer_norm():
    return attention(nn.LayerNorm)


def batch_norm():
    model = nn.Sequential(nn.Linear(5, 6), nn.BatchNorm1d(6), nn.GELU(), nn.LayerNorm(6), nn.Linear(6, 2))
    x, y = torch.randn(20, 5), 5 * torch.randn(20, 2)
    return model, x, lambda out: F.mse_loss(out, y.to(out))


WORLDS = [perceptron, indefinite, convolution, attention, layer_norm, batch_norm]


def world(make, dtype=torch.float64):
    torch.manual_seed(3)
    model, x, criterion = make()
    model = model.to(dtype)
    x = x.to(dtype) if x.is_floating_point() else x
    return model, lambda: criterion(model(x)), x, criterion


def dense(make):
    """The whole Hessian in float64, in the order of model.parameters(), by other means than double backward."""
    model, loss, x, criterion = world(make)
    named = {name: p.detach() for name, p in model.named_parameters()}
    with sdpa_kernel(SDPBackend.MATH):
        if any(isinstance(module, nn.LayerNorm | nn.BatchNorm1d) for module in model.modules()):
            return finite_differences(loss, list(model.parameters()))
        blocks = hessian(lambda p: criterion(functional_call(model, p, (x,))))(named)
    sizes = {name: p.numel() for name, p in named.items()}
    return torch.cat([torch.cat([blocks[a][b].reshape(sizes[a], sizes[b]) for b in named], 1) for a in named])


def finite_differences(loss, parameters, h=3e-5):
    rows = []
    for parameter in parameters:
        flat = parameter.data.view(-1)
        for i in range(flat.numel()):
            sides = []
            for shift in (h, -2 * h):
                flat[i] += shift
                sides.append(torch.cat([g.reshape(-1) for g in torch.autograd.grad(loss(), parameters)]))
            flat[i] += h
            rows.append((sides[0] - sides[1]) / (2 * h))
    matrix = torch.stack(rows)
    return (matrix + matrix.T) / 2


@pytest.mark.parametrize("make", WORLDS, ids=lambda make: make.__name__)
def test_largest_algebraic_eigenvalues(make):
    expected = torch.linalg.eigvalsh(dense(make)).flip(0).numpy()
    model, loss, *_ = world(make)
    before = everything(model)
    top = hessian_eigenvalues(loss, list(model.parameters()), tolerance=1e-6)
    assert top.converged
    np.testing.assert_allclose(top.values, expected[:1], rtol=1e-7)
    ten = hessian_eigenvalues(loss, list(model.parameters()), k=10, tolerance=1e-6)
    assert ten.converged
    np.testing.assert_allclose(ten.values, expected[:10], rtol=1e-7)
    after = everything(model)
    for kept in ("weights", "gradients", "random", "requires_grad", "training"):
        assert after[kept] == before[kept]


def test_the_largest_in_magnitude_is_not_taken():
    values = torch.linalg.eigvalsh(dense(indefinite))
    assert values[0] < -0.5 * values[-1]
    x = torch.zeros(4, dtype=torch.float64, requires_grad=True)
    spectrum = torch.tensor([-9.0, -3.0, 2.0, 1.0], dtype=torch.float64)
    eigen = hessian_eigenvalues(lambda: 0.5 * (spectrum * x * x).sum(), [x], k=4)
    assert eigen.values == pytest.approx([2.0, 1.0, -3.0, -9.0])
    assert hessian_eigenvalues(lambda: -(x * x).sum(), [x]).values == pytest.approx([-2.0])


@pytest.mark.parametrize("make", WORLDS, ids=lambda make: make.__name__)
def test_float32_models_reach_1e_5(make):
    expected = torch.linalg.eigvalsh(dense(make))[-1].item()
    model, loss, *_ = world(make, torch.float32)
    assert hessian_eigenvalues(loss, list(model.parameters())).values == pytest.approx([expected], rel=1e-5)


@pytest.mark.parametrize("make", WORLDS, ids=lambda make: make.__name__)
def test_preconditioned(make):
    model, loss, *_ = world(make)
    generator = torch.Generator().manual_seed(5)
    diagonal = [torch.rand(p.shape, generator=generator, dtype=torch.float64) + 0.01 for p in model.parameters()]
    scale = torch.cat([d.flatten() for d in diagonal]).rsqrt()
    expected = torch.linalg.eigvalsh(scale[:, None] * dense(make) * scale).flip(0)[:3].numpy()
    eigen = hessian_eigenvalues(loss, list(model.parameters()), k=3, preconditioner=diagonal, tolerance=1e-6)
    assert eigen.values == pytest.approx(expected, rel=1e-6)


def test_multiplicities_of_linear_regression():
    """H = XᵀX/n ⊗ I: each eigenvalue as often as there are outputs."""
    torch.manual_seed(0)
    x, weight = torch.randn(50, 6, dtype=torch.float64), torch.zeros(6, 4, dtype=torch.float64, requires_grad=True)
    single = torch.linalg.eigvalsh(x.T @ x / 50).flip(0)
    eigen = hessian_eigenvalues(lambda: 0.5 * ((x @ weight - 1) ** 2).sum() / 50, [weight], k=10)
    assert eigen.values == pytest.approx(single.repeat_interleave(4)[:10].numpy(), rel=1e-6)


def test_parameters_that_the_loss_is_linear_in_or_does_not_use():
    a, b, c = (torch.ones(2, dtype=torch.float64, requires_grad=True) for _ in range(3))
    eigen = hessian_eigenvalues(lambda: 2 * (a**2).sum() + b.sum(), [a, b, c], k=6)
    assert eigen.values == pytest.approx([4, 4, 0, 0, 0, 0], abs=1e-12)
    assert hessian_eigenvalues(lambda: b.sum(), [b]).values == pytest.approx([0.0])


def test_what_has_not_converged_says_so():
    model, loss, *_ = world(attention)
    eigen = hessian_eigenvalues(loss, list(model.parameters()), max_products=3)
    assert not eigen.converged
    assert eigen.products == 3
    assert "NOT converged" in eigen.summary()
    exact = hessian_eigenvalues(loss, list(model.parameters()))
    assert eigen.values[0] < exact.values[0]
    assert abs(eigen.values[0] - exact.values[0]) <= eigen.residuals[0] or eigen.residuals[0] > 1e-4 * eigen.values[0]


def test_a_warm_start_is_cheaper_and_not_trapped():
    model, loss, *_ = world(attention)
    cold = hessian_eigenpairs(loss, list(model.parameters()))
    warm = hessian_eigenpairs(loss, list(model.parameters()), start=cold.vectors[0])
    assert warm.products < cold.products
    assert warm.values == pytest.approx(cold.values, rel=1e-6)
    # An eigenvector that is no longer the top one is an invariant subspace of its own.
    x = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    spectrum = torch.tensor([3.0, 5.0, 1.0], dtype=torch.float64)
    trap = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert hessian_eigenpairs(lambda: 0.5 * (spectrum * x * x).sum(), [x], start=trap).values == pytest.approx([5.0])


def test_attention_kernels_are_switched_for_the_call_and_restored():
    model, loss, *_ = world(attention)
    settings = torch.backends.cuda
    before = (settings.flash_sdp_enabled(), settings.mem_efficient_sdp_enabled(), settings.math_sdp_enabled())
    seen = []

    def spy():
        seen.append((settings.flash_sdp_enabled(), settings.mem_efficient_sdp_enabled(), settings.math_sdp_enabled()))
        return loss()

    hessian_eigenvalues(spy, list(model.parameters()))
    assert seen == [(False, False, True)]
    assert (settings.flash_sdp_enabled(), settings.mem_efficient_sdp_enabled(), settings.math_sdp_enabled()) == before
    with pytest.raises(ZeroDivisionError):
        hessian_eigenvalues(lambda: 1 / 0, list(model.parameters()))
    assert (settings.flash_sdp_enabled(), settings.mem_efficient_sdp_enabled(), settings.math_sdp_enabled()) == before


def test_compiled_models_run_eagerly():
    """AOT autograd has no double backward: without the switch this raises."""
    model, _, x, criterion = world(perceptron)
    compiled = torch.compile(model, backend="aot_eager")
    criterion(compiled(x)).backward()
    expected = torch.linalg.eigvalsh(dense(perceptron))[-1].item()
    eigen = hessian_eigenvalues(lambda: criterion(compiled(x)), list(model.parameters()))
    assert eigen.values == pytest.approx([expected], rel=1e-6)


def test_under_no_grad():
    x = torch.ones(1, requires_grad=True)
    with torch.no_grad():
        assert hessian_eigenvalues(lambda: (x**2).sum(), [x]).values == pytest.approx([2.0])


def test_a_loss_that_is_not_finite():
    x = torch.full((3,), float("nan"), requires_grad=True)
    eigen = hessian_eigenvalues(lambda: (x**3).sum(), [x])
    assert np.isnan(eigen.values).all()
    assert not eigen.converged


def test_result_saves(tmp_path):
    x = torch.zeros(2, requires_grad=True)
    eigen = hessian_eigenvalues(lambda: (x**2).sum(), [x], k=2)
    loaded = Eigen.load(eigen.save(tmp_path / "eigen.json"))
    assert loaded.values.tolist() == eigen.values.tolist()
    assert loaded.converged is True


def test_bad_input():
    x = torch.zeros(2, requires_grad=True)
    with pytest.raises(ThalwegError, match=r"Write \[p for p in"):
        hessian_eigenvalues(lambda: (x**2).sum(), [x, torch.zeros(1)])
    with pytest.raises(ThalwegError, match="k: got 3, expected between 1 and the 2"):
        hessian_eigenvalues(lambda: (x**2).sum(), [x], k=3)
    with pytest.raises(ThalwegError, match="parameters: got"):
        hessian_eigenvalues(lambda: (x**2).sum(), [])
    with pytest.raises(ThalwegError, match="differentiable scalar"):
        hessian_eigenvalues(lambda: x**2, [x])
    with pytest.raises(ThalwegError, match="differentiable scalar"):
        hessian_eigenvalues(lambda: torch.zeros(()), [x])
    with pytest.raises(ThalwegError, match="preconditioner"):
        hessian_eigenvalues(lambda: (x**2).sum(), [x], preconditioner=[torch.ones(3)])
