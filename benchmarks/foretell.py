"""Does a low margin foretell a loss spike? python benchmarks/foretell.py --out runs/foretell

Small networks on digits (64-128-128-128-10, ReLU, batches of 64) under three optimizers, at learning rates from calm to
unstable, constant or rising through the whole run; the margin is probed every 5 steps. A spike begins where the loss of the
whole training set, measured after every step, is at least .1 nats over twice its lowest value of the last 20 steps, and stays
there for 3 steps. At each measured step outside a spike the question is: does one begin within the next 15 steps? Three
scores answer it: the margin (low), and the norms of the applied update and of the gradient as z-scores of the logarithm over
the last 50 steps (high). They are compared at equal false-alarm rates, shares of the calm steps that sound; intervals are bootstrapped
over runs.

(GPTs of the demo's kind, clipped at norm 1, were tried first: at peak learning rates up to .128 none of 9 runs spiked; they
stay on a plateau instead, so there was nothing to foretell.)
"""

from __future__ import annotations

import argparse
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import write
from numpy.typing import NDArray
from sklearn.metrics import roc_auc_score, roc_curve

import thalweg as tw
from thalweg.experiments.data import digits
from thalweg.experiments.models import MLP
from thalweg.rundir import RunDir
from thalweg.sweeps import sweep

EVERY, AHEAD, RECENT, STAYS, PAST = 5, 15, 20, 3, 50
STEPS, BATCH = 600, 64
# the middle learning rate of each is near the one at which constant runs of 600 steps begin to fail
LRS = {"sgd": (0.5, 1.0, 2.0), "momentum": (0.1, 0.2, 0.4), "adamw": (0.01, 0.03, 0.1)}
SEEDS = range(4)
FALSE_ALARMS = (0.05, 0.2)  # shares of the calm steps

Floats = NDArray[np.float64]


def train(config: dict[str, Any], rundir: RunDir) -> dict[str, Any]:
    """One run: margin every few steps, and after every step the loss of the whole training set and two norms."""
    data, steps = digits(), config["steps"]
    x, y = data.train_x, data.train_y
    model = MLP((64, 128, 128, 128, 10), seed=config["seed"])
    parameters = list(model.parameters())
    optimizer: torch.optim.Optimizer
    if config["optimizer"] == "adamw":
        optimizer = torch.optim.AdamW(parameters, lr=config["lr"])
    else:
        optimizer = torch.optim.SGD(
            parameters, lr=config["lr"], momentum=0.9 if config["optimizer"] == "momentum" else 0.0
        )
    warmup = steps - 1 if config["rising"] else 30
    scheduler = tw.schedules.constant(config["lr"], steps, warmup=warmup).to_torch(optimizer)
    generator = torch.Generator().manual_seed(config["seed"])

    def batches() -> Iterator[tuple[torch.Tensor, torch.Tensor]]:
        for _ in range(steps):
            chosen = torch.randint(0, len(x), (BATCH,), generator=generator)
            yield x[chosen], y[chosen]

    with tw.probe(model, optimizer, every=EVERY) as probe:
        for step, (images, labels) in enumerate(probe.watch(batches()), start=1):
            optimizer.zero_grad()
            F.cross_entropy(model(images), labels).backward()
            before = [p.detach().clone() for p in parameters]
            gradient = sum(float(p.grad.square().sum()) for p in parameters if p.grad is not None) ** 0.5
            optimizer.step()
            scheduler.step()
            update = sum(float((p.detach() - b).square().sum()) for p, b in zip(parameters, before, strict=True)) ** 0.5
            with torch.no_grad():
                loss = F.cross_entropy(model(x), y).item()
            row = {"loss": loss, "gradient_norm": gradient, "update_norm": update}
            if step % EVERY == 0:
                row["margin"] = probe.history.rows[-1].get("stability/margin", float("nan"))
            rundir.log(row, step=step)
            if not np.isfinite(loss):
                break
    return {"final": loss}


def spikes(losses: Floats) -> list[int]:
    """Indices at which a spike begins; two are at least RECENT apart."""
    found: list[int] = []
    for t in range(RECENT, len(losses) - STAYS + 1):
        limit = 2 * np.min(losses[t - RECENT : t]) + 0.1
        if not np.any(losses[t : t + STAYS] <= limit) and (not found or t - found[-1] >= RECENT):
            found.append(t)
    return found


def z_scores(values: Floats) -> Floats:
    """Each value against the mean and deviation of those before it; NaN where there are fewer than 10."""
    scores = np.full(len(values), np.nan)
    for t in range(10, len(values)):
        past = np.log(values[max(0, t - PAST) : t] + 1e-12)
        scores[t] = (np.log(values[t] + 1e-12) - past.mean()) / (past.std() + 1e-12)
    return scores


def questions(folder: Path) -> dict[str, Floats]:
    """The measured steps of one run outside its spikes: their scores, and whether a spike begins soon after."""
    rows = RunDir.open(folder).metrics()
    losses = np.array([row["loss"] for row in rows])
    starts = spikes(losses)
    gradient, update = (z_scores(np.array([row[name] for row in rows])) for name in ("gradient_norm", "update_norm"))
    asked = []
    for at, row in enumerate(rows):  # update at + 1 and the loss after it; the margin of that very update is known then
        in_spike = any(start <= at < start + RECENT for start in starts)
        if "margin" not in row or in_spike or not np.isfinite(row["margin"] + gradient[at] + update[at]):
            continue
        if at < RECENT or at + AHEAD >= len(losses):
            continue
        soon = any(at < start <= at + AHEAD for start in starts)
        asked.append((-np.log(max(row["margin"], 1e-6)), update[at], gradient[at], float(soon)))
    columns = np.array(asked).reshape(-1, 4).T
    named = dict(zip(("margin", "update_norm", "gradient_norm", "soon"), columns, strict=True))
    return named | {"spikes": np.array(starts, dtype=np.float64)}


def judged(score: Floats, soon: NDArray[np.bool_]) -> tuple[float, ...]:
    """Share of the steps before a spike that are caught at each false-alarm rate, then the area under the ROC curve.

    Equal scores (margin 0: the batch's loss climbs from the start) are one alarm that sounds for a random part of them: the
    ROC curve is interpolated.
    """
    false_alarms, caught, _ = roc_curve(soon, score)
    return (*np.interp(FALSE_ALARMS, false_alarms, caught).tolist(), float(roc_auc_score(soon, score)))


def judge(runs: list[dict[str, Floats]], generator: np.random.Generator) -> dict[str, Any]:
    """Every score over some runs, with 90 % intervals from runs drawn with replacement."""
    draws = [generator.integers(0, len(runs), len(runs)) for _ in range(500)]
    results: dict[str, Any] = {}
    for name in ("margin", "update_norm", "gradient_norm"):

        def over(chosen: list[dict[str, Floats]], name: str = name) -> tuple[float, ...] | None:
            soon = np.concatenate([run["soon"] for run in chosen]).astype(bool)
            return judged(np.concatenate([run[name] for run in chosen]), soon) if 0 < soon.sum() < len(soon) else None

        value = over(runs)
        assert value is not None
        again = np.array([drawn for draw in draws if (drawn := over([runs[i] for i in draw])) is not None])
        low, high = np.quantile(again, (0.05, 0.95), axis=0)
        labels = [f"caught_at_{rate:.0%}_false_alarms" for rate in FALSE_ALARMS] + ["area_under_roc"]
        results[name] = {
            label: {"value": round(v, 4), "90_%": [round(lo, 4), round(hi, 4)]}
            for label, v, lo, hi in zip(labels, value, low, high, strict=True)
        }
    soon = np.concatenate([run["soon"] for run in runs])
    counts = {
        "runs": len(runs),
        "runs_with_spikes": sum(len(run["spikes"]) > 0 for run in runs),
        "spikes": sum(len(run["spikes"]) for run in runs),
        "measured_steps": len(soon),
        "before_a_spike": int(soon.sum()),
    }
    return counts | results


def main() -> None:
    """Run what is not there yet, then judge, and write results/foretell.json."""
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--out", type=Path, default=Path("runs/foretell"))
    out = parser.parse_args().out
    configs = [
        {"optimizer": optimizer, "lr": lr, "rising": rising, "seed": seed, "steps": STEPS}
        for optimizer, lrs in LRS.items()
        for lr in lrs
        for rising in (False, True)
        for seed in SEEDS
    ]
    table = sweep(configs, train=train, out=out, workers=2)
    runs = [questions(out / name) for name in table["run"]]
    generator = np.random.default_rng(0)
    results = {"all": judge(runs, generator)}
    for optimizer in LRS:
        chosen = [run for run, config in zip(runs, configs, strict=True) if config["optimizer"] == optimizer]
        results[optimizer] = judge(chosen, generator)
    print(
        write(
            "foretell", "python benchmarks/foretell.py --out runs/foretell", {"seeds": list(SEEDS), "results": results}
        )
    )


if __name__ == "__main__":
    main()
