"""The tables that laws are fitted on: finished runs, and whole loss curves.

A row of `Runs` is one run: its budget (`params`, `tokens`, `batch_tokens`, raw counts), its learning-rate schedule and the
loss it reached: mean token cross-entropy in nats, on held-out data at the last step where there is such a number. A row of
`Curves` is one logged point of one run (`run params step lr loss`).
"""

from __future__ import annotations

from thalweg.runs.curves import Curves
from thalweg.runs.reading import read, read_runs
from thalweg.runs.table import Runs

__all__ = ["Curves", "Runs", "read", "read_runs"]
