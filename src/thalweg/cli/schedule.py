"""`thalweg schedule show`: what a schedule's text means, in numbers and as a picture."""

from __future__ import annotations

from pathlib import Path

from cyclopts import App

from thalweg import schedules
from thalweg.cli.arguments import Json, print_json, tell
from thalweg.units import format_lr

app = App(name="schedule", help="Learning-rate schedules as text.", help_format="plaintext")


@app.command
def show(text: str, *, plot: Path | None = None, json: Json = False) -> None:
    """Show a schedule: steps, phases, integrals.

    Args:
        text: for example "wsd(0.003, 24000, warmup=2000, decay=0.2)".
        plot: file to draw it to (png, svg or pdf).
        json: print the answer as JSON on stdout.
    """
    schedule = schedules.parse(text)
    steps, phases = schedule.steps, schedule.phases
    if plot is not None:
        from thalweg import plots

        plots.draw([schedule.figure()], path=plot)
        tell(f"wrote {plot}")
    if json:
        facts = {
            "schedule": str(schedule),
            "steps": steps,
            "peak_lr": schedule.peak_lr,
            "final_peak_lr": schedule.final_peak_lr,
        }
        integrals = {"integral": schedule.integral(0, steps), "square_integral": schedule.square_integral(0, steps)}
        print_json(
            {
                **facts,
                "phases": phases._asdict(),
                **integrals,
                "roughness_diverges_at": list(schedule.roughness_diverges_at),
            }
        )
        return
    print(f"{schedule!r}")
    print(
        f"steps {steps}, peak lr {format_lr(schedule.peak_lr)}, lr at the last update {format_lr(schedule(steps - 1))}"
    )
    print(f"warmup ends {phases.warmup_end}, decay ends {phases.decay_end}, cooldown starts {phases.cooldown_start}")
    print(
        f"integral of lr {schedule.integral(0, steps):.6g} steps, of its square {schedule.square_integral(0, steps):.6g} steps"
    )
    jumps = schedule.roughness_diverges_at
    rough = (
        f"diverges at step {', '.join(map(str, jumps))} (ramp= makes it finite)"
        if jumps
        else f"{schedule.roughness(0, steps):.6g} per step"
    )
    print(f"integral of the squared slope {rough}")
