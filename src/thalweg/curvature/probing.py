"""Watch a training run from hooks of its optimizer: which steps, which measures, where the rows go."""

from __future__ import annotations

import contextlib
import time
import warnings
from collections.abc import Callable, Iterable, Mapping
from types import TracebackType
from typing import Any, Self, TypeVar

from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.curvature.critical import critical_measure
from thalweg.curvature.hessian import hessian_measure, preconditioned_measure
from thalweg.curvature.history import History, JsonlLog, Row, finite
from thalweg.curvature.hooks import around_step, unwrap
from thalweg.curvature.preconditioner import check_preconditioner
from thalweg.curvature.replay import NO_SOURCE, LossSource, Watched
from thalweg.curvature.stability import why_no_edge
from thalweg.curvature.step import Step
from thalweg.outcomes import Outcome, ThalwegError, ThalwegWarning, bad_input

__all__ = ["MEASURES", "Probe", "probe"]

Measure = Callable[[Step], Mapping[str, float]]
Batch = TypeVar("Batch")

# name → measure: (step) → values by log key. A measure tells what hindered it by `step.report`.
MEASURES: dict[str, Measure] = {
    "critical": critical_measure,
    "hessian": hessian_measure,
    "preconditioned": preconditioned_measure,
}


class Probe:
    """Measures the steps of an optimizer and leaves training bit-identical; made by `probe`.

    A step costs nothing unless it is measured. A measured one keeps two copies of the parameters while it lasts.
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
    ) -> None:
        self._model = model
        self._optimizer: Optimizer = unwrap(optimizer)
        self._every = _schedule(measures, every)
        if "preconditioned" in self._every:
            check_preconditioner(self._optimizer)
        self._source = LossSource(model, loss_fn=loss_fn, closure=closure)
        self._log = log
        self._strict = strict
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

    def watch(self, loader: Iterable[Batch]) -> Watched[Batch]:
        """The same loader, to train on: on measured steps its batches since the last step are remembered.

        It can be iterated as often as the loader, and has its length.
        """
        return self._source.watch(loader)

    def attach(self) -> Self:
        """Begin to listen to the model and the optimizer."""
        self.close()
        self._attached.enter_context(self._source.listening())
        self._attached.enter_context(around_step(self._optimizer, self._before, self._after))
        return self

    def close(self) -> None:
        """Stop listening; the history stays."""
        self._attached.close()

    def __enter__(self) -> Self:
        return self.attach()

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def state_dict(self) -> dict[str, Any]:
        """What a resumed run needs: steps completed, rows, and the guess of the next search. Plain Python values."""
        memory = {name: value for name, value in self._memory.items() if isinstance(value, int | float)}
        return {"steps": self._steps, "rows": [dict(row) for row in self._rows], "memory": memory}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Continue from `state_dict`; rows measured since are dropped."""
        self._steps = state["steps"]
        self._rows = [dict(row) for row in state["rows"]]
        self._memory = dict(state["memory"])
        self._expect()

    def _due(self, step: int) -> list[str]:
        return [name for name, every in self._every.items() if step % every == 0]

    def _expect(self) -> None:
        """Get ready for the coming step."""
        self._source.forget()
        self._source.recording = bool(self._due(self._steps + 1))

    def _before(self) -> None:
        if self._source.recording:
            began = time.perf_counter()
            self._step = Step(self._model, self._source.loss, optimizer=self._optimizer)
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
            self._expect()

    def _measure(self, step: Step) -> None:
        began = time.perf_counter()
        step.finish()
        step.memory = self._memory
        step.check_determinism = not self._rows or self._rows[-1]["probe/outcome"] != Outcome.OK.name
        values: dict[str, float] = {}
        for name in self._due(self._steps):
            try:
                values.update(finite(MEASURES[name](step).items()))
            except Exception as error:
                if self._strict:
                    raise
                step.report(Outcome.FAILED)
                warnings.warn(
                    f"step {self._steps}, {name}: {type(error).__name__}: {error}", ThalwegWarning, stacklevel=2
                )
        values["probe/forward_passes"] = float(step.forward_passes)
        values["probe/seconds"] = self._seconds + time.perf_counter() - began
        row = {"step": self._steps, **values, "probe/outcome": step.outcome.name}
        self._rows.append(row)
        if isinstance(self._log, JsonlLog):
            self._log.row(row)
        elif self._log is not None:
            self._log(values, step=self._steps)
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
        measures: names among "critical", "hessian", "preconditioned"; or a mapping from name to its own `every`.
        loss_fn: (model, batch) → mean loss, a differentiable scalar.
        closure: zero-argument callable → loss of the batch that made the step; no backward, no zero_grad.
        log: called with (dict of floats, step=) after each measurement; `wandb.log`, `tensorboard_log(writer)`, `JsonlLog`.
        strict: raise where an outcome is not OK. Otherwise a failed measurement warns, and the run goes on.

    Raises:
        ThalwegError: an unknown measure, a measure that this optimizer does not have, no torch optimizer. The first step
            raises where no source of the loss has appeared by then.

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
        model, optimizer, every=every, measures=measures, loss_fn=loss_fn, closure=closure, log=log, strict=strict
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
