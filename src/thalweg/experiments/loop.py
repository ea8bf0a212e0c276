"""A training loop to read from top to bottom: a small GPT on the text that is on board, AdamW, any schedule.

    run = RunDir.create("runs/first", {"schedule": "wsd(0.004, 600, warmup=90, decay=0.2)"})
    result = train(run.config, run)

Rows of every step go to the run's folder, so does all that a later `train` needs to continue a stopped run bit for bit.
"""

from __future__ import annotations

import dataclasses
import io
import signal
import threading
import time
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping
from contextlib import AbstractContextManager, contextmanager, nullcontext
from dataclasses import dataclass
from pathlib import Path
from types import FrameType
from typing import Any, Protocol

import numpy as np
import torch
import torch.nn.functional as F
from torch import nn

from thalweg import checkpoints, schedules
from thalweg.experiments.data import VOCABULARY, Corpus, corpus
from thalweg.experiments.models import GPT
from thalweg.outcomes import bad_input
from thalweg.results import write_atomically
from thalweg.rundir import RunDir

__all__ = [
    "Batches",
    "Config",
    "held_out_batch",
    "held_out_loss",
    "next_token_loss",
    "one_thread",
    "survey_data",
    "train",
]

Batch = tuple[torch.Tensor, torch.Tensor]
Watch = Callable[[nn.Module, torch.optim.Optimizer, Iterable[Batch]], AbstractContextManager[Iterable[Batch]]]

_TEST_SEQUENCES = 512
_KINDS = {"int": int, "int | None": int | None, "float": int | float, "str": str}  # what a field of a config may hold
_FROM_ZERO = ("seed", "order", "dropout", "weight_decay")  # the other numbers are at least 1


class Log(Protocol):
    """Anything that takes a row of numbers of one step: `wandb.log`, `RunDir.log`, a progress bar's function."""

    def __call__(self, row: dict[str, Any], /, *, step: int) -> object: ...


class Stateful(Protocol):
    """Anything with a state of plain values or tensors, a probe for example."""

    def state_dict(self) -> dict[str, Any]: ...

    def load_state_dict(self, state: dict[str, Any], /) -> None: ...


@dataclass(frozen=True, slots=True, kw_only=True)
class Config:
    """What one run is. `schedule` is a schedule's text; it also says how many steps the run has.

        Attributes:
            schedule: learning rate as a function of the step, for example "cosine(0.003, 600, warmup=60)".
    seed: of the weights and of the order of the data; dropout has a generator seeded with it too.
            order: another seed for the order of the data: runs that differ in it alone start from the same weights.
            domain: of the text, "code" or "english".
            width, layers, heads, dropout: of the model.
            length: of a sequence [tokens].
            batch_tokens: of a batch [tokens], a multiple of `length`.
            weight_decay: of AdamW, on matrices only (norms have none).
    """

    schedule: str
    seed: int = 0
    order: int | None = None
    domain: str = "code"
    width: int = 64
    layers: int = 2
    heads: int = 4
    length: int = 64
    dropout: float = 0.0
    batch_tokens: int = 1024
    weight_decay: float = 0.1

    @classmethod
    def of(cls, config: Mapping[str, Any]) -> Config:
        """A config from a mapping, all of whose keys have to be known.

        Raises:
            ThalwegError: an unknown key, no schedule, a value of another type or below its range, or batch_tokens that
                is no multiple of length.

        Example:
            >>> Config.of({"schedule": "constant(0.001, 10)", "width": 32}).width
            32
        """
        known = [field.name for field in dataclasses.fields(cls)]
        unknown = sorted(set(config) - set(known))
        if unknown:
            raise bad_input("config", ", ".join(unknown), "keys among " + " ".join(known))
        if "schedule" not in config:
            raise bad_input(
                "config", dict(config), "a schedule", 'Write for example {"schedule": "cosine(0.003, 600, warmup=60)"}'
            )
        made = cls(**config)
        for field in dataclasses.fields(cls):
            value = getattr(made, field.name)
            if not isinstance(value, _KINDS[str(field.type)]) or isinstance(value, bool):
                raise bad_input(field.name, value, f"a value of type {field.type}")
            if isinstance(value, int | float) and value < (0 if field.name in _FROM_ZERO else 1):
                raise bad_input(field.name, value, "a larger number")
        if made.batch_tokens < made.length or made.batch_tokens % made.length:
            multiple = max(1, round(made.batch_tokens / made.length)) * made.length
            raise bad_input(
                "batch_tokens", made.batch_tokens, f"a multiple of length={made.length}", f"Write {multiple}"
            )
        return made

    def model(self) -> GPT:
        """The model at its start; its weights follow from the seed."""
        shape = {name: getattr(self, name) for name in ("length", "width", "layers", "heads", "dropout")}
        return GPT(VOCABULARY, seed=self.seed, **shape)


@dataclass(frozen=True, slots=True)
class Batches:
    """The batches of steps start, …, stop − 1 of one run; which they are follows from (seed, step) alone.

    Each gives (x, y), both int64 of shape (batch_tokens / length, length): random windows of the training text, y one
    token later than x.
    """

    corpus: Corpus
    config: Config
    stop: int
    start: int = 0

    def __len__(self) -> int:
        return self.stop - self.start

    def __iter__(self) -> Iterator[Batch]:
        text, length = self.corpus.train, self.config.length
        seed = self.config.seed if self.config.order is None else self.config.order
        for step in range(self.start, self.stop):
            generator = np.random.default_rng([seed, step])
            starts = generator.integers(0, text.size - length, size=self.config.batch_tokens // length)
            yield _windows(text, starts, length)


def next_token_loss(model: nn.Module, batch: Batch) -> torch.Tensor:
    """Mean cross-entropy of the next token [nats per token], a differentiable scalar."""
    x, y = batch
    return F.cross_entropy(model(x).flatten(0, 1), y.flatten())


def held_out_batch(text: Corpus, *, sequences: int = _TEST_SEQUENCES, length: int = 64) -> Batch:
    """The same sequences for everyone, evenly spread over the test text: (x, y), int64, shape (sequences, length)."""
    return _windows(text.test, np.linspace(0, text.test.size - length - 1, sequences).astype(np.int64), length)


def survey_data(config: Config, *, sequences: int = 32, unseen: int = 256) -> tuple[Batch, list[Batch]]:
    """Data to compare finished runs of a config on: training text in windows no run was given, and batches of test text.

    Args:
        config: says which text, and the length of a sequence.
        sequences: of training text, in one batch [count].
        unseen: of test text, in batches of up to 64 [count].
    """
    text = corpus(config.domain)
    one = dataclasses.replace(config, batch_tokens=sequences * config.length, order=0)
    far = 10**6  # steps that no run here comes to
    (seen,) = Batches(text, one, start=far, stop=far + 1)
    x, y = held_out_batch(text, sequences=unseen, length=config.length)
    return seen, [(x[at : at + 64], y[at : at + 64]) for at in range(0, unseen, 64)]


def held_out_loss(model: nn.Module, text: Corpus, *, sequences: int = _TEST_SEQUENCES, length: int = 64) -> float:
    """Mean cross-entropy on the test sequences [nats per token], in eval mode; the model's mode is restored."""
    x, y = held_out_batch(text, sequences=sequences, length=length)
    training = model.training
    model.eval()
    total = 0.0
    with torch.no_grad():
        for at in range(0, sequences, 64):  # in pieces that stay in the cache
            part = x[at : at + 64], y[at : at + 64]
            total += next_token_loss(model, part).item() * len(part[0])
    model.train(training)
    return total / sequences


def train(
    config: Mapping[str, Any],
    rundir: RunDir,
    *,
    watch: Watch | None = None,
    companions: Mapping[str, Stateful] | None = None,
    log: Log | None = None,
    checkpoint_steps: Collection[int] = (),
    save_every: int = 250,
) -> dict[str, Any]:
    """Train a small GPT and write everything into the run's folder; a stopped run is continued, bit for bit.

    AdamW with betas (.9, .95), weight decay on matrices only, gradients clipped to norm 1, one thread. Stops early where
    the loss of a batch is no longer finite.

    Args:
        config: the fields of `Config`.
        rundir: where the run is; if it is complete, its result is returned.
        watch: called with (model, optimizer, batches); a context manager that gives the batches to train on. A probe is
            attached with it: `with tw.probe(model, optimizer, loss_fn=next_token_loss) as p: yield p.watch(batches)`.
        companions: objects whose state is saved and restored with the run's; `watch` may put its probe into the mapping.
        log: called with the row of every step: loss of the batch before the step [nats per token], lr of the step [1],
            gradient_norm before clipping; `step` counts the steps completed, this one included.
        checkpoint_steps: numbers of updates after which weights are written; after the last they always are.
        save_every: steps between states from which a killed run continues.

    Returns:
        loss: on the fixed test sequences [nats per token], NaN if the run stopped early.
        train_loss: mean over the last 2 % of the steps, at least 20 [nats per token].
        params, tokens, batch_tokens, steps: raw counts.
        diverged: whether a loss was not finite.
        cpu_seconds, fingerprint: CPU time of this run; SHA-256 of the text.

    Raises:
        ThalwegError: a mistake in the config.
        KeyboardInterrupt: on Ctrl-C, after the step that was under way is done and its state is written.
    """
    asked = Config.of(config)
    schedule = schedules.parse(asked.schedule)
    text = corpus(asked.domain)
    if rundir.status == "complete":
        assert rundir.result is not None
        return rundir.result
    with one_thread(), torch.random.fork_rng(devices=[]), _deferred_interrupt() as interrupted:
        clock = time.process_time()
        torch.manual_seed(asked.seed)
        model = asked.model()
        optimizer = torch.optim.AdamW(_groups(model, asked.weight_decay), lr=schedule.peak_lr, betas=(0.9, 0.95))
        scheduler = schedule.to_torch(optimizer)
        run = _Run(rundir.path / "state.pt", model, optimizer, scheduler, {} if companions is None else companions)
        saved = run.restore()
        rundir.rewind(run.step)
        batches = Batches(text, asked, stop=schedule.steps, start=run.step)
        diverged = False
        with watch(model, optimizer, batches) if watch is not None else nullcontext(batches) as watched:
            for name in saved.keys() & run.companions.keys():
                run.companions[name].load_state_dict(saved[name])
            for batch in watched:
                loss = next_token_loss(model, batch)
                loss.backward()  # type: ignore[no-untyped-call]
                norm = nn.utils.clip_grad_norm_(model.parameters(), 1.0)
                row = {"loss": loss.item(), "lr": optimizer.param_groups[0]["lr"], "gradient_norm": norm.item()}
                optimizer.step()
                scheduler.step()
                optimizer.zero_grad()
                run.step += 1
                rundir.log(row, step=run.step)
                if log is not None:
                    log(row, step=run.step)
                if run.step in checkpoint_steps or run.step == schedule.steps:
                    checkpoints.write(rundir.checkpoint(run.step), model.state_dict())
                diverged = not np.isfinite(row["loss"])
                if diverged:
                    break
                stop = interrupted()
                if stop or run.step % save_every == 0:
                    run.save(run.seconds + time.process_time() - clock)
                if stop:
                    rundir.interrupt()
                    raise KeyboardInterrupt
        result = {
            "loss": float("nan") if diverged else held_out_loss(model, text, length=asked.length),
            "train_loss": _last_loss(rundir, schedule.steps),
            "params": sum(parameter.numel() for parameter in model.parameters()),
            "tokens": run.step * asked.batch_tokens,
            "batch_tokens": asked.batch_tokens,
            "steps": run.step,
            "diverged": diverged,
            "cpu_seconds": round(run.seconds + time.process_time() - clock, 2),
            "fingerprint": text.fingerprint,
        }
        rundir.finish(result)
        run.path.unlink(missing_ok=True)
        if interrupted():
            raise KeyboardInterrupt
    return result


@dataclass(slots=True)
class _Run:
    """All that changes while a run trains, and the file it continues from."""

    path: Path
    model: nn.Module
    optimizer: torch.optim.Optimizer
    scheduler: torch.optim.lr_scheduler.LRScheduler
    companions: Mapping[str, Stateful]
    step: int = 0  # updates done
    seconds: float = 0.0  # of CPU time, by the processes before this one

    def save(self, seconds: float) -> None:
        buffer = io.BytesIO()
        state = {
            "model": self.model.state_dict(),
            "optimizer": self.optimizer.state_dict(),
            "scheduler": self.scheduler.state_dict(),
            "step": self.step,
            "seconds": seconds,
            "generator": torch.get_rng_state(),
            "companions": {name: companion.state_dict() for name, companion in self.companions.items()},
        }
        torch.save(state, buffer)
        write_atomically(self.path, buffer.getvalue())

    def restore(self) -> dict[str, dict[str, Any]]:
        """Continue where the file says; without a file, start. Gives the states of the companions, who come later."""
        if not self.path.is_file():
            return {}
        state = torch.load(self.path, weights_only=True)
        self.model.load_state_dict(state["model"])
        self.optimizer.load_state_dict(state["optimizer"])
        self.scheduler.load_state_dict(state["scheduler"])
        self.step, self.seconds = state["step"], state["seconds"]
        torch.set_rng_state(state["generator"])
        companions: dict[str, dict[str, Any]] = state["companions"]
        return companions


def _windows(
    text: np.ndarray[Any, np.dtype[np.uint16]], starts: np.ndarray[Any, np.dtype[np.int64]], length: int
) -> Batch:
    windows = torch.from_numpy(text[starts[:, None] + np.arange(length + 1)].astype(np.int64))
    return windows[:, :-1].contiguous(), windows[:, 1:].contiguous()


def _groups(model: nn.Module, weight_decay: float) -> list[dict[str, Any]]:
    parameters = list(model.parameters())
    return [
        {"params": [p for p in parameters if p.dim() >= 2], "weight_decay": weight_decay},
        {"params": [p for p in parameters if p.dim() < 2], "weight_decay": 0.0},
    ]


def _last_loss(rundir: RunDir, steps: int) -> float:
    losses = [row["loss"] for row in rundir.metrics() if "loss" in row]
    return float(np.mean(losses[-max(20, round(0.02 * steps)) :]))


@contextmanager
def one_thread() -> Iterator[None]:
    """One torch thread: small matrices gain nothing from more, and sums come out the same on every machine's core count."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    try:
        yield
    finally:
        torch.set_num_threads(before)


@contextmanager
def _deferred_interrupt() -> Iterator[Callable[[], bool]]:
    """Ctrl-C only makes the yielded function answer True, so that a step is never cut in half; a second one interrupts."""
    before = signal.getsignal(signal.SIGINT)
    if threading.current_thread() is not threading.main_thread() or not callable(before):
        yield lambda: False
        return
    seen: list[int] = []

    def note(signum: int, frame: FrameType | None) -> None:
        if seen:
            raise KeyboardInterrupt
        seen.append(signum)

    signal.signal(signal.SIGINT, note)
    try:
        yield lambda: bool(seen)
    finally:
        signal.signal(signal.SIGINT, before)
