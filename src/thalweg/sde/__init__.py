"""Why training ends where it ends: stochastic models with known answers.

The two-valley landscape and its Langevin simulation (transient dynamics, Eqs. 8–15). Nothing here imports torch; Numba is
imported by the first simulation.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

# public name → the file it lives in
_PUBLIC = {"Simulation": "simulation", "TwoValley": "two_valley", "simulate": "simulating"}

__all__ = ["Simulation", "TwoValley", "simulate"]

if TYPE_CHECKING:
    from thalweg.sde.simulating import simulate
    from thalweg.sde.simulation import Simulation
    from thalweg.sde.two_valley import TwoValley


def __getattr__(name: str) -> Any:
    if name not in _PUBLIC:
        raise AttributeError(f"module 'thalweg.sde' has no attribute {name!r}")
    value = getattr(importlib.import_module(f"thalweg.sde.{_PUBLIC[name]}"), name)
    globals()[name] = value
    return value


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})
