"""`thalweg demo`: one run's life on this machine."""

from __future__ import annotations

import time
from pathlib import Path
from typing import Annotated

from cyclopts import Parameter

from thalweg.cli.arguments import Json, Out, print_json, tell


def demo(
    *,
    out: Out = Path("runs/demo"),
    resume: Annotated[bool, Parameter(negative=())] = False,
    quick: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> None:
    """Live one run's life: predict its loss, train it with the probe on, compare, survey, simulate; write report.html.

    Args:
        out: folder for the run, its results and report.html.
        resume: continue a demo that was interrupted.
        quick: a few steps of everything, to see that it works here; its numbers mean nothing.
        json: print the summary as JSON on stdout.
    """
    from thalweg.experiments import demo as experiment
    from thalweg.experiments.demo_page import write_page

    began = time.perf_counter()
    try:
        result = experiment.demo(out, scale=experiment.QUICK if quick else experiment.FULL, resume=resume, tell=tell)
    except KeyboardInterrupt:
        raise KeyboardInterrupt(
            f"Continue with: thalweg demo --out {out} --resume{' --quick' if quick else ''}"
        ) from None
    page = write_page(result, out / "report.html")
    if json:
        print_json(dict(line.split(maxsplit=1) for line in result.summary().splitlines()))
    else:
        print(result.summary())
    tell(f"wrote {page} ({time.perf_counter() - began:.0f} s)")
