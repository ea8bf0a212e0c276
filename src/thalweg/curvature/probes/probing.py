"""Watch a training run from hooks of its optimizer: which steps, which measures, where the rows go."""

from __future__ import annotations

import contextlib
import functools
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.curvature.measures.critical import critical_measure
from thalweg.curvature.measures.directional import directional_measure
from thalweg.curvature.measures.hessian import hessian_measure, preconditioned_measure
from thalweg.curvature.measures.norms import norms_measure
from thalweg.curvature.measures.preconditioner import check_preconditioner
from thalweg.curvature.measures.stability import why_no_edge
from thalweg.curvature.probes.actions import Guard, OnUnstable, StopTraining
from thalweg.curvature.probes.alarms import Alarm
from thalweg.curvature.probes.history import History, JsonlLog, Row, finite
from thalweg.curvature.searching.search_memory import SearchMemory
from thalweg.curvature.steps.distributed import is_first, refuse_sharded, unwrap_model
from thalweg.curvature.steps.hooks import around_step, unwrap
from thalweg.curvature.steps.replay import NO_SOURCE, LossSource, Watched
from thalweg.curvature.steps.step import Step
from thalweg.curvature.steps.weights import Mode, check_mode
from thalweg.outcomes import Outcome, ThalwegError, ThalwegWarning, bad_input

__all__ = ["MEASURES", "Probe", "probe"]

Measure = Callable[[Step], Mapping[str, float]]
Batch = TypeVar("Batch")

# name → measure: (step) → values by log key. A measure tells what hindered it by `step.report`.
MEASURES: dict[str, Measure] = {
    "critical": critical_measure,
    "hessian": hessian_measure,
    "preconditioned": preconditioned_measure,
    "directional": directional_measure,
    "norms": norms_measure,
}


class Probe:
    """Measures the steps of an optimizer and leaves training bit-identical; made by `probe`.

    A step costs nothing unless it is measured. A measured one keeps copies of the parameters while it lasts: two, or what
    `mode` and `offload` make of them.
    """

    def __init__(
        self,
        model: nn.Module,
        optimizer: Any,
        *,
        every: int = 100,
        measures: Iterable[str] | Mapping[str, int] = ("critical",),
        loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
        closure: Callable[[], Any] | None = None,
        log: Callable[..., object] | None = None,
        strict: bool = False,
        on_unstable: OnUnstable = "record",
        mode: Mode = "in_place",
        offload: bool = False,
        scan: bool = False,
    ) -> None:
        self._model = unwrap_model(model)
        self._optimizer: Optimizer = unwrap(optimizer)
        self._every = _schedule(measures, every)
        if "hessian" in self._every or "preconditioned" in self._every:
            refuse_sharded("measures", self._model.parameters())
        if "preconditioned" in self._every:
            check_preconditioner(self._optimizer)
        check_mode(mode, self._model)
        self._keeping: dict[str, Any] = {"mode": mode, "offload": offload}
        if scan and "critical" not in self._every:
            raise bad_input("scan", scan, "a probe that measures margins", 'Write measures=("critical",)')
        self._scan = scan
        self._source = LossSource(self._model, loss_fn=loss_fn, closure=closure)
        self._log = log if is_first() else None
        self._strict = strict
        self._guard = Guard(self._optimizer, on_unstable, measures=self._every)
        self._steps = 0
        self._rows: list[Row] = []
        self._memory: dict[str, Any] = {}
        self._step: Step | None = None
        self._seconds = 0.0
        self._attached = contextlib.ExitStack()
        self._expect()

    @property
    def history(self) -> History:
        """What was measured so far."""
        return History(tuple(self._rows), note=why_no_edge(self._optimizer))

    @property
    def measuring(self) -> bool:
        """Whether the coming step will be measured."""
        return bool(self._due(self._steps + 1))

    @property
    def newest(self) -> Row | None:
        """The row of the last measured step; None before the first."""
        return self._rows[-1] if self._rows else None

    def watch(self, loader: Iterable[Batch]) -> Watched[Batch]:
        """The same loader, to train on: on measured steps its batches since the last step are remembered.

        It can be iterated as often as the loader, and has its length.
        """
        return self._source.watch(loader)

    def remember(self, batch: Any) -> None:
        """A batch was taken for the coming step: what `watch` does with each, for hosts that own the loader."""
        self._source.remember(batch)

    def on_margin(
        self, below: float, callback: Callable[[Row], object], *, recovered: float | None = None
    ) -> Callable[[Row], object]:
        """Call back once when the margin goes under a level, again only after it has recovered.

        The callback gets the row that did it, after that row is logged, on every rank; what it raises goes through. Margins
        that the history already shows count: a resumed run does not call again for the same dip.

        Args:
            below: the level [1]; under 1 a step raised its own loss.
            callback: called with the row.
            recovered: the margin from which on a new dip counts [1]; 2 × `below` by default.

        Returns:
            The callback.

        Raises:
            ThalwegError: a level that is not positive, `recovered` not above it, a probe that measures no margins.

        Example:
            Gradient descent on 3x²/2 at lr 1: the critical learning rate is 2/3, and so is the margin.

            >>> import torch
            >>> x = nn.Parameter(torch.ones(1, dtype=torch.float64))
            >>> optimizer = torch.optim.SGD([x], lr=1.0)
            >>> closure = lambda: 1.5 * (x**2).sum()
            >>> p = probe(nn.ParameterList([x]), optimizer, every=1, closure=closure)
            >>> _ = p.on_margin(1, lambda row: print("step", row["step"], row["stability/margin"] < 1))
            >>> with p:
            ...     for _ in range(3):
            ...         optimizer.zero_grad()
            ...         closure().backward()
            ...         optimizer.step()
            step 1 True
        """
        self._guard.add(Alarm(below, recovered), callback, self._rows)
        return callback

    def on_stop(self, callback: Callable[[StopTraining], object]) -> None:
        """Where `on_unstable` is "stop", call back instead of raising `StopTraining`: for hosts that end a run by a flag.

        Called after the row is logged, on every rank, when the step is complete.
        """
        self._guard.stop = callback

    def attach(self) -> Self:
        """Begin to listen to the model and the optimizer."""
        self.close()
        self._attached.enter_context(self._source.listening())
        self._attached.enter_context(around_step(self._optimizer, self._before, self._after))
        return self

    def close(self) -> None:
        """Stop listening; the history stays."""
        self._attached.close()
        self._guard.after_step()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: steps completed, rows, and what the next searches expect. Plain Python values."""
        memory: dict[str, Any] = {}
        for name, value in self._memory.items():
            if isinstance(value, SearchMemory):
                memory[name] = value.state_dict()
            elif isinstance(value, int | float):
                memory[name] = value
        return {
            "steps": self._steps,
            "rows": [dict(row) for row in self._rows],
            "memory": memory,
            "lr_cap": self._guard.ceiling,
        }

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; rows measured since are dropped, from a `JsonlLog` too."""
        self._steps = state["steps"]
        self._rows = [dict(row) for row in state["rows"]]
        self._memory = {
            name: SearchMemory.from_state(value) if isinstance(value, Mapping) else value
            for name, value in state["memory"].items()
        }
        self._guard.load(self._rows, state.get("lr_cap"))
        if isinstance(self._log, JsonlLog):
            self._log.drop_after(self._steps)
        self._expect()

    def _due(self, step: int) -> list[str]:
        watching = self._guard.watching
        return [n for n, every in self._every.items() if step % every == 0 or (watching and n == "critical")]

    def _expect(self) -> None:
        """Get ready for the coming step."""
        self._source.forget()
        self._source.recording = self.measuring

    def _before(self) -> None:
        self._guard.before_step()  # first: the step is measured at the learning rate that it runs at
        if self._source.recording:
            began = time.perf_counter()
            self._step = Step(self._model, self._source.loss, optimizer=self._optimizer, **self._keeping)
            self._step.begin()
            self._seconds = time.perf_counter() - began

    def _after(self) -> None:
        self._steps += 1
        step, self._step = self._step, None
        try:
            if not self._source.seen:
                raise ThalwegError(NO_SOURCE)
            if step is not None:
                self._measure(step)
        finally:
            self._guard.after_step()
            self._expect()

    def _called(self, name: str) -> Measure:
        """A measure with the options of this probe."""
        return functools.partial(critical_measure, scan=True) if name == "critical" and self._scan else MEASURES[name]

    def _measure(self, step: Step) -> None:
        began = time.perf_counter()
        self._source.recording = False  # forwards of a measure belong to no step
        step.finish()
        step.memory = self._memory
        step.check_determinism = not self._rows or self._rows[-1]["probe/outcome"] != Outcome.OK.name
        values: dict[str, float] = {}
        for name in self._due(self._steps):
            try:
                values.update(finite(self._called(name)(step).items()))
            except Exception as error:
                if self._strict:
                    raise
                step.report(Outcome.FAILED)
                warnings.warn(
                    f"step {self._steps}, {name}: {type(error).__name__}: {error}", ThalwegWarning, stacklevel=2
                )
        values["probe/forward_passes"] = float(step.forward_passes)
        values["probe/seconds"] = self._seconds + time.perf_counter() - began
        row: Row = {"step": self._steps, **values, "probe/outcome": step.outcome.name}
        action = self._guard.decide(row, step.lr)
        if "lr/cap" in row:
            values["lr/cap"] = float(row["lr/cap"])
        self._rows.append(row)
        if isinstance(self._log, JsonlLog):
            self._log.row(row)
        elif self._log is not None:
            self._log(values, step=self._steps)
        self._guard.act(row, action)
        if self._strict and step.outcome is not Outcome.OK:
            raise ThalwegError(f"step {self._steps}, {step.outcome.name}: {step.outcome.value}")


def probe(
    model: nn.Module,
    optimizer: Any,
    *,
    every: int = 100,
    measures: Iterable[str] | Mapping[str, int] = ("critical",),
    loss_fn: Callable[[nn.Module, Any], Tensor] | None = None,
    closure: Callable[[], Any] | None = None,
    log: Callable[..., object] | None = None,
    strict: bool = False,
    on_unstable: OnUnstable = "record",
    mode: Mode = "in_place",
    offload: bool = False,
    scan: bool = False,
) -> Probe:
    """Measure how close training steps are to instability, while they are made; training is bit-identical without it.

    The loss of the batch that made a step comes from `closure`; or from the batches of `probe.watch(loader)` by `loss_fn`
    (default: `default_loss`); or from the training forwards since the last step whose output has `.loss`, played again.
    Micro-batches count equally. Rows of `.history` hold `step` (optimizer steps completed, this one included), the values
    of the measures, the cost and an outcome.

    Args:
        model: the module in training.
        optimizer: any torch optimizer, or a wrapper that keeps it as `.optimizer`.
        every: a step is measured when the number of steps completed is a multiple of it [count].
        measures: names among "critical", "hessian", "preconditioned", "directional", "norms"; or a mapping from name to its own `every`.
        loss_fn: (model, batch) → mean loss, a differentiable scalar.
        closure: zero-argument callable → loss of the batch that made the step; no backward, no zero_grad.
        log: called with (dict of floats, step=) after each measurement; `wandb.log`, `tensorboard_log(writer)`, `JsonlLog`.
        strict: raise where an outcome is not OK. Otherwise a failed measurement warns, and the run goes on.
        on_unstable: what to do when margins stay under 0.9: the logs of 0.9/margin, 0.6 at most for each, add up to 0.75, and
            every better margin takes up to 0.2 away; to twice that where a learning rate comes back that the run has been
            at (a cycle, a planned rewarming); or when the run is no longer finite. "record": nothing. "alert": a
            ThalwegWarning, again only after margins of 2. "cap_lr": hold the learning rate of the next steps under half the
            critical one, rising by a twentieth a step at most, until that is no less than the schedule's own; the schedule
            itself is not disturbed. "stop": raise `StopTraining` after the step; hosts end training in their own way. What
            is done stands in its row as `probe/action`, with both learning rates. Except with "record", every step is
            measured while margins are under 2 or a cap is in force, whatever `every` says.
        mode: how a measured step sees weights that are not there: "in_place" takes twice the parameters in memory while it
            lasts, "per_module" once and the weights of one layer, for the same numbers and some time; see `capture`.
        offload: keep these copies on the CPU.
        scan: look for a smaller margin below each that is found, at about ten evaluations more; see `critical_sharpness`.

    Raises:
        ThalwegError: an unknown measure, action or mode, a mode that does not suit the model, a measure that this optimizer
            does not have, no torch optimizer. The first step raises where no source of the loss has appeared by then.

    Source: critical-sharpness paper, section 2.

    Example:
        Gradient descent on 3x²/2 with lr 0.1: λ_c = λ_max = 3, and the margin is (2/0.1)/3.

        >>> import torch
        >>> x = nn.Parameter(torch.ones(1, dtype=torch.float64))
        >>> optimizer = torch.optim.SGD([x], lr=0.1)
        >>> closure = lambda: 1.5 * (x**2).sum()
        >>> with probe(
        ...     nn.ParameterList([x]), optimizer, every=2, measures=("critical", "hessian"), closure=closure
        ... ) as p:
        ...     for _ in range(4):
        ...         optimizer.zero_grad()
        ...         closure().backward()
        ...         optimizer.step()
        >>> [(row["step"], round(row["sharpness/hessian"], 6), row["probe/outcome"]) for row in p.history.rows]
        [(2, 3.0, 'OK'), (4, 3.0, 'OK')]
    """
    return Probe(
        model,
        optimizer,
        every=every,
        measures=measures,
        loss_fn=loss_fn,
        closure=closure,
        log=log,
        strict=strict,
        on_unstable=on_unstable,
        mode=mode,
        offload=offload,
        scan=scan,
    )


def _schedule(measures: Iterable[str] | Mapping[str, int], every: int) -> dict[str, int]:
    """Measure → how often [steps]."""
    if isinstance(measures, str):
        raise bad_input("measures", measures, "a tuple of names", f"Write measures=({measures!r},)")
    schedule = dict(measures) if isinstance(measures, Mapping) else dict.fromkeys(measures, every)
    unknown = [name for name in schedule if name not in MEASURES]
    if unknown or not schedule:
        raise bad_input("measures", unknown[0] if unknown else measures, "names among " + ", ".join(MEASURES))
    for name, steps in schedule.items():
        if not isinstance(steps, int) or steps < 1:
            raise bad_input("every", steps, f"a number of steps, at least 1, for {name!r}", "Write every=100")
    return schedule
