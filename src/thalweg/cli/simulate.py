"""`thalweg simulate`: a phase diagram of the two-valley model."""

from __future__ import annotations

from pathlib import Path
from typing import Literal

from thalweg.cli.arguments import Count, Json, Numbers, Out, Seed, print_json, tell


def simulate(
    *,
    lr: Numbers = (0.05,),
    noise: Numbers = (0.02,),
    runs: Count = 2000,
    steps: Count = 20_000,
    covariance: Literal["hessian", "hessian_squared", "isotropic"] = "hessian",
    seed: Seed = 0,
    out: Out = Path("runs/simulate"),
    json: Json = False,
) -> None:
    """Simulate SGD in the two-valley landscape: which valley, and when is the choice frozen?

    Args:
        lr: learning rates, 0.02,0.05 or low:high:count on a log scale.
        noise: noise strengths, likewise; crossed with lr.
        runs: runs a cell.
        steps: updates a run.
        covariance: form of the gradient noise.
        seed: seed of the simulation.
        out: folder for simulation.json, its table and figures.
        json: print the table as JSON on stdout.
    """
    from thalweg import sde

    sim = sde.simulate(
        sde.TwoValley(),
        lr=lr,
        noise=noise,
        runs=int(runs),
        steps=int(steps),
        covariance=covariance,
        seed=seed,
        progress=True,
    )
    sim.save(out / "simulation.json")
    sim.to_frame().to_csv(out / "simulation.csv", index=False)
    sim.plot(out / "simulation.png")
    if json:
        print_json({"cells": sim.to_frame().astype(object).where(sim.to_frame().notna(), None).to_dict("records")})
    else:
        print(sim.summary())
    tell(f"wrote {out}/simulation.json, simulation.csv, simulation.png")
