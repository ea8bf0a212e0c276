"""`thalweg plan`: rank schedules by the loss a law predicts."""

from __future__ import annotations

from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import Parameter

from thalweg import laws
from thalweg.cli.arguments import Count, Json, print_json, tell
from thalweg.outcomes import bad_input
from thalweg.schedules import Budget, Schedule, parse

if TYPE_CHECKING:
    from thalweg.laws import Law, Plan

ANSWER_IS_NO = 3
SMALLEST_MODEL = 1000  # parameters; a smaller number was meant in millions or billions


def plan(
    *candidates: str,
    params: Count,
    tokens: Count,
    batch_tokens: Count,
    law: str | None = None,
    runs: Path | None = None,
    assume: Annotated[list[str], Parameter(negative=())] = [],  # noqa: B006  # cyclopts reads the default, nobody writes to it
    after: str | None = None,
    after_tokens: Count | None = None,
    top: int = 10,
    plot: Path | None = None,
    save: Path | None = None,
    strict: Annotated[bool, Parameter(negative=())] = False,
    json: Json = False,
) -> int:
    """Rank schedules by predicted final loss; without candidates a default grid is ranked.

    Args:
        candidates: schedules, for example "cosine(1e-3, 23842, warmup=2000)".
        params: total parameters of the model, for example 4.05e9 or 4.05B.
        tokens: training tokens.
        batch_tokens: tokens in one optimizer step.
        law: name of a law to fit on --runs, or a law saved as .json. Without it: Opt-Law, fitted on --runs, or as published.
        runs: table of your finished runs (CSV or Parquet).
        assume: column=value for a column the table lacks, for example --assume final_lr=0. Repeat the flag.
        after: schedule of the training that came before (continual training); the answer is then an order, no losses.
        after_tokens: tokens of the training that came before.
        top: how many schedules to keep.
        plot: file to draw the ranking to (png, svg, pdf).
        save: file to save the plan to (.json).
        strict: exit with 3 where even the best schedule is likely to diverge.
        json: print the plan as JSON on stdout.
    """
    if params < SMALLEST_MODEL:
        raise bad_input("--params", params, "a raw count", f"Write for example {params:g}B for billions")
    chosen = _law(law, runs, assume)
    budget = Budget(params=params, tokens=tokens, batch_tokens=batch_tokens)
    found = laws.plan(
        chosen,
        budget,
        candidates or laws.default_candidates(budget, law=chosen if runs is not None else None),
        after=_after(after, after_tokens, budget),
        top=top,
    )
    if plot is not None:
        found.plot(plot)
        tell(f"wrote {plot}")
    if save is not None:
        tell(f"wrote {found.save(save)}")
    if json:
        print_json(_rows(found))
    else:
        print(found.summary())
        if not candidates:
            tell(
                "Candidates: the default grid (cosine, linear, wsd; peaks and warmups across the law's range). Name your own as arguments."
            )
    diverges = found.divergence is not None and bool(found.divergence[0] > 1)
    return ANSWER_IS_NO if strict and diverges else 0


def _law(name: str | None, runs: Path | None, assume: list[str]) -> Law:
    if name is not None and name.endswith(".json"):
        return laws.load(name)
    if runs is None:
        if name not in (None, "OptLaw"):
            laws.find(name)  # an unknown name is the first thing to say
            raise bad_input("--law", name, "a table to fit it on", f"Write --law {name} --runs runs.csv")
        return laws.OptLaw.published()
    from thalweg import runs as tables

    values = dict(map(_assumed, assume))
    return laws.find(name or "OptLaw").fit(tables.read(runs, assume=values or None))


def _assumed(text: str) -> tuple[str, float | str]:
    column, equals, value = text.partition("=")
    if not equals:
        raise bad_input("--assume", text, "column=value", "Write for example --assume final_lr=0")
    try:
        return column, float(value)
    except ValueError:
        return column, value


def _after(text: str | None, tokens: float | None, budget: Budget) -> tuple[Schedule, Budget] | None:

    if text is None:
        return None
    before = parse(text)
    if tokens is None:
        tokens = before.steps * budget.batch_tokens
    return before, Budget(params=budget.params, tokens=tokens, batch_tokens=tokens / before.steps)


def _rows(found: Plan) -> dict[str, object]:
    rows = [
        {
            "schedule": str(schedule),
            "gap": float(found.gaps[row]),
            **(asdict(found.predictions[row]) if found.predictions else {}),
        }
        for row, schedule in enumerate(found.schedules)
    ]
    return {
        "law": found.law,
        "untested_outside": found.setup or None,
        "candidates": found.candidates,
        "schedules": rows,
        "diverging": None if found.diverging is None else [str(schedule) for schedule in found.diverging],
    }
