"""One run's life: predict its loss, train it with the probe on, compare, survey the valleys, simulate the model of them.

before   a law is fitted on the bundled table of small runs; its prediction of a run it has not seen is written down
during   that run is trained (a small GPT on the Python library's source) and watched
edge     a small network is driven to the edge of stability, where both measures meet
after    runs that differ in start or data are surveyed: which valley, how flat
why      the two-valley model is simulated over the noise
"""

from __future__ import annotations

import dataclasses
import hashlib
import json
import resource
import sys
import time
from collections.abc import Callable, Iterable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from tqdm import tqdm

from thalweg import checkpoints, laws, runs, schedules, sde
from thalweg.curvature import History, probe
from thalweg.experiments.edge import train_to_the_edge
from thalweg.experiments.loop import Config, next_token_loss, one_thread, survey_data, train
from thalweg.experiments.small_runs import TABLE
from thalweg.landscape import Survey, survey
from thalweg.laws import OptLaw, Plan, Prediction
from thalweg.outcomes import bad_input
from thalweg.results import Result, write_atomically
from thalweg.rundir import RunDir, config_hash
from thalweg.schedules import Budget, Schedule
from thalweg.sde import Simulation, TwoValley
from thalweg.sweeps import sweep

__all__ = ["Demo", "Scale", "demo"]

Floats = NDArray[np.float64]
Tell = Callable[[str], None]

SEEDS = ((0, 0), (0, 1), (1, 0))  # (weights, order of the data) of the runs that are surveyed
WORKERS = 2


@dataclass(frozen=True, slots=True)
class Scale:
    """How large the demo is; `QUICK` is for tests and shows nothing worth believing.

    Attributes:
        schedule: of the run that is predicted.
        width: of its GPT.
        measures: measure → steps between two measurements.
        seed_schedule: of the runs that are surveyed.
        edge_steps: of the network at the edge of stability.
        sequences: of training text that barriers and flatness are measured on [count].
        top: eigenvalues in the flatness [count].
        noise: strengths in the two-valley model.
        valley_runs, valley_steps: runs a cell and their updates there [count].
    """

    schedule: str = "wsd(0.004, 1500, warmup=225, decay=0.2)"
    width: int = 64
    measures: tuple[tuple[str, int], ...] = (("critical", 50), ("preconditioned", 300))
    seed_schedule: str = "wsd(0.004, 600, warmup=90, decay=0.2)"
    edge_steps: int = 1000
    sequences: int = 32
    top: int = 10
    noise: tuple[float, ...] = tuple(float(f"{value:.3g}") for value in np.geomspace(0.01, 0.1, 10))
    valley_runs: int = 2000
    valley_steps: int = 20_000


FULL = Scale()
QUICK = Scale(
    schedule="wsd(0.004, 40, warmup=6, decay=0.2)",
    width=32,
    measures=(("critical", 10), ("preconditioned", 20)),
    seed_schedule="wsd(0.004, 20, warmup=4, decay=0.2)",
    edge_steps=40,
    sequences=4,
    top=2,
    noise=(0.02, 0.05),
    valley_runs=50,
    valley_steps=200,
)


@dataclass(frozen=True, slots=True, eq=False)
class Demo(Result):
    """What one run's life came to.

    Attributes:
        schedule, params, tokens, batch_tokens: of the run that was predicted.
        prediction: made before the run; `prediction_sha256` is of the file it was written to.
        plan: how the run's schedule ranks among others on the same budget.
        table_predicted, table_measured: losses of the bundled runs, each predicted by a law that had not seen its cell [nats].
        reached: test loss of the run [nats per token].
        steps, losses: of the run's training loss [count], [nats per token].
        history: of the probe.
        training_seconds: wall time of the run's training loop, the probe in it [s].
        edge: history at the edge of stability.
        survey: of runs that differ in start or data.
        simulation: of the two-valley model.
        same_text: whether the text is that of the bundled table; another Python has another library, and another loss.
        cpu_seconds: of all processes [s]; `peak_bytes`: of the largest [bytes].
    """

    schedule: Schedule
    params: int
    tokens: int
    batch_tokens: int
    prediction: Prediction
    prediction_sha256: str
    plan: Plan
    table_predicted: Floats
    table_measured: Floats
    reached: float
    steps: NDArray[np.int64]
    losses: Floats
    history: History
    training_seconds: float
    edge: History
    survey: Survey
    simulation: Simulation
    same_text: bool
    cpu_seconds: float
    peak_bytes: int

    @property
    def probe_shares(self) -> tuple[float, float]:
        """Time in the probe over the training time without it [1]: all of it, and what the margins alone would take."""
        seconds = self.history.column("probe/seconds")[1]
        margins_only = [row["probe/seconds"] for row in self.history.rows if "sharpness/preconditioned" not in row]
        training = self.training_seconds - float(seconds.sum())
        return float(seconds.sum()) / training, float(np.mean(margins_only)) * len(seconds) / training

    @property
    def sharpest(self) -> float:
        """The largest preconditioned sharpness in units of its edge of stability [1]; NaN where none was measured."""
        fraction = self.history.threshold_fraction
        return float(fraction.max()) if fraction.size else float("nan")

    @property
    def interval(self) -> tuple[float, float]:
        """Central 90 % interval of the prediction [nats]: the law was fitted, so it has one."""
        assert self.prediction.interval is not None
        return self.prediction.interval

    @property
    def inside(self) -> bool:
        """Whether the reached loss lies in the predicted interval."""
        return self.interval[0] <= self.reached <= self.interval[1]

    def summary(self) -> str:
        """Ten lines."""
        low, high = self.interval
        margin, at = self.history.lowest_margin or (float("nan"), 0)
        half = len(self.edge.rows) // 2
        edge_margin, edge_sharpness = (
            np.median(self.edge.column(key)[1][half:]) for key in ("stability/margin", "sharpness/hessian")
        )
        edge_threshold = np.median(self.edge.column("sharpness/threshold_critical")[1])
        found, sim = self.survey, self.simulation
        pairs = np.triu_indices(len(found.names), 1)
        return "\n".join(
            [
                f"run        GPT of {self.params} parameters, {self.tokens} tokens, {self.schedule}",
                f"predicted  {self.prediction.loss:.3f} nats [{low:.3f}, {high:.3f}], sha256 {self.prediction_sha256[:12]}, before training",
                f"reached    {self.reached:.3f} nats, {'inside' if self.inside else 'OUTSIDE'} the interval; error {self.prediction.loss / self.reached - 1:+.2%}"
                + ("" if self.same_text else " (this Python's text is not the table's)"),
                f"margin     lowest {margin:.3g} at step {at}, plateau {self.history.plateau or float('nan'):.3g}; a step is unstable below 1",
                f"curvature  preconditioned sharpness at most {self.sharpest:.2g} of its edge of stability",
                f"probe      {len(self.history.rows)} margins and {self.history.threshold_fraction.size} eigenvalues took "
                f"{self.probe_shares[0]:.1%} of training, the margins alone {self.probe_shares[1]:.1%}",
                f"edge       full-batch GD on digits: λ_max·η/2 = {edge_sharpness / edge_threshold:.3f}, margin {edge_margin:.3f} (medians of the second half)",
                f"valleys    {len(found.names)} runs in {found.valley.max() + 1}; barriers {', '.join(f'{b:.2f}' for b in found.barrier[pairs])} nats; "
                f"flatness {', '.join(f'{f:.2g}' for f in found.flatness)}",
                f"model      share in the flat valley from {sim.p_flat.min():.2f} to {sim.p_flat.max():.2f} over noise {sim.noise.min():g} to {sim.noise.max():g}",
                f"cost       {self.cpu_seconds:.0f} CPU-seconds, {self.peak_bytes / 1e9:.2f} GB in the largest process",
            ]
        )


def demo(
    out: Path, *, scale: Scale = FULL, resume: bool = False, tell: Tell | None = None, progress: bool = True
) -> Demo:
    """Live one run's life in a folder: every part is saved there, the run and the seeds resume where they stopped.

    Args:
        out: the folder; new or empty, unless `resume`.
        scale: how large.
        resume: continue a demo that was interrupted.
        tell: called with a line of prose as each part begins.
        progress: show bars on stderr.

    Raises:
        ThalwegError: the folder holds something and resume is False.
        KeyboardInterrupt: on Ctrl-C, when the step under way is done and its state is written.
    """
    if out.exists() and any(out.iterdir()) and not resume:
        raise bad_input(
            "--out",
            str(out),
            "a new or empty folder",
            "Write --resume to continue what is there, or choose another folder",
        )
    say: Tell = tell or (lambda _: None)
    clock = time.process_time() + _children_seconds()
    with one_thread():
        say("Before: fitting a law on the bundled table of small runs, predicting a run it has not seen")
        config = {"schedule": scale.schedule, "seed": 0, "width": scale.width, "heads": scale.width // 16}
        table = runs.read_runs(TABLE)
        law = OptLaw.fit(table)
        schedule = schedules.parse(scale.schedule)
        model = Config.of(config).model()
        batch_tokens = Config.of(config).batch_tokens
        budget = Budget.of(model, tokens=schedule.steps * batch_tokens, batch_tokens=batch_tokens)
        prediction, digest = _write_down(out / "prediction.json", law, schedule, budget)
        found = laws.plan(law, budget, [*laws.default_candidates(budget, law=law), schedule])
        say(f"  predicted {prediction.summary().splitlines()[0]}")
        say("During: training that run with the probe on")
        reached, history, seconds = _train(out / "run", config, scale, progress)
        say("  at the edge of stability: a small network, full-batch gradient descent")
        edge = train_to_the_edge(steps=scale.edge_steps)
        say(f"After: {len(SEEDS)} shorter runs that differ in their start or in the order of their data")
        surveyed = _survey(out / "seeds", scale, progress)
        say("Why: the two-valley model over the strength of the noise")
        simulation = sde.simulate(
            TwoValley(), lr=0.05, noise=scale.noise, runs=scale.valley_runs, steps=scale.valley_steps
        )
    residuals = law.evidence.residuals
    assert residuals is not None
    measured = table.subset(~table.diverged).loss
    rows = RunDir.open(out / "run").metrics()
    training = [row for row in rows if "gradient_norm" in row]
    result = Demo(
        schedule=schedule,
        params=int(budget.params),
        tokens=int(budget.tokens),
        batch_tokens=batch_tokens,
        prediction=prediction,
        prediction_sha256=digest,
        plan=found,
        table_predicted=measured / np.exp(residuals),
        table_measured=measured,
        reached=reached["loss"],
        steps=np.array([row["step"] for row in training]),
        losses=np.array([row["loss"] for row in training]),
        history=history,
        training_seconds=seconds,
        edge=edge,
        survey=surveyed,
        simulation=simulation,
        same_text=reached["fingerprint"] in json.loads(TABLE.with_suffix(".json").read_text())["text_fingerprint"],
        cpu_seconds=time.process_time() + _children_seconds() - clock,
        peak_bytes=max(resource.getrusage(who).ru_maxrss for who in (resource.RUSAGE_SELF, resource.RUSAGE_CHILDREN))
        * (1 if sys.platform == "darwin" else 1024),
    )
    result.save(out / "demo.json")
    return result


def _write_down(path: Path, law: OptLaw, schedule: Schedule, budget: Budget) -> tuple[Prediction, str]:
    """Predict, and write the prediction to a file before anything is trained; a resumed demo keeps what it wrote."""
    if not path.is_file():
        prediction = law.predict(schedule, budget)
        facts = {
            "law": "OptLaw, fitted on the bundled table",
            "table_sha256": hashlib.sha256(TABLE.read_bytes()).hexdigest(),
            "schedule": str(schedule),
            "budget": dataclasses.asdict(budget),
            **dataclasses.asdict(prediction),
        }
        write_atomically(path, json.dumps(facts, indent=1) + "\n")
    text = path.read_bytes()
    facts = json.loads(text)
    interval = tuple(facts["interval"])
    prediction = Prediction(facts["loss"], interval, facts["diverges"], tuple(facts["extrapolates"]))
    return prediction, hashlib.sha256(text).hexdigest()


def _train(path: Path, config: dict[str, Any], scale: Scale, progress: bool) -> tuple[dict[str, Any], History, float]:
    """Train the run with the probe on: its result, what the probe saw, and the wall time of the loop."""
    run = RunDir.create(path, config)
    kept: dict[str, Any] = {"clock": _Clock()}
    bar = tqdm(total=schedules.parse(config["schedule"]).steps, unit="step", disable=not progress)

    @contextmanager
    def watch(
        model: torch.nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[Any]
    ) -> Iterator[Iterable[Any]]:
        with probe(model, optimizer, measures=dict(scale.measures), loss_fn=next_token_loss, log=run.log) as watching:
            kept["probe"] = watching
            with kept["clock"]:
                yield watching.watch(batches)

    def show(row: dict[str, Any], *, step: int) -> None:
        bar.update(step - bar.n)
        rows = kept["probe"].history.rows if step % 25 == 0 else ()
        if rows:
            bar.set_postfix(
                loss=f"{row['loss']:.3f}",
                lr=f"{row['lr']:.1e}",
                margin=f"{rows[-1].get('stability/margin', float('nan')):.3g}",
            )

    with bar:
        result = train(config, run, watch=watch, companions=kept, log=show)
    if "probe" in kept:
        history = kept["probe"].history
        history.save(path / "history.json")
        write_atomically(path / "seconds.json", json.dumps(kept["clock"].seconds))
    return result, History.load(path / "history.json"), float(json.loads((path / "seconds.json").read_text()))


class _Clock:
    """Wall time inside its `with` blocks [s], over interruptions."""

    def __init__(self) -> None:
        self.seconds = 0.0
        self._began: float | None = None

    def __enter__(self) -> None:
        self._began = time.perf_counter()

    def __exit__(self, *_: object) -> None:
        self.seconds, self._began = self._now(), None

    def _now(self) -> float:
        return self.seconds + (0.0 if self._began is None else time.perf_counter() - self._began)

    def state_dict(self) -> dict[str, Any]:
        return {"seconds": self._now()}

    def load_state_dict(self, state: dict[str, Any]) -> None:
        self.seconds = state["seconds"]


def _survey(path: Path, scale: Scale, progress: bool) -> Survey:
    """Train runs that differ in their start or in the order of their data, two at a time, and compare where they ended."""
    shared = {"schedule": scale.seed_schedule, "width": scale.width, "heads": scale.width // 16}
    configs = [{**shared, "seed": seed, "order": order} for seed, order in SEEDS]
    sweep(configs, out=path, train=train, workers=WORKERS, progress=progress)
    steps = schedules.parse(scale.seed_schedule).steps
    ends = [checkpoints.read(RunDir.open(path / config_hash(config)).checkpoint(steps)) for config in configs]
    one = Config.of(configs[0])
    seen, unseen = survey_data(one, sequences=scale.sequences)
    found = survey(one.model, ends, train=seen, test=unseen, loss_fn=next_token_loss, top=scale.top)
    return dataclasses.replace(found, names=tuple(f"start {seed}, data {order}" for seed, order in SEEDS))


def _children_seconds() -> float:
    usage = resource.getrusage(resource.RUSAGE_CHILDREN)
    return usage.ru_utime + usage.ru_stime
