"""The run folder: what is written comes back, whatever moment the process died."""

from __future__ import annotations

import json
import math
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from thalweg.outcomes import ThalwegError
from thalweg.rundir import RunDir, canonical, config_hash, from_strict, locked, to_strict

CONFIG = {"peak_lr": 4e-3, "steps": 300}

values = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(alphabet="abc λ\n"),
    lambda inner: st.lists(inner, max_size=3) | st.dictionaries(st.text(alphabet="xyz"), inner, max_size=3),
    max_leaves=8,
)


@given(values)
@settings(max_examples=200)
def test_strict_json_round_trips_every_float(value: object) -> None:
    text = json.dumps(to_strict(value), allow_nan=False)  # would raise on a NaN that slipped through
    assert repr(from_strict(json.loads(text))) == repr(value)  # repr: NaN differs from itself


def test_non_finite_floats_are_named_strings_and_numpy_becomes_plain() -> None:
    assert to_strict([math.nan, math.inf, -math.inf]) == ["NaN", "Infinity", "-Infinity"]
    assert to_strict({"a": np.float32(0.5), "b": np.int64(3), "c": (1, 2)}) == {"a": 0.5, "b": 3, "c": [1, 2]}


def test_a_config_has_one_text_and_one_name() -> None:
    assert canonical({"b": 1, "a": 4e-3}) == '{"a":0.004,"b":1}'
    assert config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1}) != config_hash({"a": 1, "b": 3})


def test_what_is_written_is_read(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path / "run", CONFIG)
    assert RunDir.open(run.path).status == "running"
    run.log({"loss": 6.2}, step=0)
    run.log({"loss": math.nan, "outcome": "OK"}, step=1)
    assert [row["step"] for row in RunDir.open(run.path).metrics()] == [0, 1]  # flushed before it is closed
    run.finish({"loss": -math.inf})
    again = RunDir.open(run.path)
    assert (again.status, again.config, again.result) == ("complete", CONFIG, {"loss": -math.inf})
    assert again.metrics()[0] == {"step": 0, "loss": 6.2}
    assert math.isnan(again.metrics()[1]["loss"])
    assert {"thalweg", "python", "torch"} <= set(again.record["versions"])
    assert again.record["machine"]["cores"] >= 1
    assert again.record["started"] <= again.record["finished"]


def test_a_complete_run_stays_complete_and_a_stopped_one_runs_again(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    run.interrupt()
    assert RunDir.open(tmp_path).status == "interrupted"
    resumed = RunDir.create(tmp_path, CONFIG)
    assert resumed.status == "running"
    assert resumed.record["started"] == run.record["started"]
    resumed.fail("ValueError: no")
    assert RunDir.open(tmp_path).record["error"] == "ValueError: no"
    RunDir.create(tmp_path, CONFIG).finish({"loss": 1.0})
    assert RunDir.create(tmp_path, CONFIG).result == {"loss": 1.0}
    assert RunDir.open(tmp_path).record["error"] is None


def test_rewind_drops_the_rows_past_a_step(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    for step in range(1, 6):
        run.log({"loss": math.inf if step == 2 else 1.0 / step}, step=step)
    run.rewind(3)
    run.log({"loss": 0.5}, step=4)
    assert [(row["step"], row["loss"]) for row in run.metrics()] == [(1, 1.0), (2, math.inf), (3, 1 / 3), (4, 0.5)]


def test_a_torn_last_line_is_dropped_for_reading_and_cut_off_before_writing(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    run.log({"loss": 1.0}, step=0)
    run.close()
    with (tmp_path / "metrics.jsonl").open("ab") as file:
        file.write(b'{"step": 1, "lo')
    assert [row["step"] for row in RunDir.open(tmp_path).metrics()] == [0]
    again = RunDir.create(tmp_path, CONFIG)
    again.log({"loss": 2.0}, step=1)
    assert again.metrics() == [{"step": 0, "loss": 1.0}, {"step": 1, "loss": 2.0}]


def test_a_broken_line_in_the_middle_is_an_error_with_its_number(tmp_path: Path) -> None:
    RunDir.create(tmp_path, CONFIG)
    (tmp_path / "metrics.jsonl").write_text('{"step": 0}\n{"st\n{"step": 2}\n')
    with pytest.raises(ThalwegError, match="line 2"):
        RunDir.open(tmp_path).metrics()


def test_checkpoints_are_listed_by_step(tmp_path: Path) -> None:
    run = RunDir.create(tmp_path, CONFIG)
    assert run.checkpoints() == {}
    for step in (100, 20):
        run.checkpoint(step).parent.mkdir(exist_ok=True)
        run.checkpoint(step).touch()
    assert list(run.checkpoints()) == [20, 100]
    assert run.checkpoints()[20] == run.checkpoint(20)


@pytest.mark.parametrize(
    ("prepare", "expected"),
    [
        (lambda path: RunDir.create(path, {**CONFIG, "steps": 600}), "steps=600 instead of 300"),
        (lambda path: (path / "thesis.tex").write_text("x"), "new or empty folder"),
        (lambda path: (path / "run.json").write_text('{"config": {'), "not JSON"),
        (lambda path: (path / "run.json").write_text('{"a": 1}'), "no config and status"),
    ],
)
def test_a_folder_of_something_else_is_refused(tmp_path: Path, prepare: object, expected: str) -> None:
    prepare(tmp_path)  # type: ignore[operator]
    with pytest.raises(ThalwegError, match=expected) as caught:
        RunDir.create(tmp_path, CONFIG)
    assert "\n" not in str(caught.value)


def test_bad_input_is_told_in_one_line(tmp_path: Path) -> None:
    with pytest.raises(ThalwegError, match=r"run\.json"):
        RunDir.open(tmp_path / "nowhere")
    with pytest.raises(ThalwegError, match="Write a schedule as str"):
        RunDir.create(tmp_path / "new", {"schedule": object()})
    assert not (tmp_path / "new" / "run.json").exists()


def test_a_lock_is_held_by_one_process_and_let_go_with_it(tmp_path: Path) -> None:
    program = (
        "import sys\nfrom thalweg.rundir import locked\nwith locked(sys.argv[1]) as lock:\n print(lock is not None)"
    )
    other = [sys.executable, "-c", program, str(tmp_path)]
    with locked(tmp_path) as lock:
        assert lock is not None
        assert subprocess.run(other, capture_output=True, text=True, check=True).stdout == "False\n"
    assert subprocess.run(other, capture_output=True, text=True, check=True).stdout == "True\n"


def test_no_torch_is_imported() -> None:
    program = "import sys, thalweg.rundir, thalweg.checkpoints, thalweg.sweeps; print('torch' in sys.modules, 'pandas' in sys.modules)"
    assert (
        subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True).stdout
        == "False False\n"
    )
