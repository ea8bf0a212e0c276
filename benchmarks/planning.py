"""How fast are thousands of schedules ranked, what does a search find, do designed runs help? python benchmarks/planning.py

1. `plan` ranks 10 000 schedules in under 1 s (target; medians of 7, on schedules; how long making or parsing these takes stands beside it).
2. A search of a space against a dense grid of it, under the divergence criterion: the gap in log(loss), and what each judged.
3. `next_runs` on real runs (../shared/data/lr_batch_runs_train.csv, or THALWEG_DATA): its rows of params ≤ 430M and tokens ≤ 25B
   alone, the part that laws are developed on, one batch size at a time. Opt-Law is fitted on 24 random runs of the small cells
   (params ≤ 215M, tokens ≤ 11.4B), then 8 more of them are chosen by `next_runs` for each target cell (268M and 429M params,
   tokens ≥ 14B), or at random; both are fitted again. Reported of the target cell: the error of differences (standard deviation of
   log(measured/predicted) within the cell) and the regret of the run ranked first. Seeds 1000 to 1019; 90 % intervals by
   bootstrap over pairs of batch size and target cell. No other tool does 2 or 3, so no peer stands beside them.
"""

from __future__ import annotations

import itertools
import os
import statistics
import time
import warnings
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pandas as pd
from common import write

from thalweg import runs as tables
from thalweg.experiments.small_runs import TABLE
from thalweg.laws import DivergenceCriterion, Law, OptLaw, next_runs, plan
from thalweg.laws.plans.judging import Judge
from thalweg.outcomes import ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import Budget, Schedule, Space, cosine, linear, parse, wsd

DATA = Path(os.environ.get("THALWEG_DATA", Path(__file__).parents[2] / "shared" / "data"))
COUNT, REPEATS = 10_000, 7
SEEDS = range(1000, 1020)
BATCHES = (64, 128, 256)  # sequences of 2048 tokens: those with all 23 cells
BEGUN, FURTHER = 24, 8


def seconds(call: Callable[[], object]) -> dict[str, float]:
    """Wall and CPU time of a call, medians after one to warm up."""
    call()
    wall, cpu = [], []
    for _ in range(REPEATS):
        began = time.perf_counter(), time.process_time()
        call()
        wall.append(time.perf_counter() - began[0])
        cpu.append(time.process_time() - began[1])
    return {"wall_seconds": statistics.median(wall), "cpu_seconds": statistics.median(cpu)}


def speed() -> dict[str, Any]:
    """Ranking 10 000 schedules of three shapes."""
    budget = Budget(params=1e9, tokens=8e9, batch_tokens=1e6)

    def made() -> list[Schedule]:
        factories = itertools.cycle((cosine, linear, wsd))
        return [
            factory(1e-3 * 1.0002**row, 8000, warmup=128 + row % 900)
            for row, factory in zip(range(COUNT), factories, strict=False)
        ]

    schedules = made()
    texts = [str(schedule) for schedule in schedules]
    fitted = OptLaw.fit(tables.read_runs(TABLE))
    return {
        "candidates": COUNT,
        "target_wall_seconds": 1.0,
        "plan_published": seconds(lambda: plan(OptLaw.published(), budget, schedules)),
        "plan_fitted_with_chances": seconds(lambda: plan(fitted, budget, schedules)),
        "make_schedules": seconds(made),
        "parse_texts": seconds(lambda: [parse(text) for text in texts]),
    }


def searches() -> dict[str, Any]:
    """What a search finds against a dense grid of the same space."""
    budget = Budget(params=0.58e9, tokens=10e9, batch_tokens=1e6)
    law, criterion = OptLaw.published(), DivergenceCriterion.published()
    judge = Judge(law, budget, (), criterion)
    spaces = {
        "2 options, 40000 points": (Space("linear", peak_lr=(3e-3, 2e-2), warmup=(100, 2500)), 200),
        "3 options, 64000 points": (Space("wsd", peak_lr=(3e-3, 2e-2), warmup=(100, 2500), decay=(0.05, 0.5)), 40),
    }
    found: dict[str, Any] = {}
    for name, (space, points) in spaces.items():
        verdict = judge(space.grid(points, budget.steps))
        lowest = float(verdict.log_losses[~verdict.doomed].min())
        rows = []
        for seed in range(5):
            began = time.process_time()
            searched = plan(law, budget, space, seed=seed)
            rows.append(
                {
                    "cpu_seconds": time.process_time() - began,
                    "tried": searched.searches[0].tried,
                    "divergence_ratio": searched.searches[0].ratio,
                    "log_loss_above_the_grid's_best": float(law.log_losses([searched.best], [budget])[0]) - lowest,
                }
            )
        found[name] = {"space": repr(space), "seeds": rows}
    return found


def development_runs() -> Runs:
    """The part of the table that laws are developed on."""
    frame = pd.read_csv(DATA / "lr_batch_runs_train.csv")
    frame = frame.assign(batch_tokens=2048 * frame.batch_sequences)
    longer = frame.tokens / frame.batch_tokens > 2200
    part = frame[longer & (frame.params <= 430e6) & (frame.tokens <= 25e9)]
    return Runs.from_frame(part, assume={"warmup": 2000, "final_lr": 1e-5, "shape": "cosine"})


def judged(law: Law, cell: Runs) -> tuple[float, float]:
    """Error of differences within a cell, and the regret of the run ranked first."""
    predicted = np.log(law.predict_runs(cell))
    return float(np.std(np.log(cell.loss) - predicted)), float(cell.loss[np.argmin(predicted)] / cell.loss.min() - 1)


def designed_against_random() -> dict[str, Any]:
    """Fit, add runs, fit again: on real runs."""
    table = development_runs()
    params, tokens = (np.array([getattr(b, name) for b in table.budgets]) for name in ("params", "tokens"))
    batches = table.frame.batch_sequences.to_numpy()
    small, large = (params <= 215e6) & (tokens <= 11.4e9), (params > 215e6) & (tokens >= 14e9)
    scores: dict[tuple[int, int], list[dict[str, tuple[float, float]]]] = {}
    for batch, seed in itertools.product(BATCHES, SEEDS):
        pool = np.flatnonzero(small & (batches == batch))
        shuffled = np.random.default_rng(seed).permutation(pool)
        begun, rest = shuffled[:BEGUN], shuffled[BEGUN:]
        law, known = fitted_on(table, begun)
        drawn, _ = fitted_on(table, [*begun, *rest[:FURTHER]])
        everything, _ = fitted_on(table, pool)
        for cell in np.unique(table.cells[large & (batches == batch)]):
            rows = np.flatnonzero((table.cells == cell) & (batches == batch))
            target = table.subset(np.isin(np.arange(len(table)), rows))
            choices = [(table.schedules[row], table.budgets[row]) for row in rest]
            chosen = next_runs(law, target.budgets[0], list(target.schedules), FURTHER, runs=known, choices=choices)
            taken = [choices.index(pair) for pair in zip(chosen.schedules, chosen.budgets, strict=True)]
            designed, _ = fitted_on(table, [*begun, *rest[taken]])
            laws = {"before": law, "random": drawn, "designed": designed, "all": everything}
            scores.setdefault((batch, int(cell)), []).append({name: judged(law, target) for name, law in laws.items()})
    return summary(scores)


def fitted_on(table: Runs, rows: Any) -> tuple[OptLaw, Runs]:
    """Opt-Law on some rows of the table, and these rows."""
    part = table.subset(np.isin(np.arange(len(table)), rows))
    return OptLaw.fit(part), part


def summary(scores: dict[tuple[int, int], list[dict[str, tuple[float, float]]]]) -> dict[str, Any]:
    """Means over seeds and target cells, with bootstrap intervals over the cells."""
    generator = np.random.default_rng(0)
    result: dict[str, Any] = {"targets": len(scores), "seeds": len(SEEDS), "runs_before": BEGUN, "runs_added": FURTHER}
    for number, measure in enumerate(("error_of_differences", "regret")):
        means = {
            name: np.array([np.mean([row[name][number] for row in rows]) for rows in scores.values()])
            for name in ("before", "random", "designed", "all")
        }
        ratio = [
            float(means["designed"][drawn].mean() / means["random"][drawn].mean())
            for drawn in generator.integers(len(scores), size=(2000, len(scores)))
        ]
        result[measure] = {name: float(values.mean()) for name, values in means.items()}
        result[measure]["designed_over_random"] = float(means["designed"].mean() / means["random"].mean())
        result[measure]["designed_over_random_90_%"] = [float(end) for end in np.quantile(ratio, (0.05, 0.95))]
    return result


def main() -> None:
    """Run the three parts and write results/planning.json."""
    warnings.simplefilter("ignore", ThalwegWarning)  # few runs of one batch: named where a person fits
    results: dict[str, Any] = {"speed": speed(), "search": searches()}
    if (DATA / "lr_batch_runs_train.csv").is_file():
        results["next_runs"] = designed_against_random()
    print(write("planning", "python benchmarks/planning.py", results))


if __name__ == "__main__":
    main()
