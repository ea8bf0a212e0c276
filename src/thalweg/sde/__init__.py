"""Why training ends where it ends: stochastic models with known answers.

The two-valley landscape and its Langevin simulation (transient dynamics, Eqs. 8–15). Nothing here imports torch; Numba is
imported by the first simulation.
"""

from thalweg.sde.simulating import simulate
from thalweg.sde.simulation import Simulation
from thalweg.sde.two_valley import TwoValley

__all__ = ["Simulation", "TwoValley", "simulate"]
