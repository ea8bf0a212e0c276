"""The table of finished runs that laws are fitted on.

A row is one run: its budget (`params`, `tokens`, `batch_tokens`, raw counts), its learning-rate schedule and the loss it
reached: mean token cross-entropy in nats, on held-out data at the last step where there is such a number.
"""

from __future__ import annotations

from thalweg.runs.table import Runs, read

__all__ = ["Runs", "read"]
