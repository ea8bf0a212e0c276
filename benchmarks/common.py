"""What every benchmark shares: run a command as a process of its own and account for it; write results with their facts."""

from __future__ import annotations

import json
import os
import resource
import subprocess
import sys
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

from thalweg.results import write_atomically
from thalweg.rundir import machine_facts, versions

RESULTS = Path(__file__).parent / "results"


class Cost(NamedTuple):
    """What a finished process took, its children included: wall and CPU time [s], memory of the largest process [bytes]."""

    wall_seconds: float
    cpu_seconds: float
    peak_bytes: int


def timed(command: list[str], **environment: str) -> tuple[Cost, str]:
    """Run a command to its end; its cost by the operating system's account, and what it wrote on stdout."""
    before, began = resource.getrusage(resource.RUSAGE_CHILDREN), time.perf_counter()
    done = subprocess.run(command, stdout=subprocess.PIPE, text=True, check=True, env={**os.environ, **environment})
    after = resource.getrusage(resource.RUSAGE_CHILDREN)
    cpu = after.ru_utime + after.ru_stime - before.ru_utime - before.ru_stime
    unit = 1 if sys.platform == "darwin" else 1024
    return Cost(time.perf_counter() - began, cpu, after.ru_maxrss * unit), done.stdout


def write(name: str, command: str, results: dict[str, Any]) -> Path:
    """Write `results/NAME.json` with the command, the machine and the versions beside the numbers."""
    commit = subprocess.run(
        ["git", "rev-parse", "HEAD"], capture_output=True, text=True, check=False, cwd=RESULTS.parent
    )
    facts = {
        "command": command,
        "date": datetime.now(UTC).date().isoformat(),
        "git_commit": commit.stdout.strip() or None,
        "machine": machine_facts(),
        "versions": versions(),
    }
    return write_atomically(
        RESULTS / f"{name}.json", json.dumps({**facts, **results}, indent=1, allow_nan=False) + "\n"
    )
