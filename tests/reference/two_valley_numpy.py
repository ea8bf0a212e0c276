"""The two-valley model as the paper prints it: transient dynamics Eqs. 8–15, one formula after the other, slow."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from thalweg.sde import TwoValley

Floats = NDArray[np.float64]


def _sides(v: TwoValley, x):
    """Per point: s·x_i and x_i² of the valley the point is in; x may be complex (complex-step derivatives)."""
    flat = np.real(x) >= 0
    return np.where(flat, v.x1, -v.x2), np.where(flat, v.x1, v.x2) ** 2


def loss(v: TwoValley, x, y):
    """Eqs. 8–12; complex arguments pass through."""
    signed, squared = _sides(v, x)
    g = 2 * signed * y / (y + v.y_b)  # g_1, and −g_2 on the sharp side
    f = v.f0 * squared / v.x0**2 * (y + v.y_f) ** 2 / (y + v.y_b) ** 2
    return v.L_d * np.exp(-y / v.y_d) + v.x0**2 / v.f0 + x * (x - g) / f


def gradient_and_hessian(v: TwoValley, x: Floats, y: Floats) -> tuple[Floats, Floats]:
    """Derivatives of Eq. 8 by the quotient rule, shapes (…, 2) and (…, 2, 2)."""
    signed, squared = _sides(v, x)
    b, r = y + v.y_b, (y + v.y_f) / (y + v.y_b)
    r1, r2 = (v.y_b - v.y_f) / b**2, -2 * (v.y_b - v.y_f) / b**3
    scale = v.f0 * squared / v.x0**2
    f, f1, f2 = scale * r**2, scale * 2 * r * r1, scale * 2 * (r1**2 + r * r2)
    g, g1, g2 = 2 * signed * y / b, 2 * signed * v.y_b / b**2, -4 * signed * v.y_b / b**3
    drift = v.L_d * np.exp(-y / v.y_d)
    q = x * (x - g)
    grad = np.stack([(2 * x - g) / f, -drift / v.y_d - x * g1 / f - q * f1 / f**2], axis=-1)
    xx = 2 / f
    xy = -g1 / f - (2 * x - g) * f1 / f**2
    # −q f″/f² is the term that the authors' script leaves out
    yy = drift / v.y_d**2 - x * g2 / f + 2 * x * g1 * f1 / f**2 - q * f2 / f**2 + 2 * q * f1**2 / f**3
    return grad, np.stack([np.stack([xx, xy], axis=-1), np.stack([xy, yy], axis=-1)], axis=-2)


def covariance_of(hessian: Floats, noise: float, covariance: str) -> Floats:
    """Σ of a stack of Hessians, shape (runs, 2, 2)."""
    eye = np.eye(2)
    if covariance == "isotropic":
        return np.broadcast_to(2 * noise * eye, hessian.shape)
    if covariance == "hessian_squared":
        return 2 * noise * hessian @ hessian + 1e-8 * eye
    values, vectors = np.linalg.eigh(hessian)
    clipped = (vectors * np.maximum(values, 0)[:, None, :]) @ np.swapaxes(vectors, -1, -2)
    return 2 * noise * clipped + 1e-8 * eye


def trajectories(v: TwoValley, lr: float, noise: float, normals: Floats, covariance: str = "hessian") -> Floats:
    """θ ← θ − η(∇L + ξ), shape (steps + 1, runs, 2), for normals of shape (steps, runs, 2); starts alternate."""
    steps, runs, _ = normals.shape
    path = np.empty((steps + 1, runs, 2))
    path[0, :, 0] = np.where(np.arange(runs) % 2 == 0, -v.x_start, v.x_start)
    path[0, :, 1] = v.y_start
    for t in range(steps):
        grad, hessian = gradient_and_hessian(v, path[t, :, 0], path[t, :, 1])
        xi = 0.0
        if noise > 0:
            root = np.linalg.cholesky(covariance_of(hessian, noise, covariance))
            xi = (root @ normals[t][:, :, None])[:, :, 0]
        path[t + 1] = path[t] - lr * (grad + xi)
    return path


def freezing(x: Floats) -> tuple[NDArray[np.int64], NDArray[np.int64]]:
    """Freezing step and number of crossings of each run from its whole history x, shape (steps + 1, runs)."""
    flat_side = x >= 0
    changed = flat_side[1:] != flat_side[:-1]
    update = np.arange(1, len(x))[:, None]
    return 1 + np.max(np.where(changed, update, 0), axis=0), changed.sum(axis=0)
