"""The probe in `lightning.Trainer`."""

from __future__ import annotations

import contextlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from torch import Tensor, nn

from thalweg.curvature.probes.actions import StopTraining
from thalweg.curvature.probes.history import History, Row
from thalweg.curvature.probes.probing import Probe
from thalweg.curvature.steps.untouched import RandomState
from thalweg.outcomes import ThalwegError, bad_input

try:
    from lightning.pytorch import Callback
except ImportError as missing:
    raise ThalwegError('lightning is not installed. Write pip install "thalweg[lightning]".') from missing

if TYPE_CHECKING:
    from lightning.pytorch import LightningModule, Trainer

__all__ = ["ProbeCallback"]


@dataclass(frozen=True, slots=True)
class _Given:
    """What `training_step` got, and the random state it began with."""

    batch: Any
    index: int
    random: RandomState


class ProbeCallback(Callback):  # type: ignore[misc]  # where lightning is absent its class is Any
    """Measure the steps of a Lightning Trainer; training is bit-identical without it.

    The loss of a step is its `training_step`, called again with `self.log` silent; where that has other effects (a metric
    object that counts), give `loss_fn=`. Each row goes to every logger of the Trainer at its own step, rows and the guess of
    the next search into every checkpoint. With `on_unstable="stop"` training ends after the unstable step as it ends by
    itself: `trainer.should_stop`, on every rank, though not before the Trainer's `min_steps`; `stopped` says why.

    Args:
        optimizer: which of the Trainer's optimizers, where there are several.
        options: those of `thalweg.probe`: every, measures, loss_fn, closure, log, strict, on_unstable. `log` is called
            beside the loggers.

    Attributes:
        stopped: what `on_unstable="stop"` ended training for, or None.

    Example::

        callback = ProbeCallback(every=100)
        Trainer(callbacks=[callback]).fit(module, loader)
        print(callback.history.summary())
    """

    def __init__(self, *, optimizer: int = 0, **options: Any) -> None:
        self.probe: Probe | None = None
        self.stopped: StopTraining | None = None
        self._index = optimizer
        self._options = options
        self._restored: dict[str, Any] | None = None
        self._logged: Row | None = None

    @property
    def history(self) -> History:
        """What was measured so far; empty before training."""
        return History(()) if self.probe is None else self.probe.history

    def on_train_start(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Attach the probe to the module and its optimizer; continue where a checkpoint says so."""
        options = dict(self._options)
        if "closure" not in options:
            given = options.get("loss_fn")
            if given is None and not pl_module.automatic_optimization:
                raise bad_input(
                    "loss_fn", None, "a loss, since this training_step runs backward itself", "Pass loss_fn="
                )
            options["loss_fn"] = _step_loss(trainer) if given is None else lambda model, item: given(model, item.batch)
        self._close()
        self.probe = Probe(pl_module, trainer.optimizers[self._index], **options)
        if trainer.global_step > 0:
            self.probe.load_state_dict(self._restored or {"steps": trainer.global_step, "rows": [], "memory": {}})
        self._restored = None
        self._logged = self.probe.newest
        self.stopped = None
        self.probe.on_stop(self._stop)
        self.probe.attach()

    def on_train_batch_start(self, trainer: Trainer, pl_module: LightningModule, batch: Any, batch_idx: int) -> None:
        """Remember what the step is made of."""
        assert self.probe is not None
        self.probe.remember(_Given(batch, batch_idx, RandomState.now()) if self.probe.measuring else None)

    def on_train_batch_end(self, trainer: Trainer, *_: Any) -> None:
        """Hand the row of the step just made to the loggers."""
        assert self.probe is not None
        row = self.probe.newest
        if row is not None and row is not self._logged:
            self._logged = row
            for logger in trainer.loggers:
                logger.log_metrics({k: v for k, v in row.items() if isinstance(v, float)}, step=row["step"])
        if self.stopped is not None:
            trainer.should_stop = True

    def on_train_end(self, trainer: Trainer, pl_module: LightningModule) -> None:
        """Stop listening; the history stays."""
        self._close()

    def on_exception(self, trainer: Trainer, pl_module: LightningModule, exception: BaseException) -> None:
        """Stop listening; the history stays."""
        self._close()

    def state_dict(self) -> dict[str, Any]:
        """The probe's state, for a checkpoint."""
        return {} if self.probe is None else self.probe.state_dict()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Keep a checkpoint's state until training starts."""
        self._restored = state_dict or None

    def _stop(self, stop: StopTraining) -> None:
        """The optimizer has stepped, the Trainer has not finished with the batch: it ends when it has."""
        self.stopped = stop

    def _close(self) -> None:
        if self.probe is not None:
            self.probe.close()


def _step_loss(trainer: Trainer) -> Any:
    """(module, remembered batch) → the loss of its training_step, in the precision of the Trainer."""

    def loss_fn(module: nn.Module, given: _Given) -> Tensor:
        given.random.restore()
        with _silent(module), trainer.precision_plugin.train_step_context():
            output = module.training_step(given.batch, given.index)  # type: ignore[operator]
        loss = output["loss"] if isinstance(output, Mapping) else output
        if not isinstance(loss, Tensor):
            raise bad_input("training_step", output, "a loss", "Pass loss_fn= to the callback")
        return loss

    return loss_fn


@contextlib.contextmanager
def _silent(module: nn.Module) -> Iterator[None]:
    """`self.log` and `self.log_dict` do nothing while the block lasts: Lightning has this step's values already."""
    own = {name: value for name, value in vars(module).items() if name in ("log", "log_dict")}
    vars(module).update(log=_nothing, log_dict=_nothing)
    try:
        yield
    finally:
        for name in ("log", "log_dict"):
            del vars(module)[name]
        vars(module).update(own)


def _nothing(*_: Any, **__: Any) -> None:
    return None
