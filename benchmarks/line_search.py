"""Evaluations that `search` and the paper's search spend on the same steps: python benchmarks/line_search.py

Seven small trainings, with and without gradient clipping, are watched every few steps. At each watched step both searches see
the same f (cached by multiple; each is charged for its own calls), each from its own last answer: `search` from its memory,
the paper's from the centre of its last interval. Every certificate is evaluated again by an f of its own.

Settings were chosen on seeds 0 to 3. Seeds 100 to 102 had been run with earlier versions, 200 to 202 never; with the frozen
settings each was run once, and they are reported apart.

Every training is kept in `--out` once it is finished, under a fingerprint of this file and of the searches: a benchmark that was
stopped goes on where it was. `--seeds 0 1 2` runs others and writes no results.
"""

from __future__ import annotations

import argparse
import hashlib
import inspect
import json
import math
import time
from collections.abc import Callable, Iterable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
import torch.nn.functional as F
from common import write
from torch import Tensor, nn

from thalweg import schedules
from thalweg.curvature import (
    SearchMemory,
    Step,
    belief,
    capture,
    certified,
    line_search,
    paper_search,
    search,
    search_memory,
)
from thalweg.experiments.data import VOCABULARY, corpus, digits
from thalweg.experiments.loop import Batches, Config, next_token_loss, one_thread
from thalweg.experiments.models import GPT
from thalweg.outcomes import Outcome
from thalweg.results import write_atomically

SEEDS, UNSEEN = (100, 101, 102), (200, 201, 202)
LENGTH, PEAK_LR = 32, 4e-3  # of the GPTs

Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Training:
    """A model, its optimizer, batches and loss; how long, how often and from where it is watched, and where gradients are clipped."""

    make: Callable[[int, int], tuple[nn.Module, torch.optim.Optimizer, Iterable[Batch], Any]]
    steps: int
    every: int
    clip: float
    kind: str  # which target it is held against
    start: int = 0


def squared_error(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.mse_loss(model(x), F.one_hot(y, 10).float(), reduction="sum") / len(x)


def cross_entropy(model: nn.Module, batch: Batch) -> Tensor:
    x, y = batch
    return F.cross_entropy(model(x), y)


def digit_batches(seed: int, steps: int, size: int | None) -> Iterator[Batch]:
    """Random rows of the 1000 training digits; every second of them, always the same, where size is None."""
    data, generator = digits(), torch.Generator().manual_seed(seed)
    for _ in range(steps):
        rows = torch.arange(0, 1000, 2) if size is None else torch.randperm(1000, generator=generator)[:size]
        yield data.train_x[rows], data.train_y[rows]


def fcn(size: int | None) -> Callable[[int, int], Any]:
    def make(seed: int, steps: int) -> Any:
        model = nn.Sequential(nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 64), nn.GELU(), nn.Linear(64, 10))
        optimizer = torch.optim.SGD(model.parameters(), lr=0.05)
        return model, optimizer, digit_batches(seed, steps, size), squared_error

    return make


def cnn(seed: int, steps: int) -> Any:
    first = [nn.Unflatten(1, (1, 8, 8)), nn.Conv2d(1, 8, 3, padding=1), nn.BatchNorm2d(8), nn.ReLU(), nn.MaxPool2d(2)]
    second = [nn.Conv2d(8, 16, 3, padding=1), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1), nn.Flatten()]
    model = nn.Sequential(*first, *second, nn.Linear(16, 10))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.05, momentum=0.9)
    return model, optimizer, digit_batches(seed, steps, 100), cross_entropy


def gpt(*, fixed: bool = False, dropout: float = 0.0, batch_tokens: int = 512) -> Callable[[int, int], Any]:
    def make(seed: int, steps: int) -> Any:
        model = GPT(VOCABULARY, length=LENGTH, width=32, layers=2, heads=2, dropout=dropout, seed=seed)
        optimizer = torch.optim.AdamW(model.parameters(), lr=PEAK_LR, betas=(0.9, 0.95), weight_decay=0.1)
        schedule = schedules.wsd(PEAK_LR, steps, warmup=steps // 8, decay=0.2)
        config = Config(schedule=str(schedule), seed=seed, length=LENGTH, batch_tokens=batch_tokens)
        batches: Iterable[Batch] = Batches(corpus("code"), config, stop=steps)
        if fixed:
            batches = [next(iter(batches))] * steps
        return model, optimizer, with_schedule(batches, schedule, optimizer), next_token_loss

    return make


def with_schedule(batches: Iterable[Batch], schedule: Any, optimizer: torch.optim.Optimizer) -> Iterator[Batch]:
    """The batches; the scheduler steps when the next is taken."""
    scheduler = schedule.to_torch(optimizer)
    for batch in batches:
        yield batch
        scheduler.step()


TRAININGS = {
    "FCN, full batch": Training(fcn(None), 800, 5, 0.5, "full batch"),
    "FCN, batch 100": Training(fcn(100), 400, 5, 0.5, "minibatch FCN"),
    "GPT, fixed batch": Training(gpt(fixed=True), 240, 4, 0.25, "GPT"),
    "GPT, fresh batches": Training(gpt(), 300, 5, 0.25, "GPT"),
    "GPT, dropout": Training(gpt(dropout=0.1), 300, 5, 0.25, "GPT"),
    # between warmup (38 steps) and the end, where log η_c moves least
    "GPT, batches of 2048": Training(gpt(batch_tokens=2048), 300, 5, 0.25, "GPT", start=100),
    "CNN, BatchNorm": Training(cnn, 400, 5, 0.5, "none"),
}


def watched(training: Training, seed: int, *, clip: bool) -> Iterator[tuple[Step, bool]]:
    """Train, and give each watched step with whether its gradient was clipped."""
    torch.manual_seed(seed)
    model, optimizer, batches, loss = training.make(seed, training.steps)
    model.train()
    for number, batch in enumerate(batches, 1):
        optimizer.zero_grad()
        state = torch.get_rng_state()
        loss(model, batch).backward()
        norm = float(nn.utils.clip_grad_norm_(model.parameters(), training.clip if clip else math.inf))

        def closure(batch: Batch = batch, state: Tensor = state) -> Tensor:
            torch.set_rng_state(state)  # the dropout masks of the training forward
            return loss(model, batch)

        if number % training.every or number <= training.start:
            optimizer.step()
            continue
        with capture(model, optimizer, closure) as step:
            optimizer.step()
        yield step, clip and norm > training.clip


def holds(step: Step, bracket: Any, multiples: Iterable[float], tolerance: float = 1 / 16) -> bool:
    """The certificate from evaluations of its own, on a fresh f without the cache."""
    fell = any(step.at(m) < 0 for m in multiples if m <= bracket.lower)
    upper = step.at(bracket.upper)
    rose = upper > 0 or not math.isfinite(upper)
    return fell and step.at(bracket.lower) <= 0 and rose and 1 - bracket.lower / bracket.upper <= tolerance


def run(name: str, seed: int, *, clip: bool) -> dict[str, Any]:
    """One training: evaluations of both searches at each watched step, and how far log η_c moved between them."""
    memory, guess = SearchMemory(), 1.0
    ours, papers, places = [], [], []
    counts = {"clipped": 0, "steps": 0, "not_ok": 0, "paper_not_ok": 0, "certificates_failed": 0}
    for step, was_clipped in watched(TRAININGS[name], seed, clip=clip):
        counts["steps"] += 1
        counts["clipped"] += was_clipped
        if step.obstacle() is not Outcome.OK:
            counts["not_ok"] += 1
            continue
        cache: dict[float, float] = {}
        asked: dict[float, float] = {}

        def f(
            m: float, step: Step = step, cache: dict[float, float] = cache, asked: dict[float, float] = asked
        ) -> float:
            asked[m] = cache[m] if m in cache else step.at(m)
            cache[m] = asked[m]
            return asked[m]

        memory.convert(step.lr)
        found = search(f, slope=step.slope, memory=memory, rounding=step.rounding)
        mine = list(asked)
        paper = paper_search(f, guess=guess)
        if paper.outcome is Outcome.OK:
            guess = paper.centre
            papers.append(paper.evaluations)
        else:
            counts["paper_not_ok"] += 1
        if found.outcome is Outcome.OK:
            ours.append(found.evaluations)
            places.append(math.log(found.centre * step.lr))
            counts["certificates_failed"] += not holds(step, found, mine)
        else:
            counts["not_ok"] += 1
    return {**counts, "search": ours, "paper": papers, "moves": np.abs(np.diff(places)).tolist()}


def fingerprint() -> str:
    """Of all that a kept training depends on and that is likely to change."""
    sources = [Path(__file__).read_text(), *map(inspect.getsource, (line_search, certified, belief, search_memory))]
    return hashlib.sha256("".join(sources).encode()).hexdigest()[:12]


def kept(out: Path, name: str, seed: int, *, clip: bool) -> dict[str, Any]:
    """What `run` gives, from the file of an earlier call where there is one."""
    path = out / fingerprint() / f"{name.replace(',', '').replace(' ', '_')}-{'clip' if clip else 'free'}-{seed}.json"
    if not path.exists():
        path.parent.mkdir(parents=True, exist_ok=True)
        began = time.process_time()
        found = run(name, seed, clip=clip)
        write_atomically(path, json.dumps({**found, "cpu_seconds": round(time.process_time() - began, 1)}))
    done: dict[str, Any] = json.loads(path.read_text())
    return done


def spent(evaluations: list[list[int]]) -> dict[str, Any]:
    """Of several runs: mean, p50, p95, max of evaluations after the first measurement; the first apart."""
    later = np.array([count for one in evaluations for count in one[1:]])
    return {
        "measurements": int(later.size),
        "mean": round(float(later.mean()), 3),
        "p50": float(np.percentile(later, 50)),
        "p95": float(np.percentile(later, 95)),
        "max": int(later.max()),
        "shares": {str(n): round(float((later == n).mean()), 3) for n in range(2, int(later.max()) + 1)},
        "first": [one[0] for one in evaluations],
    }


def targets(kind: str, move: float) -> dict[str, float]:
    """What the specification asks of `search`, by the kind of run and the median |Δ log η_c| of its intervals."""
    if kind == "full batch":
        return {"mean": 2.1, "max": 12}
    if kind == "minibatch FCN":
        return {"mean": 3.4, "p95": 5, "max": 12}
    if kind == "GPT":
        return {"mean": 3.0, "p95": 4, "max": 12} if move <= 0.2 else {"mean": 3.5, "max": 12}
    return {"max": 12}


def summary(name: str, clip: bool, runs: list[dict[str, Any]]) -> dict[str, Any]:
    """One line of the table: both searches on all seeds of a run, with its targets."""
    ours = spent([one["search"] for one in runs])
    move = float(np.median([move for one in runs for move in one["moves"]]))
    asked = targets(TRAININGS[name].kind, move)
    counts = {key: sum(one[key] for one in runs) for key in runs[0] if isinstance(runs[0][key], int)}
    return {
        "run": name,
        "clipping": clip,
        "median_move_of_log_critical_lr": round(move, 4),
        "search": ours,
        "paper": spent([one["paper"] for one in runs]),
        "targets": {
            key: {"target": limit, "reached": ours[key], "met": ours[key] <= limit} for key, limit in asked.items()
        },
        **counts,
        "cpu_seconds": round(sum(one["cpu_seconds"] for one in runs), 1),
    }


def table(out: Path, seeds: Iterable[int]) -> list[dict[str, Any]]:
    """All runs on some seeds, one line each."""
    rows = []
    for name in TRAININGS:
        for clip in (False, True):
            row = summary(name, clip, [kept(out, name, seed, clip=clip) for seed in seeds])
            rows.append(row)
            print(
                f"{name:20} clip {clip!s:5} move {row['median_move_of_log_critical_lr']:.3f}  "
                + "  ".join(
                    f"{which} {[row[which][key] for key in ('mean', 'p50', 'p95', 'max', 'first')]}"
                    for which in ("search", "paper")
                )
                + f"  failed {row['certificates_failed']} not ok {row['not_ok']}/{row['paper_not_ok']}",
                flush=True,
            )
    return rows


def main() -> None:
    """Run everything and write results/line_search.json."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--seeds", type=int, nargs="+", help="others than the tests; no results are written")
    parser.add_argument("--out", type=Path, default=Path("runs/line_search"))
    options = parser.parse_args()
    with one_thread():
        if options.seeds:
            table(options.out, options.seeds)
            return
        results, unseen = table(options.out, SEEDS), table(options.out, UNSEEN)
    facts = {
        "protocol": (__doc__ or "").split("\n\n")[1:3],
        "seeds": SEEDS,
        "unseen_seeds": UNSEEN,
        "development_seeds": [0, 1, 2, 3],
        "data": "scikit-learn digits (instead of MNIST) and standard-library source",
    }
    print(
        write(
            "line_search", "python benchmarks/line_search.py", {**facts, "results": results, "results_unseen": unseen}
        )
    )


if __name__ == "__main__":
    main()
