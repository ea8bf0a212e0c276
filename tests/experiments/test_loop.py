"""The training loop: equal to a loop written out, resumed bit for bit, and open to whoever watches."""

from __future__ import annotations

import os
import signal
import sys
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import torch.nn.functional as F
from torch import nn

from thalweg import checkpoints, schedules
from thalweg.experiments import loop
from thalweg.experiments.data import corpus
from thalweg.experiments.loop import Batches, Config, next_token_loss, train
from thalweg.experiments.models import GPT
from thalweg.outcomes import ThalwegError
from thalweg.rundir import RunDir

CONFIG: dict[str, Any] = {
    "schedule": "cosine(0.01, 12, warmup=3)",
    "seed": 5,
    "width": 16,
    "heads": 2,
    "layers": 1,
    "length": 8,
    "batch_tokens": 64,
    "dropout": 0.1,
}


def trained(path: Path, config: dict[str, Any] = CONFIG, **options: Any) -> RunDir:
    run = RunDir.create(path, config)
    train(config, run, **options)
    return RunDir.open(path)


def everything(run: RunDir) -> tuple[object, ...]:
    """What two equal runs have in common: rows, weights, result."""
    assert run.result is not None
    result = {name: value for name, value in run.result.items() if name != "cpu_seconds"}
    return run.metrics(), {step: path.read_bytes() for step, path in run.checkpoints().items()}, result


@pytest.fixture(scope="module")
def whole(tmp_path_factory: pytest.TempPathFactory) -> RunDir:
    return trained(tmp_path_factory.mktemp("whole"), checkpoint_steps=[4])


def test_the_loop_is_adamw_written_out(tmp_path: Path) -> None:
    config = {**CONFIG, "dropout": 0.0}
    run = trained(tmp_path, config)
    schedule, text = schedules.parse(config["schedule"]), corpus("code").train.astype(np.int64)
    model = GPT(512, length=8, width=16, layers=1, heads=2, seed=5)
    weights = list(model.parameters())
    first, second = [torch.zeros_like(w) for w in weights], [torch.zeros_like(w) for w in weights]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    for step in range(12):
        starts = np.random.default_rng([5, step]).integers(0, len(text) - 8, size=8)
        x = torch.from_numpy(np.stack([text[start : start + 8] for start in starts]))
        y = torch.from_numpy(np.stack([text[start + 1 : start + 9] for start in starts]))
        loss = F.cross_entropy(model(x).reshape(64, 512), y.reshape(64))
        gradients = torch.autograd.grad(loss, weights)
        norm = torch.cat([g.flatten() for g in gradients]).norm()
        row = run.metrics()[step]
        assert row["loss"] == pytest.approx(loss.item(), rel=1e-5)
        assert row["gradient_norm"] == pytest.approx(norm.item(), rel=1e-4)
        assert row["lr"] == schedule(step)
        with torch.no_grad():
            for w, g, m, v in zip(weights, gradients, first, second, strict=True):
                g = g * min(1.0, 1.0 / norm.item())
                m.lerp_(g, 0.1)
                v.lerp_(g * g, 0.05)
                w *= 1 - schedule(step) * (0.1 if w.dim() >= 2 else 0.0)
                w -= schedule(step) * (m / (1 - 0.9 ** (step + 1))) / ((v / (1 - 0.95 ** (step + 1))).sqrt() + 1e-8)
    torch.set_num_threads(threads)
    final = checkpoints.read(run.checkpoint(12))
    for name, tensor in model.state_dict().items():
        assert torch.allclose(final[name], tensor, atol=2e-5), name
    assert run.result is not None
    test = corpus("code").test.astype(np.int64)
    starts = np.linspace(0, test.size - 9, 512).astype(int)
    x = torch.from_numpy(np.stack([test[start : start + 9] for start in starts]))
    with torch.no_grad():
        expected = F.cross_entropy(model(x[:, :-1]).reshape(-1, 512), x[:, 1:].reshape(-1)).item()
    assert run.result["loss"] == pytest.approx(expected, abs=1e-5)
    assert run.result["train_loss"] == pytest.approx(np.mean([row["loss"] for row in run.metrics()]))
    assert run.result["params"] == sum(w.numel() for w in weights)
    assert (run.result["steps"], run.result["tokens"], run.result["diverged"]) == (12, 768, False)


def test_ctrl_c_finishes_the_step_and_the_run_continues_bit_for_bit(whole: RunDir, tmp_path: Path) -> None:
    if sys.platform == "win32":
        pytest.skip("sends POSIX signals")

    def interrupt(row: dict[str, Any], /, *, step: int) -> None:
        if step == 7:
            os.kill(os.getpid(), signal.SIGINT)

    with pytest.raises(KeyboardInterrupt):
        trained(tmp_path, checkpoint_steps=[4], log=interrupt)
    assert RunDir.open(tmp_path).status == "interrupted"
    assert [row["step"] for row in RunDir.open(tmp_path).metrics()] == list(range(1, 8))
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    assert everything(trained(tmp_path, checkpoint_steps=[4])) == everything(whole)
    assert not (tmp_path / "state.pt").exists()


def test_a_killed_run_continues_bit_for_bit_from_its_last_state(whole: RunDir, tmp_path: Path) -> None:
    class Killed(BaseException):
        pass

    def kill(row: dict[str, Any], /, *, step: int) -> None:
        if step == 9:
            raise Killed

    with pytest.raises(Killed):
        trained(tmp_path, checkpoint_steps=[4], save_every=5, log=kill)
    assert RunDir.open(tmp_path).status == "running"
    with (tmp_path / "metrics.jsonl").open("a") as file:
        file.write('{"step": 10, "lo')  # torn
    seen: list[int] = []
    again = trained(tmp_path, checkpoint_steps=[4], save_every=5, log=lambda row, *, step: seen.append(step))
    assert seen == list(range(6, 13))
    assert everything(again) == everything(whole)


def test_who_watches_gets_model_optimizer_and_batches_and_changes_nothing(whole: RunDir, tmp_path: Path) -> None:
    events: list[str] = []

    @contextmanager
    def watch(
        model: nn.Module, optimizer: torch.optim.Optimizer, batches: Iterable[loop.Batch]
    ) -> Iterator[Iterable[loop.Batch]]:
        assert len(optimizer.param_groups) == 2 and model.training
        handle = optimizer.register_step_post_hook(lambda *_: events.append("step"))

        def watched() -> Iterator[loop.Batch]:
            for batch in batches:
                events.append("batch")
                next_token_loss(model, batch).item()
                yield batch

        yield watched()
        handle.remove()
        events.append("end")

    config = {**CONFIG, "dropout": 0.0}
    plain, seen = trained(tmp_path / "plain", config), trained(tmp_path / "seen", config, watch=watch)
    assert everything(plain) == everything(seen)
    assert events == ["batch", "step"] * 12 + ["end"]


class Counter:
    """A companion: counts the batches it saw."""

    def __init__(self) -> None:
        self.seen = 0

    def state_dict(self) -> dict[str, Any]:
        return {"seen": self.seen}

    def load_state_dict(self, state: dict[str, Any], /) -> None:
        self.seen = state["seen"]


def test_a_companion_continues_with_the_run(tmp_path: Path) -> None:
    companions: dict[str, Any] = {}

    @contextmanager
    def watch(model: nn.Module, optimizer: object, batches: Iterable[loop.Batch]) -> Iterator[Iterable[loop.Batch]]:
        counter = companions["counter"] = Counter()

        def watched() -> Iterator[loop.Batch]:
            for batch in batches:
                counter.seen += 1
                yield batch

        yield watched()

    def stop(row: dict[str, Any], /, *, step: int) -> None:
        if step == 7:
            raise MemoryError

    with pytest.raises(MemoryError):
        trained(tmp_path, watch=watch, companions=companions, save_every=5, log=stop)
    assert companions["counter"].seen == 7
    trained(tmp_path, watch=watch, companions=companions)
    assert companions["counter"].seen == 12


def test_the_callers_randomness_and_threads_are_left_alone(tmp_path: Path) -> None:
    threads = torch.get_num_threads()
    torch.manual_seed(3)
    expected = torch.rand(3)
    torch.manual_seed(3)
    trained(tmp_path)
    assert torch.equal(torch.rand(3), expected)
    assert torch.get_num_threads() == threads


def test_a_complete_run_is_not_trained_again(whole: RunDir) -> None:
    def never(row: dict[str, Any], /, *, step: int) -> None:
        pytest.fail("trained again")

    assert train(CONFIG, RunDir.create(whole.path, CONFIG), log=never) == whole.result


def test_checkpoints_are_at_the_named_steps_and_at_the_end(whole: RunDir) -> None:
    assert list(whole.checkpoints()) == [4, 12]
    model = Config.of(CONFIG).model()
    checkpoints.load_into(model, checkpoints.read(whole.checkpoint(12)))
    assert whole.result is not None
    assert loop.held_out_loss(model, corpus("code"), length=8) == pytest.approx(whole.result["loss"], abs=1e-6)
    assert model.training  # the mode is restored


def test_a_run_that_diverges_stops_and_says_so(tmp_path: Path) -> None:
    result = trained(tmp_path, {**CONFIG, "schedule": "constant(1e30, 12)"}).result
    assert result is not None
    assert result["diverged"] is True and np.isnan(result["loss"]) and result["steps"] < 12
    assert result["tokens"] == result["steps"] * 64


def test_batches_follow_from_seed_and_step_alone() -> None:
    config, text = Config.of(CONFIG), corpus("code")
    every, late = list(Batches(text, config, stop=6)), list(Batches(text, config, stop=6, start=4))
    assert len(Batches(text, config, stop=6, start=4)) == 2
    for a, b in zip(every[4:], late, strict=True):
        assert torch.equal(a[0], b[0]) and torch.equal(a[1], b[1])
    x, y = every[0]
    assert x.shape == y.shape == (8, 8) and x.dtype == torch.int64
    assert torch.equal(x[:, 1:], y[:, :-1])
    assert not torch.equal(x, every[1][0])
    other = next(iter(Batches(text, Config.of({**CONFIG, "seed": 6}), stop=1)))
    assert not torch.equal(x, other[0])


def test_it_learns(tmp_path: Path) -> None:
    config = {
        "schedule": "linear(0.01, 60, warmup=6)",
        "width": 32,
        "heads": 2,
        "layers": 1,
        "length": 32,
        "batch_tokens": 512,
    }
    result = trained(tmp_path, config).result
    counts = np.bincount(corpus("code").train, minlength=512) / corpus("code").train.size
    unigram = -float((counts[counts > 0] * np.log(counts[counts > 0])).sum())
    assert result is not None
    assert result["loss"] < unigram + 0.1  # from ln 512 = 6.24


@pytest.mark.parametrize(
    ("change", "expected"),
    [
        ({"learning_rate": 1e-3}, "config: got 'learning_rate', expected keys among schedule seed"),
        ({"batch_tokens": 100}, "multiple of length=8. Write 96"),
        ({"domain": "french"}, "one of code, english"),
        ({"schedule": "cosin(0.01, 12)"}, "schedule"),
        ({"heads": 3}, "divisor of width=16"),
        ({"width": "16"}, "width: got '16', expected a value of type int"),
        ({"layers": 0}, "layers: got 0, expected a larger number"),
    ],
)
def test_mistakes_in_the_config_are_told_in_one_line(tmp_path: Path, change: dict[str, Any], expected: str) -> None:
    with pytest.raises(ThalwegError, match=expected) as caught:
        trained(tmp_path, {**CONFIG, **change})
    assert "\n" not in str(caught.value)


def test_a_config_needs_a_schedule() -> None:
    with pytest.raises(ThalwegError, match="a schedule"):
        Config.of({"seed": 1})
