from __future__ import annotations

import json

import numpy as np
import pytest

from thalweg.curvature import History, JsonlLog, tensorboard_log
from thalweg.figures import Line, Points, Threshold
from thalweg.outcomes import ThalwegError


def row(step, margin=None, outcome="OK", **more):
    made = {"step": step, **more, "probe/forward_passes": 8.0, "probe/seconds": 0.25, "probe/outcome": outcome}
    if margin is not None:
        made |= {"stability/margin": margin, "lr/critical": margin * 0.01, "sharpness/threshold_critical": 200.0}
        if margin > 0:
            made["sharpness/critical"] = 200.0 / margin
    return made


def run():
    """Hundreds at the start, 3 at the end of warmup, a plateau at 8, rising in decay; one climb and one missing."""
    margins = [400.0, 300.0, 200.0, 3.0, 8.0, 9.0, 8.0, 60.0, 70.0]
    rows = [row(100 * (i + 1), margin) for i, margin in enumerate(margins)]
    rows[3] |= {"sharpness/preconditioned": 100.0, "sharpness/threshold": 400.0}
    rows[6] |= {"sharpness/preconditioned": 300.0, "sharpness/threshold": 400.0}
    return History((*rows, row(1000, 0.0, "NOT_DESCENT"), row(1100, None, "NO_UPDATE")))


def test_what_the_margins_say():
    history = run()
    assert history.lowest_margin == (3.0, 400)
    assert history.plateau == 8.0  # the median from step 350 to 850: 3, 8, 9, 8, 60
    assert history.threshold_fraction.tolist() == [0.25, 0.75]


def test_summary():
    text = run().summary()
    assert "11 steps measured, from 100 to 1100" in text
    assert "lowest margin 3 at step 400, plateau 8 " in text
    assert "preconditioned sharpness at 0.5 of its edge of stability (median), 0.75 at most" in text
    assert "1 × NOT_DESCENT: The loss of this batch rises" in text
    assert "1 × NO_UPDATE" in text
    assert "cost 2.75 s, 88 forward passes" in text
    assert "no edge of stability: RMSprop" in History((row(1, 2.0),), note="RMSprop has none.").summary()


def test_a_history_without_rows_or_margins():
    assert History(()).summary() == "no step was measured"
    assert History(()).figures() == ()
    assert History(()).lowest_margin is None
    only = History((row(5, None, "NO_UPDATE"),))
    assert only.plateau is None
    assert "margin" not in only.summary()
    assert [figure.name for figure in only.figures()] == ["probe_cost"]


def test_figures():
    figures = {figure.name: figure for figure in run().figures()}
    assert list(figures) == ["margin", "critical_sharpness", "sharpness", "probe_cost"]
    margin = figures["margin"]
    assert margin.y_scale == "log"
    line, threshold, climbs = margin.marks
    assert isinstance(line, Line)
    assert list(line.y) == [400.0, 300.0, 200.0, 3.0, 8.0, 9.0, 8.0, 60.0, 70.0]
    assert threshold == Threshold(1.0, "this step raises its own loss")
    assert isinstance(climbs, Points)
    assert list(climbs.x) == [1000]
    sharpness, edge = figures["critical_sharpness"].marks
    assert (sharpness.style, edge.style) == ("solid", "dashed")
    assert set(edge.y) == {200.0}
    value, edge = figures["sharpness"].marks
    assert list(value.y) == [100.0, 300.0]
    assert list(edge.y) == [400.0, 400.0]
    assert figures["probe_cost"].marks[0].y[-1] == 2.75
    for figure in figures.values():
        low, high = figure.extent("y")
        assert 0 < low <= high


def test_plot_draws_every_figure(tmp_path):
    path = tmp_path / "history.svg"
    run().plot(path)
    assert path.stat().st_size > 1000


def test_to_frame():
    frame = run().to_frame()
    assert frame["step"].tolist() == list(range(100, 1101, 100))
    assert list(frame.columns[:2]) == ["step", "sharpness/critical"]
    assert frame["probe/outcome"].tolist()[-2:] == ["NOT_DESCENT", "NO_UPDATE"]
    assert np.isnan(frame["stability/margin"].iloc[-1])
    assert set(run().units) >= set(frame.columns)


def test_save_and_load(tmp_path):
    history = run()
    assert History.load(history.save(tmp_path / "history.json")) == history


def test_jsonl_round_trip_and_resume(tmp_path):
    history = run()
    path = history.write_jsonl(tmp_path / "probe.jsonl")
    assert all(isinstance(json.loads(line), dict) for line in path.read_text().splitlines())
    assert History.read_jsonl(path) == history
    assert [r["step"] for r in History.read_jsonl(path, restored_step=350).rows] == [100, 200, 300]


def test_jsonl_log_drops_what_came_after_the_restored_step(tmp_path):
    path = tmp_path / "logs" / "probe.jsonl"
    log = JsonlLog(path)
    for made in run().rows:
        log.row(made)
    with path.open("a") as file:
        file.write('{"step": 1100, "stability')  # the process was killed here
    again = JsonlLog(path, restored_step=500)
    again({"stability/margin": 5.0}, step=600)
    rows = History.read_jsonl(path).rows
    assert [r["step"] for r in rows] == [100, 200, 300, 400, 500, 600]
    assert rows[:5] == run().rows[:5]
    assert rows[5] == {"step": 600, "stability/margin": 5.0}


def test_jsonl_log_continues_a_file_and_heals_its_torn_end(tmp_path):
    path = tmp_path / "probe.jsonl"
    path.write_text('{"step": 1}\n{"st')
    JsonlLog(path).row({"step": 2})
    assert [r["step"] for r in History.read_jsonl(path).rows] == [1, 2]


def test_unreadable_files(tmp_path):
    with pytest.raises(ThalwegError, match="expected a JSON Lines file"):
        History.read_jsonl(tmp_path / "none.jsonl")
    (tmp_path / "bad.jsonl").write_text('{"step": 1}\nnot json\n{"step": 2}\n')
    with pytest.raises(ThalwegError, match=r"bad\.jsonl, line 2: not a JSON object"):
        History.read_jsonl(tmp_path / "bad.jsonl")


def test_tensorboard():
    written = []

    class Writer:
        def add_scalar(self, key, value, step):
            written.append((key, value, step))

    tensorboard_log(Writer())({"a/b": 1.0, "c": 2.0}, step=7)
    assert written == [("a/b", 1.0, 7), ("c", 2.0, 7)]
