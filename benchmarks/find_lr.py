"""find_lr against two learning-rate range tests: python benchmarks/find_lr.py

Five models × three optimizers, each from one checkpoint after a short warmup, with its optimizer's state. Asked by 10
seeds, which are the order of the data, and nothing else:

find_lr            `edge` by trial trainings on the same 100 batches, `typical` and `safe` of single steps on 16 of them
lightning          Tuner.lr_find, 100 steps from 1e-5 to 10: its suggestion, and where it stopped (loss 4 × the best)
torch-lr-finder    range_test, the same: the steepest point of its plot, and where it stopped (loss 5 × the best)

Spread: the largest of 10 answers over the smallest [1]. Swept divergence LR: the lowest constant rate, to a factor of √2,
from which on 100 steps from the checkpoint end at a higher loss than they began with; edge_ratio is an answer's median
over it, and the target is within a factor of 2 for `edge`. Steps: that one answer takes, range tests stop early.

The length of a trial and its search were chosen on models of other widths and seeds, other momenta and other batches
(seeds from 1000 on), and frozen; then this was run once.

The peers need `pip install -c constraints.txt --no-deps torch-lr-finder==0.2.2 lightning==2.6.6 pytorch-lightning==2.6.6
lightning-utilities torchmetrics` in an environment of their own; without them their columns are left out and it is said.
"""

from __future__ import annotations

import contextlib
import copy
import importlib.metadata
import importlib.util
import io
import itertools
import json
import logging
import math
import tempfile
import time
import warnings
from collections.abc import Callable
from typing import Any

import matplotlib
import numpy as np
import torch
import torch.nn.functional as F
from common import RESULTS, write
from torch import Tensor, nn

import thalweg as tw
from thalweg.experiments.data import corpus, digits
from thalweg.experiments.models import GPT, MLP

SEEDS = range(10)
STEPS, WARMUP = 100, 50
LOWEST, HIGHEST = 1e-5, 10.0
PEERS = {"lightning": "lightning", "torch-lr-finder": "torch_lr_finder"}

Batch = tuple[Tensor, Tensor]


def cnn() -> nn.Module:
    """Two convolutions with BatchNorm on 8 × 8 images."""
    torch.manual_seed(0)
    layers = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    layers += [nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.Flatten(), nn.Linear(256, 10)]
    return nn.Sequential(*layers)


MODELS: dict[str, Callable[[], nn.Module]] = {
    "softmax": lambda: MLP((64, 10), seed=0),
    "mlp_relu": lambda: MLP((64, 50, 50, 10), seed=0),
    "mlp_tanh": lambda: MLP((64, 128, 128, 128, 10), activation="tanh", seed=0),
    "cnn_batchnorm": cnn,
    "gpt": lambda: GPT(width=32, heads=2, seed=0),
}
OPTIMIZERS: dict[str, tuple[Callable[..., torch.optim.Optimizer], float]] = {  # and the warmup's peak
    "sgd": (lambda parameters: torch.optim.SGD(parameters, lr=1.0), 0.02),
    "momentum": (lambda parameters: torch.optim.SGD(parameters, lr=1.0, momentum=0.9), 0.002),
    "adamw": (lambda parameters: torch.optim.AdamW(parameters, lr=1.0, weight_decay=0.1), 5e-4),
}


def batches(model: str, seed: int, count: int) -> list[Batch]:
    """Random batches: 50 images, or 16 sequences of 64 tokens."""
    generator = torch.Generator().manual_seed(seed)
    if model == "gpt":
        text = torch.from_numpy(corpus("code").train.astype(np.int64))
        starts = torch.randint(0, len(text) - 64, (count, 16), generator=generator)
        windows = [text[at[:, None] + torch.arange(65)] for at in starts]
        return [(window[:, :-1], window[:, 1:]) for window in windows]
    data = digits()
    order = torch.randint(0, len(data.train_x), (count, 50), generator=generator)
    return [(data.train_x[at], data.train_y[at]) for at in order]


def cross_entropy(output: Tensor, y: Tensor) -> Tensor:
    """Over all positions [nats]."""
    return F.cross_entropy(output.flatten(0, -2), y.flatten())


class Checkpoint:
    """A model and its optimizer after the warmup; `load` gives a copy of both."""

    def __init__(self, model: str, optimizer: str) -> None:
        self.model_name, self._make = model, OPTIMIZERS[optimizer][0]
        self._model, self._optimizer = MODELS[model](), {}
        made, peak = self._make(self._model.parameters()), OPTIMIZERS[optimizer][1]
        lrs = [peak * (step + 1) / WARMUP for step in range(WARMUP)]
        run(self._model, made, batches(model, 1000, WARMUP), lrs)
        self._optimizer = copy.deepcopy(made.state_dict())

    def load(self) -> tuple[nn.Module, torch.optim.Optimizer]:
        model = copy.deepcopy(self._model)
        return model, self.optimizer(model)

    def optimizer(self, model: nn.Module, lr: float | None = None) -> torch.optim.Optimizer:
        made = self._make(model.parameters())
        made.load_state_dict(copy.deepcopy(self._optimizer))
        for group in made.param_groups:
            group["lr"] = group["lr"] if lr is None else lr
        return made


def run(model: nn.Module, optimizer: torch.optim.Optimizer, data: list[Batch], lrs: list[float]) -> list[float]:
    """Train; the loss of every batch."""
    losses = []
    for (x, y), lr in zip(data, lrs, strict=True):
        for group in optimizer.param_groups:
            group["lr"] = lr
        optimizer.zero_grad()
        loss = cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()
        losses.append(loss.item())
    return losses


def swept(checkpoint: Checkpoint) -> float:
    """The divergence LR, from below; two in a row have to diverge."""
    data = batches(checkpoint.model_name, 2000, STEPS)

    def diverges(lr: float) -> bool:
        model, optimizer = checkpoint.load()
        losses = run(model, optimizer, data, [lr] * STEPS)
        start, end = np.mean(calm), np.mean(losses[-20:])
        return not end <= start  # NaN diverges

    model, optimizer = checkpoint.load()
    calm = run(model, optimizer, data, [0.0] * STEPS)
    lr = 1e-4 * 2.0 ** next(k for k in itertools.count() if diverges(1e-4 * 2.0**k) and diverges(1e-4 * 2.0 ** (k + 1)))
    return lr / math.sqrt(2) if diverges(lr / math.sqrt(2)) else lr


def by_thalweg(checkpoint: Checkpoint, seed: int) -> dict[str, float]:
    model, optimizer = checkpoint.load()
    band = tw.find_lr(
        model,
        optimizer,
        batches(checkpoint.model_name, seed, STEPS),
        loss_fn=lambda m, batch: cross_entropy(m(batch[0]), batch[1]),
    )
    assert band.trials is not None
    edge = band.edge if 0 < band.edge < math.inf else math.nan
    return {"edge": edge, "typical": band.typical, "safe": band.safe, "steps": float(band.trials.spent)}


def by_lightning(checkpoint: Checkpoint, seed: int) -> dict[str, float]:
    import lightning
    from lightning.pytorch.tuner import Tuner

    class Module(lightning.LightningModule):
        def __init__(self) -> None:
            super().__init__()
            self.inner, self.lr = checkpoint.load()[0], LOWEST

        def training_step(self, batch: Batch, _: int) -> Tensor:
            return cross_entropy(self.inner(batch[0]), batch[1])

        def configure_optimizers(self) -> torch.optim.Optimizer:
            return checkpoint.optimizer(self.inner, self.lr)

    loader = torch.utils.data.DataLoader(batches(checkpoint.model_name, seed, STEPS), batch_size=None)
    quiet = {
        "logger": False,
        "enable_checkpointing": False,
        "enable_progress_bar": False,
        "enable_model_summary": False,
    }
    with tempfile.TemporaryDirectory() as folder:
        trainer = lightning.Trainer(default_root_dir=folder, accelerator="cpu", max_epochs=1, **quiet)
        found = Tuner(trainer).lr_find(
            Module(), train_dataloaders=loader, min_lr=LOWEST, max_lr=HIGHEST, num_training=STEPS, update_attr=False
        )
    return {
        "suggestion": found.suggestion() or math.nan,
        "stopped": found.results["lr"][-1],
        "steps": len(found.results["lr"]),
    }


def by_torch_lr_finder(checkpoint: Checkpoint, seed: int) -> dict[str, float]:
    import matplotlib.pyplot as plt
    from torch_lr_finder import LRFinder

    model, _ = checkpoint.load()
    finder = LRFinder(model, checkpoint.optimizer(model, LOWEST), cross_entropy, device="cpu")
    loader = torch.utils.data.DataLoader(batches(checkpoint.model_name, seed, STEPS), batch_size=None)
    figure, axes = plt.subplots()
    with contextlib.redirect_stdout(io.StringIO()):
        finder.range_test(loader, end_lr=HIGHEST, num_iter=STEPS)
        _, suggestion = finder.plot(ax=axes)
    plt.close(figure)
    return {"suggestion": float(suggestion), "stopped": finder.history["lr"][-1], "steps": len(finder.history["lr"])}


def asked(checkpoint: Checkpoint) -> dict[str, Any]:
    """Divergence LR, and every tool's answers with their spread."""
    tools: dict[str, Callable[[Checkpoint, int], dict[str, float]]] = {
        "find_lr": by_thalweg,
        "lightning": by_lightning,
        "torch-lr-finder": by_torch_lr_finder,
    }
    row: dict[str, Any] = {"divergence_lr": swept(checkpoint)}
    for name, tool in tools.items():
        if name in PEERS and importlib.util.find_spec(PEERS[name]) is None:
            continue
        began = time.process_time()
        answers = [tool(checkpoint, seed) for seed in SEEDS]
        seconds = (time.process_time() - began) / len(SEEDS)
        row[name] = {"cpu_seconds_each": round(seconds, 3)}
        row[name]["steps"] = float(np.median([answer.pop("steps") for answer in answers]))
        for kind in answers[0]:
            values = np.array([answer[kind] for answer in answers])
            row[name][kind] = {
                "median": float(np.nanmedian(values)),
                "spread": float(np.nanmax(values) / np.nanmin(values)) if np.nanmin(values) > 0 else None,
                "edge_ratio": float(np.nanmedian(values) / row["divergence_lr"]),
                "values": [value if math.isfinite(value) else None for value in values.tolist()],
            }
    return row


def summarised(cells: dict[str, Any]) -> dict[str, Any]:
    """Over the cells: median and largest spread, and how many answers are within a factor of 2 of the divergence LR."""
    found: dict[str, Any] = {}
    for tool, kind in (
        ("find_lr", "edge"),
        ("find_lr", "typical"),
        ("find_lr", "safe"),
        ("lightning", "suggestion"),
        ("lightning", "stopped"),
        ("torch-lr-finder", "suggestion"),
        ("torch-lr-finder", "stopped"),
    ):
        rows = [cell[tool][kind] for cell in cells.values() if tool in cell]
        if rows:
            spreads = [row["spread"] or math.inf for row in rows]
            ratios = {name: cell[tool][kind]["edge_ratio"] for name, cell in cells.items()}
            found[f"{tool} {kind}"] = {
                "spread_median": float(np.median(spreads)),
                "spread_largest": None if math.isinf(max(spreads)) else max(spreads),
                "within_factor_2": sum(0.5 <= ratio <= 2 for ratio in ratios.values()),
                "cells": len(rows),
                "steps_median": float(np.median([cell[tool]["steps"] for cell in cells.values() if tool in cell])),
                "edge_ratios": {name: round(ratio, 3) for name, ratio in ratios.items()},
            }
    return found


def main() -> None:
    """Ask what is missing and write results/find_lr.json after every cell."""
    torch.set_num_threads(1)
    matplotlib.use("Agg")
    warnings.simplefilter("ignore")
    for name in ("lightning.pytorch", "lightning.pytorch.utilities.rank_zero"):
        logging.getLogger(name).setLevel(logging.ERROR)
    there = {name: importlib.util.find_spec(module) is not None for name, module in PEERS.items()}
    peers = {name: importlib.metadata.version(name) if there[name] else "not installed: left out" for name in PEERS}
    path = RESULTS / "find_lr.json"
    cells: dict[str, Any] = json.loads(path.read_text())["cells"] if path.is_file() else {}
    for model, optimizer in itertools.product(MODELS, OPTIMIZERS):
        name = f"{model} {optimizer}"
        if name not in cells:
            cells[name] = asked(Checkpoint(model, optimizer))
            target = {"find_lr edge within_factor_2": len(MODELS) * len(OPTIMIZERS)}
            results = {"peers": peers, "target": target, "summary": summarised(cells), "cells": cells}
            write("find_lr", "python benchmarks/find_lr.py", results)
            print(name, cells[name]["divergence_lr"], flush=True)
    print(path)


if __name__ == "__main__":
    main()
