"""One run of a sweep: locked, resumed or begun, and whatever happens, its folder says so."""

from __future__ import annotations

import os
import time
import traceback
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from thalweg.outcomes import ThalwegError
from thalweg.results import write_atomically
from thalweg.rundir import RunDir, locked

__all__ = ["Config", "Train", "run_one"]

Config = dict[str, Any]
Train = Callable[[Config, RunDir], Mapping[str, Any] | None]

_ORPHAN = 10.0  # seconds [s] to wait for the last breath of a killed sweep's run


def run_one(train: Train, path: Path, config: Config) -> str | None:
    """Run or resume one run; what went wrong, in one line, or None."""
    deadline = time.monotonic() + _ORPHAN
    while True:
        with locked(path) as lock:
            if lock is not None:
                os.set_inheritable(lock.fileno(), True)
                return _run_locked(train, path, config)
        if time.monotonic() > deadline:
            return f"{path}: another process is writing this run; end it, or wait for it"
        time.sleep(0.05)


def _run_locked(train: Train, path: Path, config: Config) -> str | None:
    try:
        return _run(train, path, config)
    except KeyboardInterrupt:
        # asked of the file, not of an object: the interrupt may have come before there was one, or while it was writing
        if (path / "run.json").is_file() and (run := RunDir.open(path)).status == "running":
            run.interrupt()
        raise


def _run(train: Train, path: Path, config: Config) -> str | None:
    try:
        run = RunDir.create(path, config)
    except ThalwegError as error:
        return str(error)
    if run.status == "complete":
        return None
    try:
        result = train(config, run)
        if run.status != "complete":
            run.finish({} if result is None else result)
    except (Exception, SystemExit) as error:
        message = " ".join(f"{type(error).__name__}: {error}".split())
        write_atomically(path / "error.txt", traceback.format_exc())
        run.fail(message)
        return f"{path}: {message}"
    return None
