"""The probe in `transformers.Trainer`."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from thalweg.curvature.probes.actions import StopTraining
from thalweg.curvature.probes.history import History, Row
from thalweg.curvature.probes.probing import Probe
from thalweg.outcomes import ThalwegError

try:
    from transformers import TrainerCallback
except ImportError as missing:
    raise ThalwegError('transformers is not installed. Write pip install "thalweg[hf]".') from missing

if TYPE_CHECKING:
    from transformers import Trainer, TrainerControl, TrainerState, TrainingArguments

__all__ = ["ProbeCallback"]

STATE = "thalweg_probe"  # in the trainer_state.json of each checkpoint


class ProbeCallback(TrainerCallback):  # type: ignore[misc]  # where transformers is absent its class is Any
    """Measure the steps of a Hugging Face Trainer; training is bit-identical without it.

    The loss of a step is that of its own forwards, played again: the model's output has `.loss`, and the Trainer uses it
    (no label smoothing, no `compute_loss_func`; give `closure=` there). Each row goes through `trainer.log`, so that
    TensorBoard and W&B get its keys as they get the Trainer's own, under `train/`. Every checkpoint holds the probe's state;
    a resumed run continues its history, and drops the lines of a `JsonlLog` past the restored step. With
    `on_unstable="stop"` training ends after the unstable step as it ends by itself: `control.should_training_stop`, on every
    rank; `stopped` says why.

    Args:
        trainer: the Trainer that it is added to.
        options: those of `thalweg.probe`: every, measures, closure, log, strict, on_unstable. `log` is called beside
            `trainer.log`.

    Attributes:
        stopped: what `on_unstable="stop"` ended training for, or None.

    Example::

        trainer = Trainer(model, arguments, train_dataset=data)
        callback = ProbeCallback(trainer, every=100)
        trainer.add_callback(callback)
        trainer.train()
        print(callback.history.summary())
    """

    def __init__(self, trainer: Trainer, **options: Any) -> None:
        self.probe: Probe | None = None
        self.stopped: StopTraining | None = None
        self._trainer = trainer
        self._options = options
        self._logged: Row | None = None

    @property
    def history(self) -> History:
        """What was measured so far; empty before training."""
        return History(()) if self.probe is None else self.probe.history

    def on_train_begin(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Attach the probe to the Trainer's model and optimizer; continue where a checkpoint says so."""
        if self.probe is not None:
            self.probe.close()
        self.probe = Probe(kwargs["model"], kwargs["optimizer"], **self._options)
        if state.global_step > 0:
            # Callbacks' own states are restored by rebuilding them from JSON, which an optimizer and a closure do not
            # survive. The dict comes with every checkpoint.
            saved = state.stateful_callbacks.get(STATE, {"rows": [], "memory": {}})
            self.probe.load_state_dict({**saved, "steps": state.global_step})
        self._logged = self.probe.newest
        self.stopped = None
        self.probe.on_stop(self._stop)
        self.probe.attach()

    def on_step_end(self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any) -> None:
        """Log the row of the step just made: here, since the Trainer has not counted it yet when the optimizer has."""
        assert self.probe is not None
        row = self.probe.newest
        if row is not None and row is not self._logged:
            self._logged = row
            state.stateful_callbacks[STATE] = self.probe.state_dict()
            self._trainer.log({key: value for key, value in row.items() if isinstance(value, float)})
        control.should_training_stop |= self.stopped is not None

    def on_train_end(
        self, args: TrainingArguments, state: TrainerState, control: TrainerControl, **kwargs: Any
    ) -> None:
        """Stop listening; the history stays."""
        if self.probe is not None:
            self.probe.close()

    def _stop(self, stop: StopTraining) -> None:
        """The optimizer has stepped, the Trainer has not counted the step yet: it ends when it has."""
        self.stopped = stop
