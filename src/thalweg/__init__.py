"""Thalweg: predict the loss of a learning-rate schedule, measure how close each step is to instability, see the valley.

    Before:  tw.plan, tw.laws, tw.schedules      what loss will this schedule reach?
    During:  tw.probe, tw.find_lr, tw.curvature  how far can this step go?
    After:   tw.survey, tw.landscape             which valley, how flat, since when?
    Why:     tw.simulate, tw.sde                 stochastic models with known answers

Everything is imported when it is first used: `import thalweg` brings neither torch nor pandas.
"""

from __future__ import annotations

from typing import TYPE_CHECKING

from thalweg.lazy import attach

__version__ = "0.1.0"

_ROOMS = (
    "checkpoints",
    "curvature",
    "experiments",
    "landscape",
    "laws",
    "runs",
    "rundir",
    "schedules",
    "sde",
    "sweeps",
)
# public name → where it lives
_HOMES = {
    "Budget": "thalweg.schedules",
    "Schedule": "thalweg.schedules",
    "ThalwegError": "thalweg.outcomes",
    "Outcome": "thalweg.outcomes",
    "cite": "thalweg.results",
    "plan": "thalweg.laws",
    "probe": "thalweg.curvature",
    "find_lr": "thalweg.curvature",
    "survey": "thalweg.landscape",
    "simulate": "thalweg.sde",
    **{room: f"thalweg.{room}" for room in _ROOMS},
}

__all__ = list(_HOMES)

if TYPE_CHECKING:
    from thalweg import checkpoints as checkpoints
    from thalweg import curvature as curvature
    from thalweg import experiments as experiments
    from thalweg import landscape as landscape
    from thalweg import laws as laws
    from thalweg import rundir as rundir
    from thalweg import runs as runs
    from thalweg import schedules as schedules
    from thalweg import sde as sde
    from thalweg import sweeps as sweeps
    from thalweg.curvature import find_lr as find_lr
    from thalweg.curvature import probe as probe
    from thalweg.landscape import survey as survey
    from thalweg.laws import plan as plan
    from thalweg.outcomes import Outcome as Outcome
    from thalweg.outcomes import ThalwegError as ThalwegError
    from thalweg.results import cite as cite
    from thalweg.schedules import Budget as Budget
    from thalweg.schedules import Schedule as Schedule
    from thalweg.sde import simulate as simulate


__getattr__, __dir__ = attach(__name__, _HOMES)
