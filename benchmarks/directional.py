"""How close directional sharpness from forward passes comes to the exact value: python benchmarks/directional.py

Target: median relative error ≤ 1e-2 on a GELU MLP and a small GPT, in float32. The exact value is a double backward on a
float64 copy of the model at the same two sets of weights. Beside it stands the same quotient at a fixed h = .05 m_c.
"""

from __future__ import annotations

import copy
import math
import statistics
from collections import Counter
from collections.abc import Callable, Iterable
from typing import Any

import torch
import torch.nn.functional as F
from common import write
from torch import nn

from thalweg import schedules
from thalweg.curvature import Step, capture, critical_sharpness, directional_sharpness
from thalweg.experiments.data import corpus, digits
from thalweg.experiments.loop import Batches, Config, next_token_loss, one_thread
from thalweg.experiments.models import MLP
from thalweg.outcomes import Outcome

SEEDS = (100, 101, 102)
EVERY = 5
TARGET = 1e-2
GPT_SCHEDULE = "wsd(0.004, 200, warmup=30, decay=0.2)"

LossFn = Callable[[nn.Module, Any], torch.Tensor]


def mlp_full_batch(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Iterable[Any], LossFn, None]:
    """GELU MLP, 500 digits, squared error, gradient descent with learning rate .05."""
    data = digits()
    batch = data.train_x[:500], F.one_hot(data.train_y[:500], 10).float()
    model = MLP((64, 50, 50, 10), activation="gelu", seed=seed)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
    return model, optimizer, [batch] * 400, squared_error, None


def mlp_batches_of_100(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Iterable[Any], LossFn, None]:
    """GELU MLP, 100 digits a step, cross-entropy, AdamW with learning rate 1e-3: the loss of a batch falls to 1e-3 and less."""
    data = digits()
    generator = torch.Generator().manual_seed(seed)
    chosen = [torch.randint(0, len(data.train_x), (100,), generator=generator) for _ in range(400)]
    model = MLP((64, 50, 50, 10), activation="gelu", seed=seed)
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-3)
    return model, optimizer, [(data.train_x[i], data.train_y[i]) for i in chosen], cross_entropy, None


def gpt_fresh_batches(seed: int) -> tuple[nn.Module, torch.optim.Optimizer, Iterable[Any], LossFn, schedules.Schedule]:
    """GPT of width 64 and 2 layers, 1024 tokens a step, AdamW (.9, .95), decay .1, no clipping, peak learning rate 4e-3."""
    config = Config(schedule=GPT_SCHEDULE, seed=seed)
    model, schedule = config.model(), schedules.parse(GPT_SCHEDULE)
    optimizer = torch.optim.AdamW(model.parameters(), lr=schedule.peak_lr, betas=(0.9, 0.95), weight_decay=0.1)
    return model, optimizer, Batches(corpus("code"), config, stop=schedule.steps), next_token_loss, schedule


def squared_error(model: nn.Module, batch: Any) -> torch.Tensor:
    x, y = batch
    return F.mse_loss(model(x), y.to(model(x)), reduction="sum") / len(x)


def cross_entropy(model: nn.Module, batch: Any) -> torch.Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


RUNS = {
    "mlp_full_batch": mlp_full_batch,
    "mlp_batches_of_100": mlp_batches_of_100,
    "gpt_fresh_batches": gpt_fresh_batches,
}


def measure(run: str, seed: int) -> list[dict[str, Any]]:
    """Train once; at every EVERY-th step the measured and the exact value, as a probe would carry its memory along."""
    model, optimizer, batches, loss_fn, schedule = RUNS[run](seed)
    memory: dict[str, Any] = {}
    rows = []
    for i, batch in enumerate(batches):
        if schedule is not None:
            optimizer.param_groups[0]["lr"] = schedule(i)
        optimizer.zero_grad()
        loss_fn(model, batch).backward()
        if (i + 1) % EVERY:
            optimizer.step()
            continue
        with capture(model, optimizer, lambda batch=batch: loss_fn(model, batch)) as step:
            optimizer.step()
        step.memory, step.check_determinism = memory, bool(i < EVERY)
        found = directional_sharpness(step)
        exact = directional_sharpness(in_float64(step, model, loss_fn, batch), exact=True)
        rows.append(
            {
                "step": i + 1,
                "error": abs(found.sharpness / exact.sharpness - 1),
                "estimated": found.error,
                "evaluations": found.forward_passes - 1 - (i < EVERY),  # without L(θ_before) and its repetition
                "fixed_h_error": abs(at_fixed_h(step) / exact.sharpness - 1),
                "negative": exact.sharpness < 0,
                "outcome": found.outcome.name,
            }
        )
    return rows


def in_float64(step: Step, model: nn.Module, loss_fn: LossFn, batch: Any) -> Step:
    """The same update of a float64 copy of the model."""
    double = copy.deepcopy(model).double()
    x, y = batch
    wide = (x.double() if x.is_floating_point() else x, y)
    names = [name for name, _ in model.named_parameters()]
    before, after = (
        dict(zip(names, weights, strict=True)) for weights in (step.start, [p.detach() for p in step.parameters])
    )
    return Step.between(before, after, double, lambda: loss_fn(double, wide), lr=step.lr)


def at_fixed_h(step: Step) -> float:
    """λ_dir from one pair of evaluations at .05 m_c, m_c as the probe measures it; NaN where there is none."""
    critical = critical_sharpness(step)
    if critical.outcome is not Outcome.OK:
        return math.nan
    h = 0.05 * critical.multiple
    ahead, behind = step.at(h), step.at(-h)
    return -2 * (ahead + behind) / (step.lr * h * (ahead - behind))


def described(rows: list[dict[str, Any]]) -> dict[str, Any]:
    """What the rows of one kind of run say."""
    given = [row for row in rows if row["outcome"] != "NOT_RESOLVED"]
    fixed = [row["fixed_h_error"] for row in rows if math.isfinite(row["fixed_h_error"])]
    return {
        "steps_measured": len(rows),
        "outcomes": dict(Counter(row["outcome"] for row in rows)),
        "relative_error": spread([row["error"] for row in given]),
        "relative_error_with_unresolved": spread([row["error"] for row in rows]),
        "estimated_error": spread([row["estimated"] for row in given]),
        "share_understated": sum(row["error"] > row["estimated"] for row in given) / len(given),
        "largest_error_over_estimate": max(row["error"] / row["estimated"] for row in given),
        "evaluations": spread([row["evaluations"] for row in rows]),
        "share_negative": sum(row["negative"] for row in rows) / len(rows),
        "fixed_h_relative_error": spread(fixed),
    }


def spread(values: list[float]) -> dict[str, float]:
    """Median, 95 % quantile, largest."""
    ordered = sorted(values)
    return {
        "median": statistics.median(ordered),
        "p95": ordered[math.ceil(0.95 * len(ordered)) - 1],
        "max": ordered[-1],
    }


def main() -> None:
    """Every kind of run with every seed, then results/directional.json."""
    results = {}
    with one_thread():
        for run in RUNS:
            rows = [row for seed in SEEDS for row in measure(run, seed)]
            results[run] = described(rows)
            errors, passes = results[run]["relative_error"], results[run]["evaluations"]
            print(f"{run}: median {errors['median']:.1e}, p95 {errors['p95']:.1e}, {passes['median']:.0f} evaluations")
    print(
        write("directional", "python benchmarks/directional.py", {"seeds": SEEDS, "target": TARGET, "results": results})
    )


if __name__ == "__main__":
    main()
