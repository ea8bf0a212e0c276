"""The same tiny run in every host gives the rows of the plain loop; the probe changes nothing; resuming continues."""

from __future__ import annotations

import csv
import functools
import json
import os
import re
import struct
import subprocess
import sys
import time

import pytest

from tests.integrations import hosts
from tests.integrations.hosts import EVERY, STEPS
from tests.ranks import on_two_ranks
from thalweg.curvature import JsonlLog, StopTraining, tensorboard_log
from thalweg.curvature.probes import probing
from thalweg.curvature.probes.history import History
from thalweg.outcomes import ThalwegWarning

for package in ("transformers", "lightning", "accelerate", "tensorboard", "wandb"):
    if os.environ.get("THALWEG_REQUIRE_HOSTS") != "1":
        pytest.importorskip(package, reason=f'{package} is absent: pip install -e ".[dev]" brings every host')

STOPPED = r"^step \d+: stop: LR 3\S*e0, critical \d"
MEASURED = list(range(EVERY, STEPS + 1, EVERY))
KEYS = {
    "sharpness/critical",
    "sharpness/threshold_critical",
    "lr/critical",
    "stability/margin",
    "probe/forward_passes",
    "probe/seconds",
}
HOSTS = {
    "plain": lambda folder, **options: hosts.plain(**options),
    "huggingface": lambda folder, **options: hosts.huggingface(folder, **options)[:2],
    "lightning": hosts.lightning,
    "accelerate": hosts.accelerate,
}

every_host = pytest.mark.parametrize("host", list(HOSTS))


def numbers(history):
    return [{key: value for key, value in row.items() if key != "probe/seconds"} for row in history.rows]


@every_host
def test_the_rows_of_the_plain_loop(host, tmp_path):
    expected, _ = hosts.plain()
    assert [row["step"] for row in expected.rows] == MEASURED
    assert all(set(row) >= KEYS for row in expected.rows)
    found, _ = HOSTS[host](tmp_path)
    assert [row["probe/outcome"] for row in found.rows] == ["OK"] * len(MEASURED)
    for row, plain in zip(found.rows, expected.rows, strict=True):
        assert row["step"] == plain["step"] and set(row) == set(plain)
        for key in KEYS - {"probe/seconds", "probe/forward_passes"}:
            # The Trainer divides the sum of losses by their number, the others take the mean: float32 rounding.
            assert row[key] == pytest.approx(plain[key], rel=1e-3), (row["step"], key)


@every_host
def test_training_is_bit_identical_with_and_without_the_probe(host, tmp_path):
    history, left = HOSTS[host](tmp_path / "with", dropout=0.1)
    losses = list(hosts.trained_on)
    nothing, left_without = HOSTS[host](tmp_path / "without", dropout=0.1, probed=False)
    assert [row["step"] for row in history.rows] == MEASURED and nothing.rows == ()
    assert left == left_without
    assert losses == hosts.trained_on and len(losses) == STEPS


@every_host
def test_the_loss_of_the_step_is_replayed_with_its_dropout(host, tmp_path, monkeypatch):
    monkeypatch.setitem(probing.MEASURES, "start", lambda step: {"test/start": step._start_loss()[0]})
    history, _ = HOSTS[host](tmp_path, dropout=0.1, measures=("start",))
    assert [row["step"] for row in history.rows] == MEASURED
    for row in history.rows:
        assert row["test/start"] == pytest.approx(hosts.trained_on[row["step"] - 1], rel=1e-5)


@every_host
def test_an_unstable_run_ends_in_its_host_as_the_host_ends_it(host, tmp_path, monkeypatch):
    """The step that did it is the last that is trained on; the same rows and lines as in the plain loop, which raises."""
    rows = {}
    for name in dict.fromkeys(("plain", host)):
        # The Trainer divides by all tokens, those without a next one too: its gradients are 7/8 of the others'.
        lr = 3 * hosts.TIME / (hosts.TIME - 1) if name == "huggingface" else 3.0
        monkeypatch.setattr(hosts, "adamw", functools.partial(hosts.too_fast, lr=lr))
        log = JsonlLog(tmp_path / f"{name}.jsonl")
        if name in ("plain", "accelerate"):  # loops of one's own
            with pytest.raises(StopTraining, match=STOPPED) as raised:
                HOSTS[name](tmp_path / name, on_unstable="stop", log=log)
            assert len(hosts.trained_on) == raised.value.step
        else:
            with pytest.warns(ThalwegWarning, match=STOPPED):
                history, _ = HOSTS[name](tmp_path / name, on_unstable="stop", log=log)
            assert history.rows == History.read_jsonl(log.path).rows
        rows[name] = History.read_jsonl(log.path).rows
        assert len(hosts.trained_on) == rows[name][-1]["step"] < STEPS
        assert ["probe/action" in row for row in rows[name]] == [False] * (len(rows[name]) - 1) + [True]
    for row, plain in zip(rows[host], rows["plain"], strict=True):
        assert (row["step"], set(row)) == (plain["step"], set(plain))
        assert row["stability/margin"] == pytest.approx(plain["stability/margin"], rel=1e-2)


def test_a_resumed_trainer_continues_the_history(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 5}
    whole, left, log = hosts.huggingface(tmp_path / "whole", dropout=0.1, arguments=arguments)
    assert [row["step"] for row in whole.rows] == MEASURED

    # Stopped after step 7, one measured step past the checkpoint at 5: its line must not stay beside the repeated one.
    lines = JsonlLog(tmp_path / "probe.jsonl")
    folder = tmp_path / "stopped"
    stopped, _, _ = hosts.huggingface(folder, dropout=0.1, arguments=arguments, stop_after=7, log=lines)
    assert [row["step"] for row in stopped.rows] == [3, 6]
    assert [row["step"] for row in History.read_jsonl(lines.path).rows] == [3, 6]

    checkpoint = str(folder / "checkpoint-5")
    resumed, left_resumed, log_resumed = hosts.huggingface(
        folder, dropout=0.1, arguments=arguments, resume=checkpoint, log=lines
    )
    assert numbers(resumed) == numbers(whole)
    assert numbers(History.read_jsonl(lines.path)) == numbers(whole)
    assert left_resumed == left
    for entries in (log, log_resumed):
        assert [entry["step"] for entry in entries if "stability/margin" in entry] == MEASURED


def test_a_trainer_resumed_from_a_checkpoint_without_a_probe_counts_on(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 5}
    hosts.huggingface(tmp_path, arguments=arguments, probed=False)
    resumed, _, _ = hosts.huggingface(tmp_path, arguments=arguments, resume=str(tmp_path / "checkpoint-5"))
    assert [row["step"] for row in resumed.rows] == [6, 9, 12]


def test_a_trainer_that_restores_callbacks_by_their_own_states(tmp_path):
    arguments = {"save_strategy": "steps", "save_steps": 5, "restore_callback_states_from_checkpoint": True}
    hosts.huggingface(tmp_path, arguments=arguments)
    resumed, _, _ = hosts.huggingface(tmp_path, arguments=arguments, resume=str(tmp_path / "checkpoint-5"))
    assert [row["step"] for row in resumed.rows] == MEASURED


def test_a_trainer_that_accumulates_gradients(tmp_path):
    """Three micro-batches a step: the sum of what the Trainer divided by the items of all three."""
    arguments = {"gradient_accumulation_steps": 3, "per_device_train_batch_size": 4, "max_steps": 4}
    small, _, _ = hosts.huggingface(tmp_path / "small", arguments=arguments)
    arguments = {"per_device_train_batch_size": 12, "max_steps": 4}
    large, _, _ = hosts.huggingface(tmp_path / "large", arguments=arguments)
    assert [row["step"] for row in small.rows] == [3]
    assert small.rows[0]["stability/margin"] == pytest.approx(large.rows[0]["stability/margin"], rel=1e-3)


def test_a_trainer_on_two_ranks_gives_the_rows_of_one(tmp_path):
    """DDP, gloo. The Trainer passes the items of both ranks' batches: losses are summed over the ranks, for H too."""
    first, second = on_two_ranks("tests.integrations.on_ranks", tmp_path)
    assert first["ranks"] == 2 and first["logged"] == MEASURED
    alone, _, _ = hosts.huggingface(tmp_path / "alone", measures=("critical", "hessian"))
    assert numbers(History(tuple(first["rows"]))) == numbers(History(tuple(second["rows"])))
    assert History.read_jsonl(tmp_path / "probe.jsonl").rows == tuple(first["rows"])
    for row, expected in zip(first["rows"], alone.rows, strict=True):
        assert row["probe/outcome"] == "OK"
        for key in ("stability/margin", "sharpness/critical", "sharpness/hessian"):
            assert row[key] == pytest.approx(expected[key], rel=1e-3), (row["step"], key)


def test_a_trainer_on_two_ranks_stops_on_both(tmp_path):
    first, second = (found["stopped"] for found in on_two_ranks("tests.integrations.on_ranks", tmp_path))
    assert first["trained"] == second["trained"] == first["rows"][-1]["step"] < STEPS
    assert numbers(History(tuple(first["rows"]))) == numbers(History(tuple(second["rows"])))
    told = re.match(r"stop: LR 3e0, critical ([\d.e-]+)", first["rows"][-1]["probe/action"])
    assert told and 0.1 < float(told[1]) < 3
    assert (len(first["warned"]), second["warned"]) == (1, [])
    assert History.read_jsonl(tmp_path / "stopped.jsonl").rows == tuple(first["rows"])


def test_a_resumed_lightning_run_continues_the_history(tmp_path):
    from lightning.pytorch.callbacks import ModelCheckpoint

    def keep():
        return ModelCheckpoint(tmp_path / "kept", "{step}", every_n_train_steps=5, save_top_k=-1)

    whole, left = hosts.lightning(tmp_path)
    stopped, _ = hosts.lightning(tmp_path, steps=7, callbacks=[keep()])
    assert [row["step"] for row in stopped.rows] == [3, 6]
    resumed, left_resumed = hosts.lightning(tmp_path, resume=tmp_path / "kept" / "step=5.ckpt", first=5)
    assert numbers(resumed) == numbers(whole)
    assert left_resumed == left


def test_a_resumed_accelerate_run_continues_the_history(tmp_path):
    whole, left = hosts.accelerate(tmp_path / "whole")
    hosts.accelerate(tmp_path, save_at=5, steps=7)
    resumed, left_resumed = hosts.accelerate(tmp_path, resume=tmp_path / "saved", save_at=5)
    assert numbers(resumed) == numbers(whole)
    assert left_resumed == left


def test_tensorboard_gets_the_keys(tmp_path, monkeypatch):
    monkeypatch.setenv("TENSORBOARD_LOGGING_DIR", str(tmp_path / "hf_tb"))
    history, _, _ = hosts.huggingface(tmp_path / "hf", arguments={"report_to": ["tensorboard"]})
    assert scalars(tmp_path / "hf_tb", prefix="train/") == margins_by_step(history)

    history, _ = hosts.accelerate(tmp_path / "accelerate", trackers="tensorboard")
    assert scalars(tmp_path / "accelerate") == margins_by_step(history)

    from lightning.pytorch.loggers import TensorBoardLogger

    history, _ = hosts.lightning(tmp_path, logger=TensorBoardLogger(tmp_path / "lightning"))
    assert scalars(tmp_path / "lightning") == margins_by_step(history)

    from torch.utils.tensorboard import SummaryWriter

    with SummaryWriter(tmp_path / "plain") as writer:
        history, _ = hosts.plain(log=tensorboard_log(writer))
    assert scalars(tmp_path / "plain") == margins_by_step(history)


def test_lightning_logs_each_step_once(tmp_path):
    from lightning.pytorch.loggers import CSVLogger

    hosts.lightning(tmp_path, logger=CSVLogger(tmp_path))
    (file,) = tmp_path.rglob("metrics.csv")
    with file.open() as lines:
        logged = list(csv.DictReader(lines))
    assert sum(bool(row["loss"]) for row in logged) == STEPS
    assert [int(row["step"]) for row in logged if row["stability/margin"]] == MEASURED


def test_wandb_gets_the_keys_offline(tmp_path, monkeypatch):
    for name, value in {"WANDB_MODE": "offline", "WANDB_DIR": str(tmp_path), "WANDB_SILENT": "true"}.items():
        monkeypatch.setenv(name, value)
    import wandb

    with wandb.init(project="thalweg") as run:
        plain, _ = hosts.plain(log=wandb.log)
        assert run.offline
    trainer, _, _ = hosts.huggingface(tmp_path / "out", arguments={"report_to": ["wandb"]})
    wandb.finish()
    wandb.teardown()
    for history, key in ((plain, "stability/margin"), (trainer, "train/stability/margin")):
        deadline = time.monotonic() + 60  # W&B's own process may still be writing when it says that it has finished
        while not (found := offline_history(tmp_path, key)) and time.monotonic() < deadline:
            time.sleep(0.2)
        assert found == [row["stability/margin"] for row in history.rows]


def test_jsonl_gets_the_keys_and_outcomes(tmp_path):
    for host in HOSTS:
        log = JsonlLog(tmp_path / f"{host}.jsonl")
        history, _ = HOSTS[host](tmp_path / host, log=log)
        rows = History.read_jsonl(log.path).rows
        assert rows == history.rows
        assert all({*KEYS, "step", "probe/outcome"} <= set(row) for row in rows)


def test_no_host_is_imported_before_it_is_used():
    script = (
        "import sys, thalweg, thalweg.integrations, thalweg.curvature.probes.probing, thalweg.integrations.accelerate\n"
        "found = {'transformers', 'lightning', 'accelerate', 'wandb', 'tensorboard'} & set(sys.modules)\n"
        "assert not found, found"
    )
    subprocess.run([sys.executable, "-c", script], check=True)


def margins_by_step(history):
    return {row["step"]: pytest.approx(row["stability/margin"], rel=1e-6) for row in history.rows}


def scalars(folder, prefix=""):
    """Margins by step, from event files; every key must be there."""
    from tensorboard.backend.event_processing.event_accumulator import EventAccumulator

    found = {}
    for file in folder.rglob("events.out.*"):
        events = EventAccumulator(str(file)).Reload()
        tags = set(events.Tags()["scalars"])
        if prefix + "stability/margin" in tags:
            assert {prefix + key for key in KEYS} <= tags
            found |= {event.step: event.value for event in events.Scalars(prefix + "stability/margin")}
    return found


def offline_history(folder, key):
    """The values of a key, in order, from the transaction logs of offline runs; every key must be there."""
    from wandb.proto import wandb_internal_pb2

    prefix = key.removesuffix("stability/margin")
    values = []
    for file in folder.rglob("run-*.wandb"):
        for data in leveldb_records(file.read_bytes()):
            record = wandb_internal_pb2.Record()
            record.ParseFromString(data)
            items = {item.key or "/".join(item.nested_key): json.loads(item.value_json) for item in record.history.item}
            if key in items:
                assert {prefix + name for name in KEYS} <= set(items)
                values.append(items[key])
    return values


def leveldb_records(data):
    """The records of W&B's log: 7 bytes, then LevelDB's blocks of 32 KiB, whose parts have checksum, length and kind."""
    position, record = 7, b""
    while position + 7 <= len(data):
        room = 32768 - position % 32768
        if room < 7:
            position += room
            continue
        _, length, kind = struct.unpack_from("<IHB", data, position)
        record += data[position + 7 : position + 7 + length]
        position += 7 + length
        if kind in (1, 4):  # whole, last; 2 and 3 are the first and the middle parts of one
            yield record
            record = b""
