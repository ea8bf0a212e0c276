"""Algorithms 1 and 2 of the critical-sharpness paper (appendix A), line by line as printed; losses, not changes of loss."""

# ruff: noqa: SIM300  (comparisons stand as printed)
from __future__ import annotations

from collections.abc import Callable


def exponential_search(
    ComputeLoss: Callable[[float], float], L_theta: float, eta_0: float, N_max: int = 40
) -> tuple[float, float]:
    eta = eta_0  # 3
    i = 1  # 4
    L = ComputeLoss(eta)  # 5
    if L < L_theta:  # 6
        dir = +1  # 7
    else:  # 8
        dir = -1  # 9
    while i < N_max:  # 11
        eta = eta * 2.0**dir  # 12
        L = ComputeLoss(eta)  # 13
        i = i + 1  # 14
        if dir == +1 and L > L_theta:  # 15
            eta_lower = eta / 2  # 16
            eta_upper = eta  # 17
            return eta_lower, eta_upper  # 18
        if dir == -1 and L < L_theta:  # 20
            eta_lower = eta  # 21
            eta_upper = 2 * eta  # 22
            return eta_lower, eta_upper  # 23
    return eta, eta  # 26


def binary_search(
    ComputeLoss: Callable[[float], float], L_before: float, interval: tuple[float, float], epsilon: float
) -> tuple[float, float]:
    eta_lower, eta_upper = interval
    i = 0  # 3
    while abs(1 - eta_lower / eta_upper) > epsilon:  # 4
        eta_mid = 0.5 * (eta_lower + eta_upper)  # 5
        L = ComputeLoss(eta_mid)  # 6
        i = i + 1  # 7
        if L > L_before:  # 8
            eta_upper = eta_mid  # 9
        else:  # 10
            eta_lower = eta_mid  # 11
    return eta_lower, eta_upper  # 14
