"""Opt-Law as the paper writes it, slowly: one integral at a time, by quadrature, from a learning rate that is only called."""

from __future__ import annotations

from collections.abc import Callable
from itertools import pairwise

import numpy as np

# term → (end of ∫₀ η, start of ∫^S η, end of ∫₀ η'², start of ∫^S η'²) by reading; "C", "E" and "M" as in §4.2
READINGS = {
    "tables": {"C": ("a1", "a1"), "E": ("a1", "a1"), "M": ("a1", "a1", "a1")},
    "section_4_3": {"C": ("a1", "a3"), "E": ("a2", "a2"), "M": ("a1", "a3", "a2")},
    "hybrid": {"C": ("a1", "a3"), "E": ("a2", "a1"), "M": ("a2", "a1", "a3")},
}


def features(
    lr: Callable[[float], float],
    phases: tuple[float, float, float],
    steps: float,
    params: float,
    batch_tokens: float,
    reading: str,
) -> np.ndarray:
    """The sixteen features, shape (16,), of one schedule given as a function of the step; A.2's units."""
    to_tokens = batch_tokens / 1e9
    S, N = steps * to_tokens, params / 1e9
    ends = {name: end * to_tokens for name, end in zip(("a1", "a2", "a3"), phases, strict=True)}
    corners = [0.0, *ends.values(), S]

    def eta(t: float) -> float:
        return lr(t / to_tokens) / 0.015

    def integral(f: Callable[[float], float], a: float, b: float) -> float:
        """Midpoint rule on each smooth piece between a and b."""
        total = 0.0
        inside = [a, *(corner for corner in sorted(set(corners)) if a < corner < b), b]
        for left, right in pairwise(inside):
            width = (right - left) / 400
            total += sum(f(left + (i + 0.5) * width) for i in range(400)) * width
        return total

    def slope_squared(t: float) -> float:
        gap = 1e-5 * S
        return ((eta(t + gap) - eta(t - gap)) / (2 * gap)) ** 2

    use = READINGS[reading]
    I0, I1 = integral(eta, 0, ends[use["C"][0]]), integral(eta, ends[use["C"][1]], S)
    R0, R1 = integral(slope_squared, 0, ends[use["E"][0]]), integral(slope_squared, ends[use["E"][1]], S)
    J0, J1 = integral(eta, 0, ends[use["M"][0]]), integral(eta, ends[use["M"][1]], S)
    Q = integral(slope_squared, ends[use["M"][2]], S)
    h = max(eta(t) for t in np.linspace(ends["a2"], S, 2001))
    C = [I0**-1, I1**-1, (N / I1) ** 0.25, (I0 * I1) ** -0.23]
    E = [R1, R0**0.25, R1**0.25, (S * N) ** -0.25]
    M = [(Q / J0) ** 0.2, (Q / J1) ** 0.15, (N * Q / J0) ** 0.15, (N * Q / J1) ** 0.15]
    return np.array([*C, *E, *M, N**-0.25, S**-0.25, h**0.2, 1.0])
