"""Laws on real runs, split by split: python benchmarks/laws.py --split dev | test

Table: ../shared/data/lr_batch_runs_train.csv, Step-Law's dense runs, of more than 2200 steps (2619 runs, 41 cells; `dense`:
the 2405 of them with params > 2e8). One schedule shape: cosine to 1e-5 with 2000 warmup steps; batch in sequences of 2048.

Splits, each law fitted on one part and judged on the other:
leave_one_cell_out   every (params, tokens) cell predicted by a fit on the others
extrapolate_params   fitted on params ≤ 430M, judged on 537M and 1.07B
extrapolate_tokens   fitted on tokens ≤ 25e9, judged on more
fixed_batch          leave_one_cell_out within each batch size that has 80 runs
few_runs             20 random subsets each of 40, 60 and 80 runs (seeds 0 to 19), judged on all others

Error: mean of |predicted/measured − 1|; regret: the run ranked first within a cell against the best measured; intervals:
cells resampled. `--split dev` uses only params ≤ 430M and tokens ≤ 25e9, where every setting was chosen (few_runs with seeds
1000 to 1004); what lies outside was not looked at before the settings were frozen in the commit that the results name as
`git_commit`. `--split test` refuses a changed tree and is meant to run once. Resumable: finished scores are kept in --out.
"""

from __future__ import annotations

import argparse
import json
import subprocess
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict
from pathlib import Path

import numpy as np
from common import RESULTS, write

import thalweg as tw
from thalweg.laws.comparisons import splits
from thalweg.laws.comparisons.comparing import compare
from thalweg.laws.comparisons.fitter import fitter
from thalweg.laws.comparisons.splits import Fold
from thalweg.runs import Runs

DATA = Path(__file__).resolve().parents[2] / "shared" / "data"
LAWS = (
    "Chinchilla",
    "Kaplan",
    "BrokenPowerLaw",
    "OptLaw",
    "OptLaw(batch_terms=True)",
    "OptLaw(exponents='dense', batch_terms=True)",
    "BowlLaw",
    "BowlLaw(shape='quartic')",
    "GaussianProcessLaw",
    "select",
    "published",
)
FIXED_BATCH = ("Chinchilla", "OptLaw", "OptLaw(exponents='dense')", "published")
SMALLER, SHORTER = 430e6, 25e9
DENSE = 2e8


def table(split: str) -> Runs:
    """The runs of more than 2200 steps; for development, the part that settings may be chosen on."""
    where = "tokens / batch_tokens > 2200"
    if split == "dev":
        where += f" and params <= {SMALLER} and tokens <= {SHORTER}"
    assume = {"batch_tokens": lambda df: 2048 * df.batch_sequences, "warmup": 2000, "final_lr": 1e-5, "shape": "cosine"}
    return tw.runs.read(DATA / "lr_batch_runs_train.csv", assume=assume, where=where)


def folds(name: str, split: str, runs: Runs) -> Sequence[Fold]:
    """The folds of a split; development mimics each inside its own part."""
    dev = split == "dev"
    if name == "extrapolate_params":
        return splits.extrapolate(runs, "params", beyond=2.2e8 if dev else SMALLER)
    if name == "extrapolate_tokens":
        return splits.extrapolate(runs, "tokens", beyond=1.2e10 if dev else SHORTER)
    if name == "few_runs":
        return splits.few_runs(runs, seeds=range(1000, 1005) if dev else range(20))
    return splits.SPLITS[name](runs)


def fit(law: str) -> Callable[[Runs], tw.laws.Law]:
    """What fits the law of that name; `published` are the authors' coefficients, fitted on none of these runs."""
    return (lambda runs: tw.laws.OptLaw.published()) if law == "published" else fitter(law)


def batches(runs: Runs) -> Mapping[str, Runs]:
    """The runs of each batch size that the split fixed_batch divides, in sequences."""
    sizes = runs.frame.batch_tokens.to_numpy()
    divided = {float(sizes[fold.test][0]) for fold in splits.fixed_batch(runs)}
    return {f"{size / 2048:g}": runs.subset(sizes == size) for size in divided}


def measured(
    out: Path, key: str, laws: Sequence[str], runs: Runs, parts: Mapping[str, Sequence[Fold]]
) -> dict[str, object]:
    """The scores of laws on one split, law by law, each kept as soon as it is there."""
    scores = {}
    for law in laws:
        file = out / f"{key}.{law}.json"
        if not file.is_file():
            found = compare({law: fit(law)}, runs, splits=parts, workers=2)
            file.write_text(json.dumps(asdict(found.scores[0]), allow_nan=False))
        scores[law] = json.loads(file.read_text())
        error = scores[law]["error"]
        print(f"{key:40} {law:30} {'–' if error is None else f'{error:.3%}'} {scores[law]['problem']}", flush=True)
    return scores


def main() -> None:
    """Measure every law on every split and write results/laws.json (or laws_dev.json)."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--split", choices=("dev", "test"), required=True)
    parser.add_argument("--out", type=Path, default=Path("runs/laws_benchmark"))
    options = parser.parse_args()
    if options.split == "test":
        changed = subprocess.run(["git", "status", "--porcelain", "src"], capture_output=True, text=True, check=True)
        if changed.stdout:
            sys.exit("benchmarks/laws.py: src is changed; --split test wants the settings frozen in a commit.")
    out = options.out / options.split
    out.mkdir(parents=True, exist_ok=True)

    results: dict[str, object] = {}
    runs = table(options.split)
    dense = runs.subset(runs.frame.params.to_numpy() > DENSE)
    for part, there in (("all", runs), ("dense", dense)):
        for name in ("leave_one_cell_out", "extrapolate_params", "extrapolate_tokens", "few_runs"):
            key = f"{part}.{name}"
            results[key] = measured(out, key, LAWS, there, {name: folds(name, options.split, there)})
    for sequences, there in sorted(batches(runs).items(), key=lambda item: float(item[0])):
        key = f"fixed_batch.{sequences}"
        results[key] = measured(out, key, FIXED_BATCH, there, {key: splits.leave_one_cell_out(there)})

    name = "laws" if options.split == "test" else "laws_dev"
    whole = {"runs": len(runs), "cells": len(np.unique(runs.cells)), "dense": len(dense)}
    print(write(name, f"python benchmarks/laws.py --split {options.split}", {"table": whole, "splits": results}))


if __name__ == "__main__":
    assert RESULTS.is_dir()
    main()
