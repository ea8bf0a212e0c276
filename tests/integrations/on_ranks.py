"""The Trainer on this rank, for test_every_host.py: `torchrun --nproc-per-node 2 -m tests.integrations.on_ranks FOLDER`."""

from __future__ import annotations

import json
import sys
from pathlib import Path

import torch.distributed as dist

from tests.integrations import hosts
from tests.ranks import leave
from thalweg.curvature import JsonlLog


def main(folder):
    measures = ("critical", "hessian")
    arguments = {"per_device_train_batch_size": hosts.ROWS // 2, "ddp_backend": "gloo"}
    log = JsonlLog(folder / "probe.jsonl")
    history, _, entries = hosts.huggingface(folder / "out", arguments=arguments, measures=measures, log=log)
    found = {
        "rows": list(history.rows),
        "logged": [entry["step"] for entry in entries if "stability/margin" in entry],
        "ranks": dist.get_world_size(),
    }
    (folder / f"rank_{dist.get_rank()}.json").write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    main(Path(sys.argv[1]))
