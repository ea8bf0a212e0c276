"""The demo in its quick form: every part runs, is saved, resumes, and the page shows what the result holds."""

from __future__ import annotations

import hashlib
import json
import os
import re
import signal
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
import pytest

from thalweg.experiments.demo import QUICK, Demo, demo
from thalweg.experiments.demo_page import write_page
from thalweg.experiments.small_runs import TABLE
from thalweg.outcomes import ThalwegError


@pytest.fixture(scope="module")
def lived(tmp_path_factory: pytest.TempPathFactory) -> tuple[Path, Demo]:
    out = tmp_path_factory.mktemp("demo") / "out"
    return out, demo(out, scale=QUICK, progress=False)


def test_the_prediction_was_written_before_training_and_not_touched_since(lived: tuple[Path, Demo]) -> None:
    out, result = lived
    file = out / "prediction.json"
    assert hashlib.sha256(file.read_bytes()).hexdigest() == result.prediction_sha256
    facts = json.loads(file.read_text())
    assert facts["loss"] == result.prediction.loss and tuple(facts["interval"]) == result.interval
    assert facts["table_sha256"] == hashlib.sha256(TABLE.read_bytes()).hexdigest()
    assert file.stat().st_mtime_ns < (out / "run" / "run.json").stat().st_mtime_ns


def test_the_result_is_what_the_run_folder_holds(lived: tuple[Path, Demo]) -> None:
    out, result = lived
    record = json.loads((out / "run" / "run.json").read_text())
    assert record["status"] == "complete" and record["result"]["loss"] == result.reached
    assert result.steps.tolist() == list(range(1, 41)) and np.isfinite(result.losses).all()
    assert [row["step"] for row in result.history.rows] == [10, 20, 30, 40]
    assert [row["probe/outcome"] for row in result.history.rows] == ["OK"] * 4
    assert 0 < result.sharpest < 1, "AdamW on a small GPT stays below its edge"
    assert len(result.table_measured) == len(result.table_predicted) == 130
    assert result.survey.names == ("start 0, data 0", "start 0, data 1", "start 1, data 0")
    assert len(list((out / "seeds").glob("*/run.json"))) == 3
    assert result.peak_bytes > 50e6 and result.cpu_seconds > 1


def test_ten_lines_that_agree_with_the_result(lived: tuple[Path, Demo]) -> None:
    _, result = lived
    lines = result.summary().splitlines()
    assert len(lines) == 10
    assert f"{result.reached:.3f}" in lines[2] and ("inside" in lines[2]) == result.inside
    assert max(map(len, lines)) < 160


def test_it_saves_loads_and_is_not_overwritten(lived: tuple[Path, Demo]) -> None:
    out, result = lived
    assert Demo.load(out / "demo.json").summary() == result.summary()
    with pytest.raises(ThalwegError, match="--resume"):
        demo(out, scale=QUICK)


def test_the_page_has_every_figure(lived: tuple[Path, Demo]) -> None:
    out, result = lived
    page = write_page(result, out / "report.html").read_text()
    titles = re.findall(r'alt="([^".]+)', page)
    for wanted in (
        "Predicted against reached", "wsd(0", "Loss", "How far each step could have gone", "Critical sharpness and its threshold",
        "Largest eigenvalue and the edge of stability", "What the probe cost", "Both measures meet at the edge",
        "Similarity of errors", "Loss barriers", "Flatness", "The two-valley landscape", "Runs that end in the flat valley",
    ):  # fmt: skip
        assert wanted in titles, wanted
    assert result.prediction_sha256[:16] in page


def test_ctrl_c_leaves_a_folder_that_resumes(tmp_path: Path) -> None:
    out = tmp_path / "out"
    command = [sys.executable, "-m", "thalweg", "demo", "--quick", "--out", str(out)]
    process = subprocess.Popen(
        command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, start_new_session=True
    )
    metrics, deadline = out / "run" / "metrics.jsonl", time.monotonic() + 120
    while not (metrics.is_file() and metrics.read_text().count("\n") >= 3):
        assert time.monotonic() < deadline and process.poll() is None
        time.sleep(0.005)
    os.killpg(process.pid, signal.SIGINT)
    _, err = process.communicate(timeout=120)
    assert process.returncode == 130
    assert f"Continue with: thalweg demo --out {out} --resume --quick" in err and "Traceback" not in err
    written = (out / "prediction.json").read_bytes()
    done = subprocess.run([*command, "--resume"], capture_output=True, text=True, check=True)
    assert len(done.stdout.splitlines()) == 10
    assert (out / "prediction.json").read_bytes() == written
    steps = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if "gradient_norm" in line]
    assert steps == list(range(1, 41)), "no line twice, none missing"
    probed = [json.loads(line)["step"] for line in metrics.read_text().splitlines() if "stability/margin" in line]
    assert probed == [10, 20, 30, 40]
