"""The Trainer on this rank, for test_every_host.py: `torchrun --nproc-per-node 2 -m tests.integrations.on_ranks FOLDER`."""

from __future__ import annotations

import json
import sys
import warnings
from pathlib import Path

import torch.distributed as dist

from tests.integrations import hosts
from tests.ranks import leave
from thalweg.curvature import JsonlLog


def stopped(folder, arguments):
    """A run at a learning rate that is far too high: its rows, how many steps it trained, and what this rank warned of."""
    hosts.adamw = hosts.too_fast
    log = JsonlLog(folder / "stopped.jsonl")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        history, _, _ = hosts.huggingface(folder / "stopped", arguments=arguments, on_unstable="stop", log=log)
    warned = [str(warning.message) for warning in caught if "stop:" in str(warning.message)]
    return {"rows": list(history.rows), "trained": len(hosts.trained_on), "warned": warned}


def main(folder):
    measures = ("critical", "hessian")
    arguments = {"per_device_train_batch_size": hosts.ROWS // 2, "ddp_backend": "gloo"}
    log = JsonlLog(folder / "probe.jsonl")
    history, _, entries = hosts.huggingface(folder / "out", arguments=arguments, measures=measures, log=log)
    found = {
        "rows": list(history.rows),
        "logged": [entry["step"] for entry in entries if "stability/margin" in entry],
        "ranks": dist.get_world_size(),
        "stopped": stopped(folder, arguments),
    }
    (folder / f"rank_{dist.get_rank()}.json").write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
