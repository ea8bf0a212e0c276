"""The edge of stability in a few seconds: a small network on digits by full-batch gradient descent, with the probe on.

Sharpness rises until λ_max·η/2 = 1 and stays there, while the margin collapses from hundreds to 1 (critical-sharpness
paper, Figs. 1 and 3; Cohen et al. 2021).
"""

from __future__ import annotations

import torch
import torch.nn.functional as F
from torch import nn

from thalweg.curvature import History, probe
from thalweg.experiments.data import digits
from thalweg.experiments.loop import one_thread
from thalweg.figures import Figure, Line, Threshold

__all__ = ["edge_figures", "train_to_the_edge"]

PER_CLASS = 50
WIDTH = 128


def train_to_the_edge(*, lr: float = 0.05, steps: int = 1000, every: int = 20, seed: int = 0) -> History:
    """Full-batch gradient descent on 500 digits (50 of each class), GELU, squared error summed over the ten classes.

    Args:
        lr: of gradient descent [1]; its edge of stability is at λ_max = 2/lr.
        steps: updates [count].
        every: steps between measurements of margin and λ_max [count].
        seed: of the weights.

    Example:
        Early steps are far from the edge:

        >>> history = train_to_the_edge(steps=20, every=20)
        >>> history.rows[0]["sharpness/hessian"] * 0.05 / 2 < 0.5 and history.rows[0]["stability/margin"] > 2
        True
    """
    data = digits()
    chosen = torch.cat([torch.nonzero(data.train_y == label).flatten()[:PER_CLASS] for label in range(10)])
    x, y = data.train_x[chosen], F.one_hot(data.train_y[chosen], 10).float()
    model = _model(seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=lr)

    def loss() -> torch.Tensor:
        return F.mse_loss(model(x), y, reduction="sum") / len(x)

    with one_thread(), probe(model, optimizer, every=every, measures=("critical", "hessian"), closure=loss) as watching:
        for _ in range(steps):
            optimizer.zero_grad()
            loss().backward()  # type: ignore[no-untyped-call]
            optimizer.step()
    return watching.history


def _model(seed: int) -> nn.Module:
    """Three hidden layers as PyTorch initialises them: smaller weights than Kaiming's, so a flat start and a long climb."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        hidden = [
            nn.Linear(64, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
            nn.Linear(WIDTH, WIDTH),
            nn.GELU(),
        ]
        return nn.Sequential(*hidden, nn.Linear(WIDTH, 10))


def edge_figures(history: History, *, lr: float = 0.05) -> tuple[Figure, ...]:
    """Both measures in units of their threshold, on one pair of axes: they meet at 1."""
    steps, margins = history.column("stability/margin")
    at, sharpness = history.column("sharpness/hessian")
    marks = (
        Line(steps, margins, "margin", series=0),
        Line(at, sharpness * lr / 2, "λ_max × lr / 2", series=1),
        Threshold(1.0, "edge of stability"),
    )
    return (
        Figure(
            "Both measures meet at the edge",
            marks,
            x_label="step [count]",
            y_label="in units of the threshold [1]",
            y_scale="log",
            caption="Full-batch gradient descent sharpens its own landscape until the largest Hessian eigenvalue reaches 2/lr; the "
            "margin of a step, measured by forward passes alone, falls from hundreds to 1 and stays.",
            name="edge_of_stability",
        ),
    )
