"""Opt-Laws §5 as the paper prints it, slowly: moment equations by an ODE solver, chains of kicks by matrix exponentials."""

from __future__ import annotations

import itertools

import numpy as np
from scipy.integrate import solve_ivp
from scipy.linalg import expm

from thalweg.schedules import Schedule
from thalweg.schedules.pieces import Table


def _lyapunov(drift: np.ndarray, injected: np.ndarray, schedule: Schedule, t: float) -> np.ndarray:
    """dP/dt = −η P Fᵀ − η F P + η² Q, P_0 = 0; stopped at every kink of the schedule, so that the solver meets smooth pieces."""
    n, edges, start = len(drift), [0.0], 0
    for piece in schedule.pieces:
        kinks = np.arange(1, piece.length + 1) if isinstance(piece, Table) else [piece.length]
        edges += [start + kink for kink in kinks]
        start += piece.length
    edges = sorted({min(edge, t) for edge in edges} | {t})
    state = np.zeros(n * n)
    for a, b in itertools.pairwise(edges):

        def slope(s, flat, a=a, b=b):
            eta = schedule(min(max(s, a), np.nextafter(b, a)))  # at a jump, the value before it
            p = flat.reshape(n, n)
            return (-eta * (p @ drift.T + drift @ p) + eta**2 * injected).ravel()

        state = solve_ivp(slope, (a, b), state, method="DOP853", rtol=1e-12, atol=1e-16).y[:, -1]
    return state.reshape(n, n)


def sgd_covariance_ode(hessian, noise, schedule: Schedule, eta0: float, t: float) -> np.ndarray:
    """Eq. 16."""
    return _lyapunov(np.asarray(hessian), eta0 * np.asarray(noise), schedule, t)


def adam_drift(hessian, noise, c1: float, c2: float, epsilon: float, noise_slope) -> np.ndarray:
    """Ĥ of Prop. 6, with the diagonal of Σ."""
    h, n = np.asarray(hessian), len(hessian)
    precondition = np.diag((np.diag(noise) + epsilon) ** -0.5)
    zero, eye = np.zeros((n, n)), np.eye(n)
    return np.block(
        [[zero, precondition, zero], [-c1 * h, c1 * eye, zero], [-c2 * np.asarray(noise_slope), zero, c2 * eye]]
    )


def adam_covariance_ode(hessian, noise, schedule, eta0, t, *, c1, c2, epsilon, noise_slope) -> np.ndarray:
    """Eq. 20 with c1′ = c1√η0."""
    n = len(hessian)
    injected = np.zeros((3 * n, 3 * n))
    injected[n : 2 * n, n : 2 * n] = c1**2 * eta0 * np.asarray(noise)
    return _lyapunov(adam_drift(hessian, noise, c1, c2, epsilon, noise_slope), injected, schedule, t)


def sgd_covariance_expm(hessian, noise, schedule: Schedule, eta0: float, t: float, points: int = 2000) -> np.ndarray:
    """Eq. 17 with its matrix exponentials, by the midpoint rule."""
    h, width = np.asarray(hessian), t / points
    inner = np.zeros_like(h)
    for k in range(points):
        s = (k + 0.5) * width
        grown = expm(h * schedule.integral(0, s))
        inner = inner + grown @ noise @ grown * eta0 * schedule(s) ** 2 * width
    shrunk = expm(-h * schedule.integral(0, t))
    return shrunk @ inner @ shrunk


def momentum_variance(c1: float, c1_noise: float, noise: float, t: float, *, printed: bool) -> float:
    """C.2's P̄_t for constant η = 1 and scalar Σ; printed: the first exponent has the wrong sign."""
    inner = c1_noise**2 * noise * np.expm1(2 * c1 * t) / (2 * c1)
    return float(np.exp((1 if printed else -1) * 2 * c1 * t) * inner)


def sgd_covariance_recursion(hessian, noise, lrs) -> np.ndarray:
    """Covariance of x ← x − η_k(Hx + z) from the minimum, exactly: P ← (1 − η_k H)P(1 − η_k H) + η_k² Σ."""
    h, p = np.asarray(hessian), np.zeros_like(np.asarray(noise, dtype=float))
    for lr in lrs:
        keep = np.eye(len(h)) - lr * h
        p = keep @ p @ keep + lr**2 * np.asarray(noise)
    return p


def adam_loop(gradient, normals, roots, lrs, x, m, v, *, c1, c2, eta0, epsilon):
    """(Adam), one run, one weight after the other; normals of shape (updates, dim), roots = √Σ, the new share β = ĉη_k."""
    x, m, v = list(x), list(m), list(v)
    for eta, normal in zip(lrs, normals, strict=True):
        for i in range(len(x)):
            x[i] = x[i] - eta0 * eta * m[i] / (v[i] + epsilon) ** 0.5
        slope, z = gradient(np.array(x)), roots @ normal
        for i in range(len(x)):
            g = slope[i] + z[i]
            m[i] = (1 - c1 * eta0 * eta) * m[i] + c1 * eta0 * eta * g
            v[i] = (1 - c2 * eta0 * eta) * v[i] + c2 * eta0 * eta * g**2
    return np.array([x, m, v])
