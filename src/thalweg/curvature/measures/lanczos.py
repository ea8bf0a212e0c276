"""The largest algebraic eigenvalues of a symmetric operator that is known only by its products (Lanczos).

Every new direction is orthogonalised twice against all earlier ones, in float64, so that no spurious copies appear. One
Krylov sequence sees one copy of each eigenvalue; where several are asked for, converged vectors are locked and a fresh
random start looks for copies and strays in their complement until it finds nothing larger.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.linalg import eigh_tridiagonal
from torch import Tensor

__all__ = ["Pairs", "largest_eigenpairs"]

Product = Callable[[Tensor], Tensor]

# An eigenvalue this far below the spectral radius counts as zero: its residual is then held against the radius.
_RELATIVE_ZERO = 1e-3
# A pass that only confirms that nothing larger was missed may stop at this relative residual.
_CONFIRMATION = 1e-2


@dataclass(frozen=True, slots=True)
class Pairs:
    """Ritz pairs, largest first: values (k,), vectors (k, n), residual norms ‖Av - θv‖ (k,), products spent [count]."""

    values: NDArray[np.float64]
    vectors: Tensor
    residuals: NDArray[np.float64]
    converged: bool
    products: int


def largest_eigenpairs(
    product: Product, start: Tensor, k: int, *, tolerance: float, max_products: int, generator: torch.Generator
) -> Pairs:
    """The k largest eigenvalues of a symmetric A of size n, multiplicities included.

    Args:
        product: v (n,) → Av (n,), float64.
        start: first direction (n,), float64, on the device of the products; not zero.
        k: number of eigenvalues [count], at most n.
        tolerance: a pair has converged when ‖Av - θv‖ ≤ tolerance · max(|θ|, 1e-3 ‖A‖) [1].
        max_products: products that may be spent [count].
        generator: a CPU generator, for the starts after the first.

    Example:
        >>> spectrum = torch.tensor([3.0, 3.0, 1.0, -9.0], dtype=torch.float64)
        >>> rng = torch.Generator().manual_seed(0)
        >>> start = torch.ones(4, dtype=torch.float64)
        >>> pairs = largest_eigenpairs(lambda v: spectrum * v, start, 3, tolerance=1e-8, max_products=50, generator=rng)
        >>> pairs.values.round(6).tolist(), pairs.converged
        ([3.0, 3.0, 1.0], True)
    """
    found = _sequence(product, start, start.new_empty((0, start.numel())), k, tolerance, max_products)
    # The largest alone needs no second look: further copies would not change it.
    while found.converged and k > 1 and len(found.values) < start.numel():
        complete = len(found.values) == k
        fresh = torch.randn(start.numel(), generator=generator, dtype=torch.float64).to(start.device)
        floor = float(found.values[-1]) if complete else None
        wanted = 1 if complete else k - len(found.values)
        left = max_products - found.products
        new = _sequence(product, fresh, found.vectors, wanted, tolerance, left, floor=floor)
        spent = found.products + new.products
        if floor is not None and new.converged and new.values[0] <= floor + _slack(found, tolerance):
            return replace(found, products=spent)
        found = replace(_merged(found, new, k), products=spent)
    return _padded(found, k)


def _slack(found: Pairs, tolerance: float) -> float:
    """How far above the smallest found value a copy of it may come out."""
    return 2 * tolerance * max(abs(float(found.values[-1])), _RELATIVE_ZERO * float(np.abs(found.values).max()))


def _merged(found: Pairs, new: Pairs, k: int) -> Pairs:
    # A vector found in the complement of locked ones has their residuals' overlap as part of its own.
    overlap = float(np.linalg.norm(found.residuals))
    values = np.concatenate([found.values, new.values])
    residuals = np.concatenate([found.residuals, np.hypot(new.residuals, overlap)])
    order = np.argsort(-values, kind="stable")[:k]  # NaN, of a pass that could not begin, comes last
    vectors = torch.cat([found.vectors, new.vectors])[torch.from_numpy(order).to(found.vectors.device)]
    return Pairs(values[order], vectors, residuals[order], new.converged, 0)


def _padded(found: Pairs, k: int) -> Pairs:
    """Fill up to k pairs with NaN where the products did not suffice."""
    missing = k - len(found.values)
    if missing == 0:
        return found
    values = np.concatenate([found.values, np.full(missing, np.nan)])
    vectors = torch.cat([found.vectors, found.vectors.new_full((missing, found.vectors.shape[1]), np.nan)])
    residuals = np.concatenate([found.residuals, np.full(missing, np.inf)])
    return Pairs(values, vectors, residuals, False, found.products)


def _sequence(
    product: Product,
    start: Tensor,
    locked: Tensor,
    k: int,
    tolerance: float,
    max_products: int,
    *,
    floor: float | None = None,
) -> Pairs:
    """One Krylov sequence in the complement of the locked rows; ends early once its top is plainly below `floor`."""
    size, offset = start.numel(), len(locked)
    basis = torch.cat([locked, start.new_empty((32, size))])
    alphas: list[float] = []
    betas: list[float] = []
    direction = _orthogonalised(start, locked)
    direction = direction / torch.linalg.vector_norm(direction)
    top: NDArray[np.float64] = np.empty(0)
    residuals: NDArray[np.float64] = np.empty(0)
    weights: NDArray[np.float64] = np.empty((0, 0))
    converged = False
    while len(alphas) < max_products:
        rows = offset + len(alphas)
        if rows == len(basis):
            basis = torch.cat([basis, torch.empty_like(basis)])
        basis[rows] = direction
        image = product(direction)
        alpha = float(torch.dot(direction, image))
        if not np.isfinite(alpha):
            nothing = np.empty(0)
            return Pairs(nothing, start.new_empty((0, size)), nothing, False, len(alphas) + 1)
        image = _orthogonalised(image, basis[: rows + 1])
        beta = float(torch.linalg.vector_norm(image))
        alphas.append(alpha)
        values, vectors = _spectrum(alphas, betas)
        radius = max(float(np.abs(values).max()), abs(floor or 0.0))
        top, weights = values[:k], vectors[:, :k]
        residuals = beta * np.abs(weights[-1])
        # In an invariant subspace the values are exact.
        exhausted = beta <= 1e-14 * radius or offset + len(alphas) == size
        scale = np.maximum(np.abs(top), _RELATIVE_ZERO * radius)
        converged = exhausted or (len(top) == k and bool(np.all(residuals <= tolerance * scale)))
        if floor is not None and residuals[0] <= _CONFIRMATION * scale[0] and top[0] + residuals[0] <= floor:
            converged = True
        if converged:
            break
        direction = image / beta
        betas.append(beta)
    rows = offset + len(alphas)
    ritz = torch.from_numpy(weights.T.copy()).to(basis) @ basis[offset:rows]
    return Pairs(top, ritz, residuals, converged, len(alphas))


def _spectrum(alphas: list[float], betas: list[float]) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """Eigenvalues (m,) and eigenvectors (m, m) of the tridiagonal matrix, largest first."""
    values, vectors = eigh_tridiagonal(np.array(alphas), np.array(betas))
    return np.asarray(values[::-1], dtype=np.float64).copy(), np.asarray(vectors[:, ::-1], dtype=np.float64).copy()


def _orthogonalised(vector: Tensor, rows: Tensor) -> Tensor:
    for _ in range(2):  # twice is enough (Kahan, Parlett)
        vector = vector - rows.T @ (rows @ vector)
    return vector
