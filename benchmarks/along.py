"""Margin and sharpness along two runs: python benchmarks/along.py

A small GPT under AdamW and WSD, whose margin stays above 1; and a small network under full-batch gradient descent whose
learning rate rises until it breaks. Writes docs/figures/along.svg and results/along.json (the rows that are drawn).
"""

from __future__ import annotations

import tempfile
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import write

import thalweg as tw
from thalweg import plots
from thalweg.curvature import History
from thalweg.experiments.data import digits
from thalweg.experiments.loop import next_token_loss, one_thread, train
from thalweg.experiments.models import MLP
from thalweg.figures import Figure, Line, Threshold
from thalweg.rundir import RunDir

WSD = {"schedule": "wsd(0.004, 600, warmup=90, decay=0.2)", "seed": 0}
RISING = tw.schedules.constant(0.4, 400, warmup=399)


def along_wsd() -> tuple[History, np.ndarray]:
    """The probe's history of the GPT run, and its training losses."""
    kept: dict[str, Any] = {}

    @contextmanager
    def watch(
        model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any]
    ) -> Iterator[Iterable[Any]]:
        measures = {"critical": 10, "preconditioned": 60}
        with tw.probe(model, optimizer, measures=measures, loss_fn=next_token_loss) as probe:
            kept["probe"] = probe
            yield probe.watch(batches)

    with tempfile.TemporaryDirectory() as folder:
        run = RunDir.create(Path(folder) / "run", WSD)
        train(WSD, run, watch=watch)
        losses = np.array([row["loss"] for row in run.metrics() if "gradient_norm" in row])
    return kept["probe"].history, losses


def along_unstable() -> tuple[History, np.ndarray]:
    """The probe's history of the run that breaks, and its losses."""
    data = digits()
    model = MLP((64, 64, 64, 10), activation="tanh", seed=0)
    targets = F.one_hot(data.train_y, 10).float()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    scheduler = RISING.to_torch(optimizer)
    losses = []

    def loss() -> torch.Tensor:
        return F.mse_loss(model(data.train_x), targets, reduction="sum") / len(targets)

    with one_thread(), tw.probe(model, optimizer, every=3, measures=("critical", "hessian"), closure=loss) as probe:
        for _ in range(RISING.steps):
            optimizer.zero_grad()
            value = loss()
            value.backward()
            losses.append(value.item())
            optimizer.step()
            scheduler.step()
            if losses[-1] > 100 * losses[0]:  # broken: what follows says nothing more
                break
    return probe.history, np.array(losses)


def figures(history: History, losses: np.ndarray, name: str, key: str) -> tuple[Figure, Figure, Figure]:
    """Loss, margin, and the eigenvalue with its threshold, over the steps of one run."""
    steps, margin = history.column("stability/margin")
    at, sharpness = history.column(f"sharpness/{key}")
    edge_at, edge = history.column("sharpness/threshold")
    loss = Figure(
        f"{name}: loss", (Line(np.arange(len(losses)), losses),), x_label="step", y_label="loss", y_scale="log"
    )
    shown = margin > 0
    below = Threshold(1.0, "the step raises its own loss")
    margins = Figure(
        f"{name}: margin",
        (Line(steps[shown], margin[shown]), below),
        x_label="step",
        y_label="margin [1]",
        y_scale="log",
    )
    marks = (Line(at, sharpness, "λ_max"), Line(edge_at, edge, "edge of stability", series=6, style="dashed"))
    sharp = Figure(f"{name}: sharpness", marks, x_label="step", y_label="sharpness [1/lr]", y_scale="log")
    return loss, margins, sharp


def main() -> None:
    """Train both, draw, and write the rows."""
    calm, unstable = along_wsd(), along_unstable()
    drawn = [
        *figures(*calm, "GPT, AdamW, WSD", "preconditioned"),
        *figures(*unstable, "MLP, GD, rising lr", "hessian"),
    ]
    plots.draw(drawn, path=Path(__file__).parent.parent / "docs" / "figures" / "along.svg", width=4.6, columns=3)
    rows = {name: list(history.rows) for name, (history, _) in (("wsd", calm), ("rising", unstable))}
    runs = {"wsd": WSD, "rising": {"schedule": str(RISING), "seed": 0}}
    print(write("along", "python benchmarks/along.py", {"runs": runs, "rows": rows}))


if __name__ == "__main__":
    main()
