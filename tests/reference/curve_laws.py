"""The laws of whole curves as their papers print them: double loops over steps, one number at a time.

Luo et al. 2025 for the multi-power law (the sum over k begins at step 1, warmup included, as in their code) and Tissue et al.
2024 for the annealing law.
"""

from __future__ import annotations

import math
from collections.abc import Sequence


def multi_power(lrs: Sequence[float], t: int, L0, A, alpha, B, C, beta, gamma) -> float:
    """L(t) = L0 + A·S1(t)^−α − B·Σ_{k=1..t} (η_{k−1} − η_k)·[1 − (1 + C·η_k^−γ·S_k(t))^−β], S_k(t) = Σ_{τ=k..t} η_τ."""
    S1 = math.fsum(lrs[tau] for tau in range(t + 1))
    LD = 0.0
    for k in range(1, t + 1):
        S_k = 0.0
        for tau in range(k, t + 1):
            S_k += lrs[tau]
        LD += B * (lrs[k - 1] - lrs[k]) * (1 - (1 + C * lrs[k] ** -gamma * S_k) ** -beta)
    return L0 + A * S1**-alpha - LD


def annealing(lrs: Sequence[float], t: int, L0, A, alpha, C, memory) -> float:
    """L(t) = L0 + A·S1(t)^−α − C·S2(t), S2(t) = Σ_{i=1..t} Σ_{k=1..i} (η_{k−1} − η_k)·λ^(i−k)."""
    S1 = math.fsum(lrs[tau] for tau in range(t + 1))
    S2 = 0.0
    for i in range(1, t + 1):
        for k in range(1, i + 1):
            S2 += (lrs[k - 1] - lrs[k]) * memory ** (i - k)
    return L0 + A * S1**-alpha - C * S2
