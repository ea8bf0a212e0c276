"""Learning rate as a function of the step. Imports NumPy only.

Example:
    >>> import thalweg as tw
    >>> s = tw.schedules.wsd(0.003, 10000, warmup=500, decay=0.2)
    >>> s.phases
    Phases(warmup_end=500, decay_end=500, cooldown_start=8000)
    >>> tw.schedules.parse(str(s)) == s
    True
"""

from __future__ import annotations

from thalweg.results import register_text
from thalweg.schedules.budget import Budget, check_steps
from thalweg.schedules.factories import constant, cosine, cyclic, four_phase, linear, rewarmed, wsd
from thalweg.schedules.schedule import Phases, Schedule
from thalweg.schedules.space import Space
from thalweg.schedules.tabulated import from_segments, from_values
from thalweg.schedules.text import parse

__all__ = [
    "Budget",
    "Phases",
    "Schedule",
    "Space",
    "check_steps",
    "constant",
    "cosine",
    "cyclic",
    "four_phase",
    "from_segments",
    "from_values",
    "linear",
    "parse",
    "rewarmed",
    "wsd",
]

register_text("schedule", Schedule, str, parse)
