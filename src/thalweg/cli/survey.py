"""`thalweg survey`: compare the end points of independent runs."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.cli.arguments import Json, Out, load_object, print_json, tell
from thalweg.outcomes import bad_input

if TYPE_CHECKING:
    from thalweg.landscape import Survey


def survey(
    *checkpoints: Path,
    model: str | None = None,
    data: str | None = None,
    top: int = 10,
    parameters: str | None = None,
    out: Out = Path("runs/survey"),
    json: Json = False,
) -> None:
    """Which valley did each checkpoint end in, how flat is it there, how similar are they?

    Args:
        checkpoints: weight files (.safetensors, .pt) or folders, two or more; or folders of runs that thalweg trained.
        model: package.module:name of a callable that makes the network. Not needed for runs that thalweg trained.
        data: package.module:name of a callable that returns (train, test): batches (x, y), or lists or loaders of them.
        top: Hessian eigenvalues in the flatness.
        parameters: name of a layer to take the flatness of; all by default.
        out: folder for survey.json, its tables and report.html.
        json: print the table as JSON on stdout.
    """
    from thalweg import landscape, report

    runs = [path for path in checkpoints if (path / "run.json").is_file()]
    if runs and len(runs) == len(checkpoints) and model is None:
        found = _survey_runs(runs, top, parameters)
    elif model is None or data is None:
        missing = "--model" if model is None else "--data"
        raise bad_input(missing, None, "package.module:name", f"Write for example {missing} my_training:{missing[2:]}")
    else:
        train, test = load_object(data, "--data")()
        found = landscape.survey(
            load_object(model, "--model"), list(checkpoints), train=train, test=test, top=top, parameters=parameters
        )
    found.save(out / "survey.json")
    found.to_frame().to_csv(out / "checkpoints.csv", index=False)
    found.pairs_frame().to_csv(out / "pairs.csv", index=False)
    report.write(
        out / "report.html", "Survey", [report.Section("Survey", figures=found.figures(), verbatim=found.summary())]
    )
    if json:
        print_json(
            {"checkpoints": found.to_frame().to_dict("records"), "pairs": found.pairs_frame().to_dict("records")}
        )
    else:
        print(found.summary())
    tell(f"wrote {out}/survey.json, checkpoints.csv, pairs.csv, report.html")


def _survey_runs(folders: list[Path], top: int, parameters: str | None) -> Survey:
    """Runs that `thalweg.experiments` trained know their model and their text."""
    from thalweg import checkpoints, landscape
    from thalweg.experiments.loop import Config, next_token_loss, survey_data
    from thalweg.rundir import RunDir

    runs = [RunDir.open(folder) for folder in folders]
    shapes: list[dict[str, Any]] = []
    for run in runs:
        if not run.checkpoints():
            raise bad_input("checkpoints", str(run.path), "a run with a checkpoint", "Train it to its end first")
        fields = dataclasses.asdict(Config.of(run.config))
        shapes.append({key: fields[key] for key in ("domain", "width", "layers", "heads", "length")})
    for run, shape in zip(runs, shapes, strict=True):
        if shape != shapes[0]:
            raise bad_input(
                "checkpoints", f"{run.path}: {shape}", f"runs of one model, {shapes[0]} as in {runs[0].path}"
            )
    config = Config.of(runs[0].config)
    ends = [checkpoints.read(list(run.checkpoints().values())[-1]) for run in runs]
    train, test = survey_data(config)
    found = landscape.survey(
        config.model, ends, train=train, test=test, loss_fn=next_token_loss, top=top, parameters=parameters
    )
    return dataclasses.replace(found, names=tuple(run.path.name for run in runs))
