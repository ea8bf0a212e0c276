"""The two-valley theory as the paper prints it (transient dynamics, Eqs. 18–26, A8–A37), and the slow way to each number.

Scalars only, in mpmath where floats would overflow; written from the landscape's f, g and ΔL, not from the library's a = √b.
"""

from __future__ import annotations

import mpmath as mp
import numpy as np

from tests.reference import two_valley_numpy as paper
from thalweg.sde import TwoValley


def flatness(v: TwoValley, y, side: str):
    """f_1 or f_2 (Eq. 10)."""
    x_i = v.x1 if side == "flat" else v.x2
    return v.f0 * (x_i / v.x0) ** 2 * ((y + v.y_f) / (y + v.y_b)) ** 2


def barrier(v: TwoValley, y):
    """ΔL (Eq. 11)."""
    return v.x0**2 / v.f0 * (y / (y + v.y_f)) ** 2


def diffusion(v: TwoValley, y, delta_s: float, side: str):
    """D₁₁ (A9)."""
    return 2 * delta_s / flatness(v, y, side)


def effective_loss(v: TwoValley, x, y):
    """Eq. 19."""
    power = (v.x1 / v.x2) ** np.where(np.asarray(x) >= 0, 1.0, -1.0)  # γ^(±½)
    return power * paper.loss(v, x, y) + (1 - power) * paper.loss(v, 0.0, y)


def rate(v: TwoValley, y, delta_s: float, side: str, form: str = "erfi"):
    """k_ss of leaving a valley: Eq. 21 ("erfi") or A25 ("asymptotic")."""
    f, height = flatness(v, y, side), barrier(v, y)
    if form == "erfi":
        return 1 / (mp.pi / 2 * f * mp.erfi(mp.sqrt(height * f / (2 * delta_s))))
    return mp.sqrt(2 * height / (mp.pi * delta_s * f)) * mp.exp(-height * f / (2 * delta_s))


def exit_time(v: TwoValley, y: float, delta_s: float, side: str):
    """A19 and A20 by quadrature of the loss inside a quadrature of the loss, both as printed (L less L0)."""
    d = diffusion(v, y, delta_s, side)
    sign = 1 if side == "flat" else -1
    x_min = float(v.minima(y)[0 if side == "flat" else 1])
    scale = float(np.sqrt(delta_s))

    def over_d(x):
        x_i = v.x1 if side == "flat" else v.x2
        return x * (x - sign * 2 * x_i * y / (y + v.y_b)) / flatness(v, y, side) / d

    def inner(x):
        far = [x_min + sign * k * scale for k in (14, 7)]
        return mp.quad(lambda s: mp.exp(-over_d(s)), [*far, *([x_min] if abs(x - x_min) > scale else []), x])

    return mp.quad(lambda x: mp.exp(over_d(x)) * abs(inner(x)), [min(x_min, 0), max(x_min, 0)]) / d


def exit_time_reduced(v: TwoValley, y: float, delta_s: float, side: str):
    """The same with the inner integral in closed form, in the unit √(2Δ_S); 40 digits reach every barrier."""
    f = mp.mpf(flatness(v, mp.mpf(y), side))
    a = mp.sqrt(barrier(v, mp.mpf(y)) * f / (2 * mp.mpf(delta_s)))
    # most of the integral lies within a few 1/a of the ridge
    ends = [0, *sorted(a - k / a for k in (1, 4, 16, 64) if a - k / a > 0), a]
    return f * mp.sqrt(mp.pi) / 2 * mp.quad(lambda t: mp.exp(t * t) * (1 + mp.erf(t)), ends)


def p_flat_steady(v: TwoValley, y: float, delta_s: float):
    """Eq. 22."""
    sharp, flat = (rate(v, y, delta_s, side) for side in ("sharp", "flat"))
    return sharp / (sharp + flat)


def phi(v: TwoValley):
    """A33."""
    return 2 * (v.x1**2 - v.x2**2) / (27 * v.y_b) * (v.L_d / v.y_d + 8 * v.x0**2 / (27 * v.f0 * v.y_f))


def freezing_point(v: TwoValley, delta_s: float, epsilon: float, phi: float):
    """Eq. 25."""
    root = mp.sqrt(delta_s * mp.log(delta_s / (epsilon**2 * phi**2)))
    return v.y_b * root / (v.x2 - root)


def p_flat_at(v: TwoValley, delta_s: float, y_freeze):
    """Eq. 24."""
    gamma = (v.x1 / v.x2) ** 2
    share = y_freeze / (v.y_b + y_freeze)
    return 1 / (1 + mp.exp((v.x2**2 - v.x1**2) / (2 * delta_s) * share**2) / mp.sqrt(gamma))


def p_flat_transient(v: TwoValley, delta_s: float, epsilon: float, phi: float):
    """Eq. 26."""
    gamma = (v.x1 / v.x2) ** 2
    return 1 / (1 + (mp.sqrt(delta_s) / (epsilon * phi)) ** (1 - gamma) / mp.sqrt(gamma))


def drift(v: TwoValley, y):
    """dy/dt (A8)."""
    return v.L_d / v.y_d * mp.exp(-y / v.y_d) + 2 * v.x0**2 * v.y_f * y / (v.f0 * (y + v.y_f) ** 3)


def criterion(v: TwoValley, y: float, delta_s: float, epsilon: float, form: str):
    """Left side of A30 over its right side, the derivative by mpmath."""
    ratio = lambda at: rate(v, at, delta_s, "flat", form) / rate(v, at, delta_s, "sharp", form)  # noqa: E731
    change = mp.diff(ratio, y) * drift(v, y)
    return rate(v, y, delta_s, "sharp", form) / (-epsilon * change / (1 + ratio(y)))


def chain(v: TwoValley, y: float, delta_s: float, lr: float, nodes: int = 300):
    """Occupancy of the flat side and exit times (sharp, flat) of the chain, by one panel a side and dense linear algebra."""
    noise = delta_s / lr
    unit, weight = np.polynomial.legendre.leggauss(nodes)
    flat_min, sharp_min = (float(x) for x in v.minima(y))
    ends = {}
    for side, x_min in (("sharp", sharp_min), ("flat", flat_min)):
        ends[side] = x_min + np.sign(x_min) * 12 * np.sqrt(delta_s)

    def density(start, to):
        grad, hessian = paper.gradient_and_hessian(v, start, np.full_like(start, y))
        mean, variance = start - lr * grad[:, 0], lr**2 * 2 * noise * hessian[:, 0, 0]
        z2 = (to - mean[:, None]) ** 2 / variance[:, None]
        return np.exp(-z2 / 2) / np.sqrt(2 * np.pi * variance[:, None])

    x = {side: end * (1 + unit) / 2 for side, end in ends.items()}
    w = {side: abs(end) * weight / 2 for side, end in ends.items()}
    times = []
    for side, x_min in (("sharp", sharp_min), ("flat", flat_min)):
        inside = np.linalg.solve(np.eye(nodes) - density(x[side], x[side]) * w[side], np.ones(nodes))
        times.append(lr * (1 + density(np.array([x_min]), x[side])[0] @ (w[side] * inside)))
    both, weights = np.append(x["sharp"], x["flat"]), np.append(w["sharp"], w["flat"])
    flow = (density(both, both) * weights).T - np.eye(2 * nodes)
    flow[-1] = 1.0  # instead of one redundant equation: the probabilities sum to one
    share = np.linalg.solve(flow, np.append(np.zeros(2 * nodes - 1), 1.0))
    return share[nodes:].sum(), *times
