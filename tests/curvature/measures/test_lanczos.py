from __future__ import annotations

import numpy as np
import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.curvature.measures.lanczos import largest_eigenpairs

torch.set_num_threads(1)


def solve(matrix, k, *, start=None, tolerance=1e-8, max_products=400, seed=0):
    calls = []

    def product(v):
        calls.append(1)
        return matrix @ v

    generator = torch.Generator().manual_seed(seed)
    if start is None:
        start = torch.randn(len(matrix), generator=generator, dtype=torch.float64)
    pairs = largest_eigenpairs(product, start, k, tolerance=tolerance, max_products=max_products, generator=generator)
    assert pairs.products == len(calls) <= max_products
    return pairs


def rotated(spectrum, seed=0):
    generator = torch.Generator().manual_seed(seed)
    q, _ = torch.linalg.qr(torch.randn(len(spectrum), len(spectrum), generator=generator, dtype=torch.float64))
    matrix = q @ torch.diag(torch.tensor(spectrum, dtype=torch.float64)) @ q.T
    return (matrix + matrix.T) / 2


@settings(max_examples=60)
@given(
    spectrum=st.lists(
        st.sampled_from([-50.0, -7.0, -1.0, 0.0, 1e-3, 0.5, 1.0, 3.0, 3.001, 40.0]), min_size=3, max_size=25
    ),
    share=st.floats(0, 1),
    seed=st.integers(0, 2**31),
)
def test_any_spectrum_with_multiplicities(spectrum, share, seed):
    """Repeated, negative, zero and close eigenvalues; k up to all of them. Algebraically largest, each as often as it occurs."""
    k = 1 + round(share * (len(spectrum) - 1))
    pairs = solve(rotated(spectrum, seed), k, seed=seed)
    expected = np.sort(spectrum)[::-1][:k]
    radius = max(abs(value) for value in spectrum)
    assert pairs.converged
    np.testing.assert_allclose(pairs.values, expected, atol=1e-7 * radius + 1e-12)


def test_pairs_are_orthonormal_and_their_residuals_true():
    matrix = rotated([*np.linspace(-1, 1, 200), 3.0, 2.9, 2.8])
    pairs = solve(matrix, 5, tolerance=1e-5)
    torch.testing.assert_close(pairs.vectors @ pairs.vectors.T, torch.eye(5, dtype=torch.float64), atol=1e-8, rtol=0)
    true = torch.linalg.vector_norm(
        pairs.vectors @ matrix - torch.from_numpy(pairs.values.copy())[:, None] * pairs.vectors, dim=1
    )
    assert (true.numpy() <= pairs.residuals + 1e-12).all()
    assert (pairs.residuals <= 1e-4 * np.abs(pairs.values)).all()


def test_too_few_products_say_so():
    matrix = rotated(list(np.linspace(0, 1, 300)))
    pairs = solve(matrix, 1, max_products=5)
    assert not pairs.converged
    assert pairs.residuals[0] > 1e-8
    short = solve(matrix, 10, max_products=5)
    assert not short.converged
    assert short.values.shape == (10,)
    assert np.isnan(short.values[5:]).all()
    assert np.isinf(short.residuals[5:]).all()


def test_converged_but_unconfirmed_is_not_converged():
    """All k found, no products left to look for a further copy: that is said."""
    matrix = rotated([5.0, 5.0, 4.0, *np.linspace(0, 1, 100)])
    full = solve(matrix, 2)
    assert full.values.tolist() == pytest.approx([5.0, 5.0])
    assert full.converged
    assert not solve(matrix, 2, max_products=12).converged


def test_a_start_in_an_invariant_subspace_is_left_for_several():
    matrix = torch.diag(torch.tensor([1.0, 5.0, 9.0], dtype=torch.float64))
    start = torch.tensor([1.0, 0.0, 0.0], dtype=torch.float64)
    assert solve(matrix, 2, start=start).values.tolist() == pytest.approx([9.0, 5.0])


def test_zero_and_non_finite_operators():
    zero = solve(torch.zeros(4, 4, dtype=torch.float64), 3)
    assert zero.values.tolist() == [0.0, 0.0, 0.0]
    assert zero.converged
    bad = solve(torch.full((4, 4), float("nan"), dtype=torch.float64), 2)
    assert np.isnan(bad.values).all()
    assert not bad.converged
