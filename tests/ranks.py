"""Run a test's program on two ranks by torchrun, over gloo, and give back what each rank wrote."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any, NoReturn

import pytest
from torch import distributed as dist

from tests.conftest import REPOSITORY


def on_two_ranks(module: str, folder: Path) -> list[dict[str, Any]]:
    """Run `python -m module folder` on two ranks; each writes `rank_N.json` into the folder."""
    if not (dist.is_available() and dist.is_gloo_available()):
        pytest.skip("this torch has no gloo")
    torchrun = [sys.executable, "-m", "torch.distributed.run", "--standalone", "--nproc-per-node", "2"]
    done = subprocess.run(
        [*torchrun, "-m", module, str(folder)],
        cwd=REPOSITORY,
        env={**os.environ, "OMP_NUM_THREADS": "1"},
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-4000:]
    return [json.loads((folder / f"rank_{rank}.json").read_text()) for rank in (0, 1)]


def leave() -> NoReturn:
    """End a rank whose answer is written, when the others' are too.

    Without C++ teardown: of gloo's threads for FSDP2 and DDP one may still run, and the process aborts then, every third
    time ("terminate called without an active exception"), after all that a test asks about is done.
    """
    dist.barrier()
    sys.stdout.flush()
    sys.stderr.flush()
    os._exit(0)
