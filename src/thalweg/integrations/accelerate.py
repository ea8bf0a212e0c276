"""The probe in a training loop that `accelerate.Accelerator` runs."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from torch import nn

from thalweg.curvature.probes.probing import Probe

if TYPE_CHECKING:
    from accelerate import Accelerator

__all__ = ["accelerate_probe"]


def accelerate_probe(accelerator: Accelerator, model: nn.Module, optimizer: Any, **options: Any) -> Probe:
    """A probe for what `accelerator.prepare` gave: `thalweg.probe`, with three things done for you.

    The model and the optimizer are unwrapped; rows go through `accelerator.log` to its trackers; `accelerator.save_state`
    and `load_state` keep the probe's state with theirs, so that a resumed run continues its history. Make it after
    `prepare` and before `load_state`, on every process. Only steps that are made are counted: not the micro-batches of
    `accelerator.accumulate`. The loop is yours: with `on_unstable="stop"` `optimizer.step()` raises `StopTraining` after the
    unstable step, on every process; catch it around the loop where the rest of the program goes on.

    Args:
        accelerator: the Accelerator that prepared both.
        model: the prepared model.
        optimizer: the prepared optimizer.
        options: those of `thalweg.probe`: every, measures, loss_fn, closure, log, strict, on_unstable. `log` replaces
            `accelerator.log`.

    Example::

        model, optimizer, loader = accelerator.prepare(model, optimizer, loader)
        with accelerate_probe(accelerator, model, optimizer, every=100) as probe:
            for batch in probe.watch(loader):
                accelerator.backward(loss_fn(model, batch))
                optimizer.step()
                optimizer.zero_grad()
    """
    options.setdefault("log", accelerator.log)
    probe = Probe(accelerator.unwrap_model(model), optimizer, **options)
    accelerator.register_for_checkpointing(probe)
    return probe
