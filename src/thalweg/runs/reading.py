"""`read`: a table from a file, of finished runs or of whole curves, whichever its columns say."""

from __future__ import annotations

import os
from collections.abc import Mapping
from pathlib import Path

from thalweg.outcomes import ThalwegError
from thalweg.runs.curves import Curves
from thalweg.runs.frames import Assumed, prepare, read_frame
from thalweg.runs.table import Runs

__all__ = ["read", "read_runs"]


def read(
    path: str | os.PathLike[str],
    *,
    rename: Mapping[str, str] | None = None,
    assume: Assumed | None = None,
    where: str | None = None,
) -> Runs | Curves:
    """Read a CSV or Parquet file (Parquet needs pyarrow): curves where it has a column `step`, otherwise finished runs.

    See `Runs.from_frame` and `Curves.from_frame` for columns and arguments.

    Raises:
        ThalwegError: no such file, not a CSV or Parquet table, or one of the faults that the table's class names.

    Example:
        >>> text = "N,tokens,batch_tokens,loss,peak_lr,warmup\\n1e8,2e9,1e6,3.1,0.003,100\\n"
        >>> written = Path("runs.csv").write_text(text)
        >>> runs = read("runs.csv", rename={"N": "params"}, assume={"shape": "cosine", "final_lr": 0.0})
        >>> str(runs.schedules[0])
        'cosine(0.003, 2000, warmup=100)'
        >>> written = Path("curves.csv").write_text(
        ...     "run,params,step,lr,loss\\na,1e8,100,0.003,4.1\\na,1e8,200,0.003,3.9\\n"
        ... )
        >>> read("curves.csv")
        Curves(1 curve of 2 points, params 100M)
    """
    frame = prepare(read_frame(Path(path)), rename, assume, where)
    return Curves.from_frame(frame) if "step" in frame.columns else Runs.from_frame(frame)


def read_runs(
    path: str | os.PathLike[str],
    *,
    rename: Mapping[str, str] | None = None,
    assume: Assumed | None = None,
    where: str | None = None,
) -> Runs:
    """Read a table of finished runs; `read` for those who have no use for curves.

    Raises:
        ThalwegError: as `read`, and where the table holds curves.

    Example:
        >>> from thalweg.experiments.small_runs import TABLE
        >>> read_runs(TABLE, where="tokens > 1e6")
        Runs(60 runs in 3 cells)
    """
    table = read(path, rename=rename, assume=assume, where=where)
    if isinstance(table, Curves):
        raise ThalwegError(
            f"{path}: a table of curves (it has a column step), expected one row a finished run (params tokens batch_tokens "
            "loss schedule). Keep the last row of each run, or fit a law of curves, for example MultiPowerLaw."
        )
    return table
