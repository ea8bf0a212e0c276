"""A small network with dropout and BatchNorm, its batches, and a plain training loop."""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from tests.curvature.state import bits, everything

torch.set_num_threads(1)


def network():
    torch.manual_seed(0)
    return nn.Sequential(nn.Linear(6, 16), nn.BatchNorm1d(16), nn.GELU(), nn.Dropout(0.2), nn.Linear(16, 3))


def batches(count, seed=0, rows=12):
    generator = torch.Generator().manual_seed(seed)
    centres = torch.randn(3, 6, generator=generator)
    for _ in range(count):
        y = torch.randint(0, 3, (rows,), generator=generator)
        yield centres[y] + torch.randn(rows, 6, generator=generator), y


def cross_entropy(model, batch):
    x, y = batch
    return F.cross_entropy(model(x), y)


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=3e-3, weight_decay=0.1)


def train(model, optimizer, loader, loss_fn=cross_entropy, current=None):
    losses = []
    for batch in loader:
        if current is not None:
            current["batch"] = batch
        optimizer.zero_grad()
        loss = loss_fn(model, batch)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def outcome_of_run(model, optimizer, losses):
    """All that a run leaves, without which tensors it lives in."""
    left = everything(model, optimizer)
    left["gradients"] = {name: bits(p.grad) for name, p in model.named_parameters()}
    left["buffers"] = {name: bits(b) for name, b in model.named_buffers()}
    return {key: left[key] for key in ("weights", "gradients", "buffers", "training", "random", "optimizer")}, losses
