"""Sweeps: nothing lost and nothing doubled, whatever ends a sweep; one bad run does not stop the others."""

from __future__ import annotations

import math
import os
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path

import pytest

from tests.trainings import count, stumble
from thalweg.outcomes import ThalwegError
from thalweg.rundir import RunDir, config_hash, locked
from thalweg.sweeps import Command, grid, status, sweep

STEPS = 15
CONFIGS = grid(x=list(range(6)), steps=[STEPS])
posix = pytest.mark.skipif(sys.platform == "win32", reason="sends POSIX signals")


def until(condition: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 60
    while not condition():
        assert time.monotonic() < deadline, "waited a minute in vain"
        time.sleep(0.02)


def start(out: Path, workers: int = 2) -> subprocess.Popen[bytes]:
    root = Path(__file__).resolve().parent.parent
    return subprocess.Popen(
        [sys.executable, "-m", "tests.trainings", str(out), str(workers)],
        cwd=root,
        start_new_session=True,
        stderr=subprocess.PIPE,
    )


def statuses(out: Path) -> list[str]:
    return list(status(out)["status"]) if (out / "sweep.json").is_file() and list(out.glob("*/run.json")) else []


def all_rows(out: Path) -> dict[str, int]:
    return {path.parent.name: len(path.read_bytes().splitlines()) for path in out.glob("*/metrics.jsonl")}


def check_all_done_once(out: Path) -> None:
    """Resume the sweep: every run complete, no row lost or doubled, and what was complete is not trained again.

    A run that was stopped after its last line and before its folder said so is called again; it then finds all its rows.
    """
    complete = [path.parent.name for path in out.glob("*/run.json") if RunDir.open(path.parent).status == "complete"]
    assert complete, "the sweep was stopped before anything was complete: nothing would be shown"
    table = sweep(CONFIGS, train=count, out=out, workers=2, progress=False)
    assert list(table["x"]) == list(range(6))
    assert list(table["status"]) == ["complete"] * 6
    assert list(table["total"]) == [x * sum(range(STEPS)) for x in range(6)]
    folders = sorted(path.parent.name for path in out.glob("*/run.json"))
    assert folders == sorted(config_hash(config) for config in CONFIGS)
    for name in folders:
        assert [row["step"] for row in RunDir.open(out / name).metrics()] == list(range(STEPS))
    for name in complete:
        assert (out / name / "finished.txt").read_text() == "once\n"


@pytest.mark.parametrize("workers", [1, 2])
def test_one_row_a_run_in_the_order_of_the_configs(tmp_path: Path, workers: int) -> None:
    configs = [*grid(x=[3, 1, 2], steps=[2]), {"steps": 2, "x": 1}]  # the last is the second again
    table = sweep(configs, train=count, out=tmp_path / "sweep", workers=workers, progress=False)
    assert table[["x", "total", "status"]].to_numpy().tolist() == [
        [3, 3, "complete"],
        [1, 1, "complete"],
        [2, 2, "complete"],
    ]
    assert list(table["run"]) == [config_hash(config) for config in configs[:3]]
    assert status(tmp_path / "sweep").set_index("run").loc[table["run"], "total"].tolist() == [3, 1, 2]


def test_complete_runs_are_skipped_and_a_sweep_can_grow(tmp_path: Path) -> None:
    sweep(CONFIGS[:2], train=count, out=tmp_path, progress=False)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.glob("*/run.json")}
    table = sweep(grid(x=[0, 1, 7], steps=[STEPS]), train=count, out=tmp_path, progress=False)
    assert list(table["x"]) == [0, 1, 7]
    assert {path: path.stat().st_mtime_ns for path in before} == before


@posix
def test_a_sweep_killed_in_the_middle_resumes_with_nothing_lost_or_doubled(tmp_path: Path) -> None:
    process = start(tmp_path)
    until(lambda: statuses(tmp_path).count("complete") >= 1)
    process.kill()
    process.wait()
    # the workers end with their sweep: no row is written after it is gone
    until(lambda: all(_free(path.parent) for path in tmp_path.glob("*/run.json")))
    rows = all_rows(tmp_path)
    assert statuses(tmp_path).count("complete") < 6
    time.sleep(0.2)
    assert all_rows(tmp_path) == rows
    check_all_done_once(tmp_path)


def _free(folder: Path) -> bool:
    with locked(folder) as lock:
        return lock is not None


@posix
@pytest.mark.parametrize(("workers", "to_group"), [(2, True), (2, False), (1, True)])
def test_ctrl_c_stops_cleanly_and_resumes(tmp_path: Path, workers: int, to_group: bool) -> None:
    process = start(tmp_path, workers)
    until(lambda: statuses(tmp_path).count("complete") >= 1 and "running" in statuses(tmp_path))
    if to_group:  # what a terminal does
        os.killpg(process.pid, signal.SIGINT)
    else:
        process.send_signal(signal.SIGINT)
    _, errors = process.communicate()
    assert errors.decode().strip().endswith("KeyboardInterrupt")
    found = statuses(tmp_path)
    assert "interrupted" in found and "running" not in found
    check_all_done_once(tmp_path)


@posix
def test_failing_runs_are_reported_and_the_others_go_on(tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    configs = grid(kind=["raise", "exit", "die", "none", "good"])
    table = sweep(configs, train=stumble, out=tmp_path, workers=2, progress=False).set_index("kind")
    assert table["status"].to_dict() == {
        "raise": "failed",
        "exit": "failed",
        "die": "failed",
        "none": "complete",
        "good": "complete",
    }
    assert table.loc["raise", "error"] == "ZeroDivisionError: x is not right"
    assert table.loc["exit", "error"] == "SystemExit: 3"
    assert "died (exit code -9)" in table.loc["die", "error"]
    assert math.isnan(table.loc["good", "loss"])
    assert capfd.readouterr().err.count("failed: ") == 3
    assert "ZeroDivisionError" in (tmp_path / config_hash({"kind": "raise"}) / "error.txt").read_text()
    # a failed run is tried again, and can succeed
    table = sweep(configs[:1], train=stumble, out=tmp_path, progress=False)
    assert list(table["status"]) == ["failed"]


PROGRAM = """
import json, pathlib, sys, time
x, out, kind = float(sys.argv[1]), pathlib.Path(sys.argv[2]), sys.argv[3]
print("working on", x)
if kind == "forever":
    while True:
        (out / "beat.txt").open("a").write("x")
        time.sleep(0.02)
if kind == "fail":
    sys.exit("no such optimizer")
(out / "result.json").write_text(json.dumps({"loss": x * x}))
"""


def test_a_command_is_a_training(tmp_path: Path) -> None:
    program = tmp_path / "my train.py"
    program.write_text(PROGRAM)
    command = f"'{sys.executable}' '{program}' {{x}} {{rundir}} {{kind}}"
    configs = [{"x": 1.5, "kind": "fine"}, {"x": 2.0, "kind": "fail"}]
    table = sweep(configs, command=command, out=tmp_path / "my sweep", progress=False)
    assert list(table["status"]) == ["complete", "failed"]
    assert table["loss"][0] == 2.25
    assert "code 1" in table["error"][1] and "no such optimizer" in table["error"][1]
    output = tmp_path / "my sweep" / table["run"][0] / "output.txt"
    assert output.read_text() == "working on 1.5\n"


@posix
def test_a_command_ends_with_its_killed_sweep(tmp_path: Path) -> None:
    program, out = tmp_path / "train.py", tmp_path / "sweep"
    program.write_text(PROGRAM)
    sweeping = (
        "import sys; from thalweg.sweeps import sweep\n"
        "if __name__ == '__main__':\n"
        " sweep([{'x': 1.0, 'kind': 'forever'}], command=sys.argv[1], out=sys.argv[2], progress=False)"
    )
    (tmp_path / "sweeping.py").write_text(sweeping)
    command = f"'{sys.executable}' '{program}' {{x}} {{rundir}} {{kind}}"
    process = subprocess.Popen([sys.executable, str(tmp_path / "sweeping.py"), command, str(out)])
    folder = out / config_hash({"x": 1.0, "kind": "forever"})
    until(lambda: (folder / "beat.txt").is_file())
    process.kill()
    process.wait()
    until(lambda: _free(folder))  # the command holds the lock of its folder as long as it lives
    beats = (folder / "beat.txt").stat().st_size
    time.sleep(0.1)
    assert (folder / "beat.txt").stat().st_size == beats


def test_values_fill_a_command_without_a_shell() -> None:
    assert Command("run --name={name} '{rundir}/x'").arguments({"name": "a b; rm -rf"}, Path("/o")) == [
        "run",
        "--name=a b; rm -rf",
        "/o/x",
    ]


def test_bad_input_is_told_before_anything_runs(tmp_path: Path) -> None:
    out = tmp_path / "sweep"
    for options, expected in (
        ({}, "exactly one of the two"),
        ({"train": count, "command": "x"}, "exactly one of the two"),
        ({"train": count, "workers": 0}, "at least 1 process"),
        ({"command": "train --lr {lr}"}, "but not lr"),
        ({"train": lambda config, rundir: {}, "workers": 2}, "other processes can import"),
    ):
        with pytest.raises(ThalwegError, match=expected) as caught:
            sweep(CONFIGS, out=out, **options)  # type: ignore[arg-type]
        assert "\n" not in str(caught.value)
        assert not out.exists()
    with pytest.raises(ThalwegError, match="at least one config"):
        sweep([], train=count, out=out)
    with pytest.raises(ThalwegError, match=r"sweep\.json"):
        status(tmp_path)


def test_a_folder_of_something_else_is_refused(tmp_path: Path) -> None:
    sweep(grid(x=[1], steps=[1]), train=count, out=tmp_path / "a", progress=False)
    with pytest.raises(ThalwegError, match=r"but it is of train tests\.trainings\.count"):
        sweep(grid(kind=["none"]), train=stumble, out=tmp_path / "a")
    with pytest.raises(ThalwegError, match="new or empty folder"):
        sweep(grid(kind=["none"]), train=stumble, out=tmp_path)
    with locked(tmp_path / "a"), pytest.raises(ThalwegError, match="no sweep is running"):
        sweep(grid(x=[1], steps=[1]), train=count, out=tmp_path / "a")


@pytest.mark.parametrize("moment", ["create", "finish"])
def test_an_interrupt_between_two_states_leaves_no_run_that_seems_to_run(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, moment: str
) -> None:
    original = getattr(RunDir, moment)

    def interrupted(*arguments, **options):
        original(*arguments, **options) if moment == "create" else None
        raise KeyboardInterrupt

    with monkeypatch.context() as patch:
        patch.setattr(
            RunDir, moment, classmethod(lambda _, *a, **o: interrupted(*a, **o)) if moment == "create" else interrupted
        )
        with pytest.raises(KeyboardInterrupt):
            sweep(grid(x=[1], steps=[2]), train=count, out=tmp_path, progress=False)
    assert statuses(tmp_path) == ["interrupted"]
    table = sweep(grid(x=[1], steps=[2]), train=count, out=tmp_path, progress=False)
    assert table["status"].tolist() == ["complete"]
