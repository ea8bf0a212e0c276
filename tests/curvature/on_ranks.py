"""Probed runs on this rank, for test_distributed.py: `torchrun --nproc-per-node 2 -m tests.curvature.on_ranks FOLDER`.

Every rank writes what it saw to FOLDER/rank_R.json. In one process, without torchrun, the same functions train on the
batches of all ranks joined.
"""

from __future__ import annotations

import hashlib
import json
import os
import sys
import warnings
from pathlib import Path

import torch
import torch.distributed as dist
import torch.nn.functional as F
from torch import nn

from tests.curvature.state import bits
from tests.ranks import leave
from thalweg.curvature import capture, probe
from thalweg.outcomes import ThalwegError, ThalwegWarning

STEPS, EVERY, ROWS = 12, 3, 8
WRAPPED = ("ddp", "fsdp2")


def network(dtype=torch.float32):
    torch.manual_seed(0)
    return nn.Sequential(
        nn.Linear(5, 12), nn.GELU(), nn.LayerNorm(12), nn.Linear(12, 12), nn.GELU(), nn.Linear(12, 1)
    ).to(dtype)


def batches(dtype=torch.float32, rank=None, count=STEPS):
    """The two ranks' rows of each batch, joined; or those of one rank."""
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        x = torch.randn(2 * ROWS, 5, generator=generator, dtype=torch.float64).to(dtype)
        y = torch.sin(3 * x.sum(dim=1, keepdim=True))
        yield (x, y) if rank is None else (x[rank * ROWS : (rank + 1) * ROWS], y[rank * ROWS : (rank + 1) * ROWS])


def wrapped(model, how):
    if how == "ddp":
        return nn.parallel.DistributedDataParallel(model)
    if how == "fsdp2":
        from torch.distributed.fsdp import fully_shard

        for layer in model:
            if isinstance(layer, nn.Linear):
                fully_shard(layer)
        return fully_shard(model)
    return model


def run(
    how,
    *,
    rank=None,
    dtype=torch.float32,
    lr=0.01,
    optimizer=torch.optim.AdamW,
    loss_fn=None,
    probed=True,
    only_last_bias=False,
    **kwargs,
):
    """Train; give the rows, what was logged, and a digest of this rank's weights."""
    model = network(dtype)
    if only_last_bias:
        model.requires_grad_(False)[-1].bias.requires_grad_(True)
    model = wrapped(model, how)
    made = optimizer(model.parameters(), lr=lr)
    logged = []
    loss_fn = loss_fn or (lambda model, batch: F.mse_loss(model(batch[0]), batch[1]))
    watcher = probe(model, made, every=EVERY, loss_fn=loss_fn, log=lambda row, step: logged.append(step), **kwargs)
    if probed:
        watcher.attach()
    for batch in watcher.watch(batches(dtype, rank)):
        made.zero_grad()
        F.mse_loss(model(batch[0]), batch[1]).backward()
        made.step()
    watcher.close()
    digest = hashlib.sha256()
    for p in model.parameters():
        digest.update(repr(bits(p.to_local() if hasattr(p, "to_local") else p)).encode())
    return {"rows": list(watcher.history.rows), "logged": logged, "weights": digest.hexdigest()}


def one_step(how, rank=None):
    """f along one captured step, and its slope; evaluated in an order that would show weights gathered before a write."""
    model = wrapped(network(torch.float64), how)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.01)
    x, y = next(iter(batches(torch.float64, rank)))
    F.mse_loss(model(x), y).backward()
    with capture(model, optimizer, lambda: F.mse_loss(model(x), y)) as step:
        optimizer.step()
    return {
        "f": [step.at(m) for m in (0.0, 1.0, 7.0, 0.0, 30.0, 1.0)],
        "slope": step.slope,
        "outcome": step.obstacle().name,
    }


def everything(rank):
    """All cases, by name."""
    warnings.simplefilter("ignore", ThalwegWarning)
    found = {}
    for how in WRAPPED:
        found[f"{how} step"] = one_step(how, rank)
        for name in ("float32", "float64"):
            found[f"{how} {name}"] = run(how, dtype=getattr(torch, name), rank=rank)
        found[f"{how} without"] = run(how, probed=False, rank=rank)
        found[f"{how} sgd unstable"] = run(how, optimizer=torch.optim.SGD, lr=1.5, dtype=torch.float64, rank=rank)
        found[f"{how} lr 0"] = run(how, lr=0.0, rank=rank)
        found[f"{how} nan"] = run(how, rank=rank, loss_fn=_not_finite_on_rank_1)
        # Bias of one entry: under FSDP2 rank 1 has nothing of it and sees no update.
        found[f"{how} one entry"] = run(how, only_last_bias=True, dtype=torch.float64, rank=rank)
        found[f"{how} offloaded"] = run(how, rank=rank, offload=True)
    found["ddp per module"] = run("ddp", rank=rank, mode="per_module")
    try:
        run("fsdp2", rank=rank, mode="per_module")
    except ThalwegError as error:
        found["fsdp2 per module"] = str(error)
    found["ddp raises"] = run("ddp", rank=rank, loss_fn=_raises_on_rank_1)
    measures = ("critical", "hessian", "preconditioned")
    found["ddp hessian"] = run("ddp", rank=rank, measures=measures, dtype=torch.float64)
    for measure in measures[1:]:
        try:
            run("fsdp2", rank=rank, measures=(measure,))
        except ThalwegError as error:
            found[f"fsdp2 {measure}"] = str(error)
    return found


def _not_finite_on_rank_1(model, batch):
    return F.mse_loss(model(batch[0]), batch[1]) * (float("nan") if dist.get_rank() == 1 else 1.0)


def _raises_on_rank_1(model, batch):
    if dist.get_rank() == 1:
        raise RuntimeError("out of memory on one rank")
    return F.mse_loss(model(batch[0]), batch[1])


def main(folder):
    torch.set_num_threads(1)
    dist.init_process_group("gloo")
    rank = int(os.environ["RANK"])
    found = everything(rank)
    (Path(folder) / f"rank_{rank}.json").write_text(json.dumps(found))
    leave()


if __name__ == "__main__":
    main(sys.argv[1])
