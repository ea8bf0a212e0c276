"""Capped runs on this rank, for test_actions.py: `torchrun --nproc-per-node 2 -m tests.curvature.act_on_ranks FOLDER`."""

from __future__ import annotations

import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist

from tests.curvature.on_ranks import WRAPPED, run
from tests.ranks import leave


def capped(how, rank=None):
    """A run at 4 times its critical learning rate; its rows, its weights, and how often it warned."""
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        made = run(how, rank=rank, optimizer=torch.optim.SGD, lr=1.2, dtype=torch.float64, on_unstable="cap_lr")
    warned = [str(warning.message) for warning in caught if "cap_lr" in str(warning.message)]
    return {**made, "warned": warned}


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    found = {how: capped(how, rank) for how in WRAPPED}
    (Path(folder) / f"rank_{rank}.json").write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    main(sys.argv[1])
