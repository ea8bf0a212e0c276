"""`thalweg sweep`: your training command over a grid of settings; `thalweg sweep status` looks at one."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Annotated

from cyclopts import App, Parameter

from thalweg.cli.arguments import Json, Out, print_json, tell
from thalweg.outcomes import bad_input

if TYPE_CHECKING:
    import pandas as pd

app = App(name="sweep", help_format="plaintext")


@app.default
def sweep(
    *,
    command: str,
    grid: Annotated[list[str], Parameter(negative=())],
    out: Out = Path("runs/sweep"),
    workers: int = 1,
    json: Json = False,
) -> int:
    """Run a training command over a grid, one folder a run; run it again to resume.

    Args:
        command: with keys in braces, for example "python train.py --lr {peak_lr} --out {rundir}".
        grid: key=value,value,… one for each key; all combinations are run. Repeat the flag.
        out: folder of the sweep.
        workers: processes at once.
        json: print the table as JSON on stdout.
    """
    from thalweg import sweeps

    table = sweeps.sweep(sweeps.grid(**dict(map(_axis, grid))), command=command, out=out, workers=workers)
    return _show(table, out, json)


@app.command
def status(out: Path = Path("runs/sweep"), *, json: Json = False) -> int:
    """The runs of a sweep as they stand.

    Args:
        out: folder of the sweep.
        json: print the table as JSON on stdout.
    """
    from thalweg import sweeps

    return _show(sweeps.status(out), out, json)


def _axis(text: str) -> tuple[str, list[int | float | str]]:
    key, equals, values = text.partition("=")
    if not equals or not key or not values:
        raise bad_input("--grid", text, "key=value,value,…", "Write for example --grid peak_lr=1e-3,3e-3")
    return key, [_value(value) for value in values.split(",")]


def _value(text: str) -> int | float | str:
    for kind in (int, float):
        try:
            return kind(text)
        except ValueError:
            continue
    return text


def _show(table: pd.DataFrame, out: Path, json: bool) -> int:
    failed = int((table["status"] == "failed").sum())
    if json:
        print_json({"runs": table.astype(object).where(table.notna(), None).to_dict("records")})
    else:
        print(table.drop(columns="error").to_string(index=False))
        for _, row in table[table["status"] == "failed"].iterrows():
            tell(f"{row['run']} failed: {row['error']}")
    complete = int((table["status"] == "complete").sum())
    tell(f"{complete} of {len(table)} runs complete in {out}" + (f", {failed} failed" if failed else ""))
    return 1 if failed else 0
