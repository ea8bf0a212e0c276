"""Trainings that the processes of a sweep can import, and a program that sweeps one of them."""

from __future__ import annotations

import os
import signal
import sys
import time
from typing import Any

from thalweg.rundir import RunDir
from thalweg.sweeps import grid, sweep


def count(config: dict[str, Any], rundir: RunDir) -> dict[str, Any]:
    """Log one row a step, from where the folder says it stopped; every step says which process did it."""
    for step in range(len(rundir.metrics()), config["steps"]):
        rundir.log({"value": config["x"] * step, "process": os.getpid()}, step=step)
        time.sleep(0.02)
    with (rundir.path / "finished.txt").open("a") as file:
        file.write("once\n")
    return {"total": sum(row["value"] for row in rundir.metrics())}


def stumble(config: dict[str, Any], rundir: RunDir) -> dict[str, Any] | None:
    """Some runs raise, exit, or die."""
    kind = config["kind"]
    if kind == "raise":
        raise ZeroDivisionError("x is\nnot right")
    if kind == "exit":
        sys.exit(3)
    if kind == "die":
        os.kill(os.getpid(), signal.SIGKILL)
    return None if kind == "none" else {"loss": float("nan")}


if __name__ == "__main__":
    sweep(grid(x=list(range(6)), steps=[15]), train=count, out=sys.argv[1], workers=int(sys.argv[2]), progress=False)
