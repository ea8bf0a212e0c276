"""One tiny language model trained on the same batches, in the same order, in every host."""

from __future__ import annotations

import random
import warnings

import numpy as np
import torch
from torch.utils.data import DataLoader

from tests.curvature.state import bits
from thalweg.curvature import probe
from thalweg.outcomes import ThalwegWarning

STEPS, EVERY, ROWS, TIME, VOCABULARY = 12, 3, 4, 8, 24
LR = 3e-3

torch.set_num_threads(1)

trained_on: list[float] = []  # the loss of each training forward of the newest network


def seed():
    random.seed(0)
    np.random.seed(0)  # noqa: NPY002
    torch.manual_seed(0)


def network(dropout=0.0):
    """GPT-2 from its configuration alone: nothing is downloaded."""
    from transformers import GPT2Config, GPT2LMHeadModel

    seed()
    model = GPT2LMHeadModel(
        GPT2Config(
            vocab_size=VOCABULARY,
            n_positions=TIME,
            n_embd=16,
            n_layer=1,
            n_head=2,
            resid_pdrop=dropout,
            embd_pdrop=dropout,
            attn_pdrop=dropout,
            bos_token_id=0,
            eos_token_id=0,
            loss_type="ForCausalLM",
        )
    ).train()
    trained_on.clear()
    model.register_forward_hook(
        lambda _, __, output: trained_on.append(output.loss.item()) if _training(model) else None
    )
    return model


def _training(model):
    return model.training and torch.is_grad_enabled()


def adamw(model):
    return torch.optim.AdamW(model.parameters(), lr=LR, weight_decay=0.1)


def too_fast(model, lr=3.0):
    """In place of `adamw`: its steps are half as long again as their critical ones from the third on."""
    return torch.optim.SGD(model.parameters(), lr=lr)


def rows_of_data(count=STEPS * ROWS):
    generator = torch.Generator().manual_seed(5)
    start = torch.randint(0, VOCABULARY, (count, 1), generator=generator)
    noise = torch.randint(0, 3, (count, TIME), generator=generator)
    tokens = (start + torch.arange(TIME) * 2 + noise) % VOCABULARY
    return [{"input_ids": row, "labels": row} for row in tokens]


def loader(first=0, steps=STEPS):
    """The batches in order; `first` begins later, and the others come at the end."""
    data = rows_of_data()[: steps * ROWS]
    return DataLoader(data[first * ROWS :] + data[: first * ROWS], batch_size=ROWS, shuffle=False)


def left(model):
    """What a run leaves: its weights as bytes."""
    return {name: bits(p) for name, p in model.named_parameters()}


def plain(dropout=0.0, probed=True, **options):
    model = network(dropout)
    optimizer = adamw(model)
    seed()
    watcher = probe(model, optimizer, every=EVERY, **options)
    if probed:
        watcher.attach()
    for batch in loader():
        optimizer.zero_grad()
        model(**batch).loss.backward()
        optimizer.step()
    watcher.close()
    return watcher.history, left(model)


def huggingface(folder, dropout=0.0, probed=True, resume=None, stop_after=None, arguments=None, **options):
    from torch.utils.data import SequentialSampler
    from transformers import Trainer, TrainerCallback, TrainingArguments

    from thalweg.integrations.huggingface import ProbeCallback

    class InOrder(Trainer):
        def _get_train_sampler(self, *_):
            return SequentialSampler(self.train_dataset)

    class Stop(TrainerCallback):
        def on_step_end(self, args, state, control, **kwargs):
            control.should_training_stop = state.global_step == stop_after

    settings = {
        "max_steps": STEPS,
        "save_strategy": "no",
        "report_to": "none",
        "logging_steps": 1,
        "max_grad_norm": 0.0,
        "per_device_train_batch_size": ROWS,
        **(arguments or {}),
    }
    model = network(dropout)
    optimizer = adamw(model)
    trainer = InOrder(
        model,
        TrainingArguments(str(folder), use_cpu=True, disable_tqdm=True, seed=0, **settings),
        train_dataset=rows_of_data(),
        optimizers=(optimizer, torch.optim.lr_scheduler.ConstantLR(optimizer, factor=1.0)),
        callbacks=[Stop()],
    )
    callback = ProbeCallback(trainer, every=EVERY, **options)
    if probed:
        trainer.add_callback(callback)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", FutureWarning)
        trainer.train(resume_from_checkpoint=resume)
    return callback.history, left(model), trainer.state.log_history


def lightning(
    folder, dropout=0.0, probed=True, resume=None, first=0, steps=STEPS, logger=False, callbacks=(), **options
):
    import lightning.pytorch as pl

    from thalweg.integrations.lightning import ProbeCallback

    class Module(pl.LightningModule):
        def __init__(self):
            super().__init__()
            self.inner = network(dropout)

        def training_step(self, batch, batch_idx):
            loss = self.inner(**batch).loss
            self.log("loss", loss)
            return loss

        def configure_optimizers(self):
            return adamw(self.inner)

    module = Module()
    callback = ProbeCallback(every=EVERY, **options)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")
        warnings.simplefilter("default", ThalwegWarning)
        trainer = pl.Trainer(
            max_steps=steps,
            accelerator="cpu",
            logger=logger,
            log_every_n_steps=1,
            enable_checkpointing=bool(callbacks),
            enable_progress_bar=False,
            enable_model_summary=False,
            default_root_dir=folder,
            callbacks=[*([callback] if probed else []), *callbacks],
        )
        seed()
        trainer.fit(module, loader(first), ckpt_path=resume)
    return callback.history, left(module.inner)


def accelerate(folder, dropout=0.0, probed=True, resume=None, save_at=None, steps=STEPS, trackers=None, **options):
    from accelerate import Accelerator
    from accelerate.state import AcceleratorState, PartialState

    from thalweg.integrations.accelerate import accelerate_probe

    AcceleratorState._reset_state()
    PartialState._reset_state()
    accelerator = Accelerator(cpu=True, log_with=trackers, project_dir=folder)
    if trackers:
        accelerator.init_trackers("run")
    model = network(dropout)
    model, optimizer, batches = accelerator.prepare(model, adamw(model), loader(steps=steps))
    seed()
    watcher = accelerate_probe(accelerator, model, optimizer, every=EVERY, **options)
    done = 0
    if resume is not None:
        accelerator.load_state(str(resume))
        done = save_at
        batches = accelerator.skip_first_batches(batches, done)
    if probed:
        watcher.attach()
    for step, batch in enumerate(batches, start=done + 1):
        accelerator.backward(model(**batch).loss)
        optimizer.step()
        optimizer.zero_grad()
        if step == save_at:
            accelerator.save_state(str(folder / "saved"))
    watcher.close()
    accelerator.end_training()
    return watcher.history, left(accelerator.unwrap_model(model))
