"""The demo's page: what was predicted, what was reached, and every figure on the way."""

from __future__ import annotations

import os
from pathlib import Path

import numpy as np

import thalweg
from thalweg import report
from thalweg.experiments.demo import Demo
from thalweg.experiments.edge import edge_figures
from thalweg.figures import Band, Figure, Line, Points, Threshold
from thalweg.units import format_count

__all__ = ["write_page"]


def write_page(demo: Demo, path: str | os.PathLike[str]) -> Path:
    """Write the page of a demo; one self-contained file."""
    sections = [
        _before(demo),
        _during(demo),
        _edge(demo),
        _after(demo),
        _why(demo),
        report.Section("In ten lines", verbatim=demo.summary()),
    ]
    lead = (
        f"A GPT of {format_count(demo.params)} parameters, {format_count(demo.tokens)} tokens of Python source: predicted, trained "
        "with the probe on, compared, and surveyed on this machine."
    )
    footer = (
        f"Thalweg {thalweg.__version__}. A toy run: its numbers show how the parts work, not how large models behave."
    )
    return report.write(path, "One run's life", sections, lead=lead, footer=footer)


def _before(demo: Demo) -> report.Section:
    low, high = demo.interval
    place = next(rank for rank, schedule in enumerate(demo.plan.schedules, start=1) if schedule == demo.schedule)
    text = [
        "An Opt-Law was fitted on the bundled table of small runs, none of this size and length. Its prediction was written to "
        f"prediction.json before training began (sha256 {demo.prediction_sha256[:16]}…).",
    ]
    if not demo.same_text:
        text.append(
            "This Python's library is not the one the table was made on: the text differs, and so does the loss that can be reached."
        )
    facts = [
        ("predicted", f"{demo.prediction.loss:.3f} nats"),
        ("90 % interval", f"{low:.3f} to {high:.3f}"),
        ("reached", f"{demo.reached:.3f} nats"),
        ("verdict", "inside" if demo.inside else "outside"),
    ]
    plan = demo.plan
    assert plan.losses is not None and plan.probability_best is not None
    best = zip(plan.schedules[:5], plan.losses, plan.probability_best, strict=False)
    rows = [[str(rank), str(s), f"{loss:.3f}", f"{chance:.0%}"] for rank, (s, loss, chance) in enumerate(best, start=1)]
    table = report.Table(
        ["rank", "schedule", "predicted [nats]", "P(best)"],
        rows,
        f"The law's favourites of {demo.plan.candidates} schedules on this budget; the demo's own ranks {place}.",
    )
    return report.Section(
        "Before: what loss will this schedule reach?",
        text,
        facts,
        [table],
        [_predicted_against_reached(demo), demo.schedule.figure()],
    )


def _predicted_against_reached(demo: Demo) -> Figure:
    both = np.concatenate([demo.table_predicted, demo.table_measured])
    ends = np.array([both.min(), both.max()])
    low, high = demo.interval
    return Figure(
        "Predicted against reached",
        (
            Line(ends, ends, style="dotted", series=6),
            Points(
                demo.table_measured,
                demo.table_predicted,
                "bundled runs, predicted without their cell",
                series=0,
                hollow=True,
            ),
            Points(
                [demo.reached],
                [demo.prediction.loss],
                "this run, with its 90 % interval",
                series=1,
                lower=[low],
                upper=[high],
            ),
        ),
        x_label="reached loss [nats per token]",
        y_label="predicted loss [nats per token]",
        caption="Each bundled run is predicted by a law that saw no run of its size and length. On the dotted line both agree.",
        name="predicted_against_reached",
    )


def _during(demo: Demo) -> report.Section:
    margin, at = demo.history.lowest_margin or (float("nan"), 0)
    plateau = demo.history.plateau or float("nan")
    facts = [
        ("lowest margin", f"{margin:.3g} at step {at}"),
        ("plateau of the margin", f"{plateau:.3g}"),
        ("sharpness / its edge, at most", f"{demo.sharpest:.2g}"),
        ("probe cost, margins alone", f"{demo.probe_shares[0]:.1%}, {demo.probe_shares[1]:.1%}"),
    ]
    text = [
        "The probe watched from hooks of the optimizer and changed nothing: with and without it the weights are the same bits. "
        "A margin of 5 means that five times the step just made would have brought its batch's loss back to where it was.",
    ]
    return report.Section(
        "During: how far can this step go?", text, facts, figures=[_loss(demo), *demo.history.figures()]
    )


def _loss(demo: Demo) -> Figure:
    window = max(1, len(demo.losses) // 60)
    smooth = np.convolve(demo.losses, np.ones(window) / window, mode="valid")
    last = demo.steps[-1]
    low, high = demo.interval
    around = [0.88 * last, last]
    phases = demo.schedule.phases
    return Figure(
        "Loss",
        (
            Line(demo.steps, demo.losses, series=0, faint=True),
            Line(demo.steps[window // 2 :][: len(smooth)], smooth, f"training, mean of {window} steps", series=0),
            Band(around, [low, low], [high, high], "predicted interval", series=1),
            Points([last], [demo.reached], "test loss reached", series=2),
            Threshold(phases.warmup_end, "warmup ends", axis="x"),
            Threshold(phases.cooldown_start, "cooldown", axis="x"),
        ),
        x_label="step",
        y_label="loss [nats per token]",
        y_limits=(min(low, demo.reached, float(smooth.min())) - 0.1, float(smooth.max()) + 0.3),
        name="loss",
    )


def _edge(demo: Demo) -> report.Section:
    text = [
        "AdamW on a small GPT stays far from margin 1. Full-batch gradient descent does not: on 500 digits a small network sharpens "
        "until its largest Hessian eigenvalue reaches 2/lr and stays there, and the margin, which needs no second derivative, says "
        "the same.",
    ]
    return report.Section("The edge of stability", text, figures=edge_figures(demo.edge))


def _after(demo: Demo) -> report.Section:
    found = demo.survey
    text = [
        "Three shorter runs of the same model: two start from the same weights and see the data in another order, one starts from "
        "other weights. Similarity compares which next tokens they get wrong; the barrier is the rise of the loss on the straight "
        f"line between two of them. A valley is shared where the barrier is under {found.max_barrier} nats and the similarity over "
        f"{found.min_similarity}.",
    ]
    header = ["run", "valley", "test loss", "flatness", "λ_max"]
    rows = [
        [name, str(valley), f"{loss:.3f}", f"{spectrum.value:.3g}", f"{spectrum.lambda_max:.3g}"]
        for name, valley, loss, spectrum in zip(found.names, found.valley, found.test_loss, found.spectra, strict=True)
    ]
    return report.Section(
        "After: which valley, how flat?", text, tables=[report.Table(header, rows)], figures=found.figures()
    )


def _why(demo: Demo) -> report.Section:
    text = [
        "Two valleys of equal depth, one flatter, that part as training proceeds; the noise of SGD follows the Hessian. With little "
        "noise a run stays where it starts. With more it keeps crossing until the barrier has grown, and by then it is mostly in the "
        "flat valley (transient-dynamics paper, Figs. 5 and 6).",
    ]
    return report.Section(
        "Why: noise chooses the flat valley",
        text,
        figures=[*demo.simulation.valleys.figures(), *demo.simulation.figures()],
    )
