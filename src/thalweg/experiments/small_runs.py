"""The bundled table of small runs: real trainings of a small GPT that laws are fitted on before the demo's own run.

    python -m thalweg.experiments.small_runs --out small_runs --workers 2     # half an hour on two cores; continues if stopped
    python -m thalweg.experiments.small_runs --out quick --quick              # the same in a minute, for a look

writes `small_gpt_runs.csv` (one row a run, raw units) and `small_gpt_runs.json` (how it was made) into `--out`, or where
`--table` says. The grid holds no run of the demo's size (width 64) and length (1500 steps): that one stays unseen.
"""

from __future__ import annotations

import argparse
import hashlib
import json
import math
import os
import shlex
import subprocess
import sys
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from thalweg import schedules
from thalweg.experiments.loop import train
from thalweg.outcomes import ThalwegError
from thalweg.results import write_atomically
from thalweg.rundir import machine_facts, versions
from thalweg.sweeps import sweep

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["TABLE", "configs", "table", "write"]

TABLE = Path(__file__).parent / "tables" / "small_gpt_runs.csv"
"""The committed table."""

_FAILED_BY = 0.3  # nats per token above the best of its (size, steps)
_DIVERGED = (
    f"a loss that is not finite, or over {_FAILED_BY} nats above that of the best run of its (params, steps) "
    "at a peak learning rate no lower than that run's (a lower one is slow, not unstable)"
)
_EDGE = 3.2e-2  # a peak learning rate past the edge of stability of both sizes
_SIZES = (32, 64)
_STEPS = (300, 600, 1000)


def configs(*, quick: bool = False) -> list[dict[str, Any]]:
    """The grid, one config a run, none twice. `quick` keeps its core (2 sizes × 4 peak LRs × 3 shapes) at 30 steps.

    Example:
        >>> len(configs()), len(configs(quick=True))
        (178, 24)
    """
    runs: list[dict[str, Any]] = []

    def add(
        width: int, shape: str, peak_lr: float, steps: int, warmup: float, *, decay: float = 0.2, seed: int = 0
    ) -> None:
        options = {"decay": decay} if shape == "wsd" else {}
        schedule = getattr(schedules, shape)(peak_lr, steps, warmup=round(warmup * steps), **options)
        run = {"schedule": str(schedule), "seed": seed, "width": width, "heads": width // 16}
        if run not in runs:
            runs.append(run)

    for width in _SIZES:
        for steps in (30,) if quick else _STEPS:  # the core: shapes × learning rates
            for shape in ("cosine", "linear", "wsd"):
                for peak_lr in (1e-3, 2e-3, 4e-3, _EDGE) if quick else (1e-3, 2e-3, 4e-3, 8e-3, _EDGE):
                    add(width, shape, peak_lr, steps, 0.15)
        if quick:
            continue
        for steps in _STEPS:
            for warmup in (0.05, 0.3):  # the edge moves with the warmup
                for peak_lr in (2e-3, 4e-3, 8e-3):
                    add(width, "wsd", peak_lr, steps, warmup)
            for seed in (1, 2):  # the noise of a repeated run, away from the edge and near it
                for peak_lr in (2e-3, 4e-3):
                    add(width, "wsd", peak_lr, steps, 0.15, seed=seed)
        for peak_lr in (2e-3, 4e-3):
            for warmup in (0.05, 0.3):
                add(width, "cosine", peak_lr, 600, warmup)
        for seed in (1, 2):
            add(width, "cosine", 4e-3, 600, 0.15, seed=seed)
        for steps in (600, 1000):
            for decay in (0.1, 0.4):
                add(width, "wsd", 4e-3, steps, 0.15, decay=decay)
        add(width, "wsd", _EDGE, 600, 0.05)
    if not quick:
        for shape in ("cosine", "wsd"):  # longer runs, of the small size alone
            for peak_lr in (2e-3, 4e-3, 8e-3):
                add(32, shape, peak_lr, 1500, 0.15)
    return runs


def table(runs: pd.DataFrame) -> pd.DataFrame:
    """The table of runs that laws are fitted on, from the frame of a sweep; runs that are not complete are left out.

    Returns:
        run, params, tokens, batch_tokens, loss (test, nats per token), loss_kind, schedule (text), shape, peak_lr, warmup,
        steps, final_lr, seed, diverged, width, layers, train_loss (nats per token), cpu_seconds. Raw counts and learning
        rates. Diverged means: a loss that is not finite, or over .3 nats above that of the best run of the same params and
        steps at a peak learning rate no lower than that run's (a lower one is slow, not unstable).
    """
    import pandas as pd

    rows = []
    for run in runs[runs["status"] == "complete"].to_dict("records"):
        schedule = schedules.parse(run["schedule"])
        rows.append(
            {
                "run": run["run"],
                "params": int(run["params"]),
                "tokens": schedule.steps * int(run["batch_tokens"]),
                "batch_tokens": int(run["batch_tokens"]),
                "loss": run["loss"],
                "loss_kind": "test",
                "schedule": run["schedule"],
                "shape": run["schedule"].partition("(")[0],
                "peak_lr": schedule.peak_lr,
                "warmup": schedule.phases.warmup_end,
                "steps": schedule.steps,
                "final_lr": schedule(schedule.steps),
                "seed": int(run["seed"]),
                "diverged": bool(run["diverged"]) or not math.isfinite(run["loss"]),
                "width": int(run["width"]),
                "layers": 2,
                "train_loss": run["train_loss"],
                "cpu_seconds": run["cpu_seconds"],
            }
        )
    frame = pd.DataFrame(rows)
    for _, cell in frame[np.isfinite(frame["loss"])].groupby(["params", "steps"]):
        best = cell.loc[cell["loss"].idxmin()]
        failed = (cell["loss"] > best["loss"] + _FAILED_BY) & (cell["peak_lr"] >= best["peak_lr"])
        frame.loc[cell.index[failed], "diverged"] = True
    return frame.sort_values(["width", "steps", "shape", "peak_lr", "warmup", "seed", "schedule"], ignore_index=True)


def write(runs: pd.DataFrame, folder: str | os.PathLike[str], *, command: str) -> Path:
    """Write the table of a sweep's frame, and beside it how it was made; gives the path of the CSV."""
    frame = table(runs)
    target = Path(folder) / TABLE.name
    text = frame.to_csv(index=False, lineterminator="\n")
    provenance = {
        "what": "final test losses of small GPTs trained on standard-library source; one row a run",
        "command": command,
        "runs": len(frame),
        "seeds": sorted(int(seed) for seed in frame["seed"].unique()),
        "diverged_means": _DIVERGED,
        "text_fingerprint": sorted(runs["fingerprint"].dropna().unique()),
        "cpu_seconds": round(math.fsum(frame["cpu_seconds"]), 1),
        "versions": versions(),
        "machine": machine_facts(),
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": _git_commit(),
        "csv_sha256": hashlib.sha256(text.encode()).hexdigest(),
    }
    write_atomically(target, text)
    write_atomically(target.with_suffix(".json"), json.dumps(provenance, indent=1, allow_nan=False) + "\n")
    return target


def _git_commit() -> str | None:
    """The commit this file is at, "+" where the tree differs from it; None outside a repository."""
    git = ["git", "-C", str(Path(__file__).parent)]
    try:
        commit = subprocess.run([*git, "rev-parse", "HEAD"], capture_output=True, text=True, check=True).stdout.strip()
        changed = subprocess.run(
            [*git, "status", "--porcelain", "."], capture_output=True, text=True, check=True
        ).stdout
    except (OSError, subprocess.CalledProcessError):
        return None
    return commit + ("+" if changed.strip() else "")


def main(arguments: Sequence[str] | None = None) -> int:
    """The command; gives its exit code."""
    parser = argparse.ArgumentParser(
        prog="python -m thalweg.experiments.small_runs", description=(__doc__ or "").split("\n")[0]
    )
    parser.add_argument("--out", required=True, help="folder of the sweep; the runs that are complete in it are kept")
    parser.add_argument("--table", help="folder for the CSV and the JSON; --out by default")
    parser.add_argument("--quick", action="store_true", help="24 runs of 30 steps")
    parser.add_argument("--workers", type=int, default=2, help="processes")
    given = parser.parse_args(arguments)
    shown = shlex.join(
        ["python", "-m", "thalweg.experiments.small_runs", *(sys.argv[1:] if arguments is None else arguments)]
    )
    try:
        runs = sweep(configs(quick=given.quick), out=given.out, train=train, workers=given.workers)
        failed = int((runs["status"] != "complete").sum())
        if failed == len(runs):
            raise ThalwegError(f"no run is complete; the first: {runs['error'].iloc[0]}")
        path = write(runs, given.table or given.out, command=shown)
    except ThalwegError as error:
        print(error, file=sys.stderr)
        return 2
    except KeyboardInterrupt:
        print("interrupted; the same command continues", file=sys.stderr)
        return 130
    print(f"{len(runs) - failed} runs, {failed} failed: {path}")
    return 1 if failed else 0


if __name__ == "__main__":
    sys.exit(main())
