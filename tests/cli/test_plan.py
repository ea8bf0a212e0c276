"""`thalweg plan` on a table of one's own: search, sensitivities, divergence fitted on the runs, runs to do next."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest

from tests.cli.test_cli import run
from tests.laws.tables import grid_of_runs
from thalweg import laws
from thalweg.runs import Runs
from thalweg.schedules import Budget, parse

BUDGET = Budget(params=2e8, tokens=6e9, batch_tokens=1e6)
PLAN = ("plan", "--params", "200M", "--tokens", "6B", "--batch-tokens", "1M")


@pytest.fixture(scope="module")
def table(tmp_path_factory) -> Path:
    file = tmp_path_factory.mktemp("plan") / "runs.csv"
    grid_of_runs().frame.to_csv(file, index=False)
    return file


@pytest.fixture(scope="module")
def with_diverged(tmp_path_factory) -> Path:
    """The same runs, of which those with a peak of 8e-3 after a warmup of 50 diverged."""
    frame = grid_of_runs().frame
    hot = np.array(["(0.008" in text and "warmup=50" in text for text in frame.schedule])
    file = tmp_path_factory.mktemp("plan") / "diverged.csv"
    frame.assign(loss=frame.loss.where(~hot), diverged=hot).to_csv(file, index=False)
    return file


def test_a_search_finds_a_better_schedule_than_the_grid(capsys, table):
    answers = {}
    for flag in ((), ("--search",)):
        code, out, _ = run(capsys, *PLAN, "--runs", str(table), "--json", *flag)
        assert code == 0
        answers[flag] = json.loads(out, parse_constant=pytest.fail)
    grid, searched = answers.values()
    assert grid["searches"] == []
    spaces = [search["space"].split(",")[0] for search in searched["searches"]]
    assert spaces == ["Space('linear'", "Space('wsd'"], "the shapes of the table"
    assert searched["schedules"][0]["loss"] < grid["schedules"][0]["loss"]
    assert len(searched["schedules"]) == 10 < searched["candidates"]
    law = laws.OptLaw.fit(grid_of_runs())
    best = parse(searched["schedules"][0]["schedule"])
    assert law.predict(best, BUDGET).loss == pytest.approx(searched["schedules"][0]["loss"], rel=1e-9)


def test_with_runs_the_plan_says_what_it_hangs_on(capsys, table):
    _, out, _ = run(capsys, *PLAN, "--runs", str(table))
    assert "were irreducible (half the lowest measured loss): winner" in out
    assert "Without the 80 runs of the smallest models (50M params): winner" in out
    _, out, _ = run(capsys, *PLAN, "--runs", str(table), "--json")
    floor, small = json.loads(out, parse_constant=pytest.fail)["sensitivities"]
    assert isinstance(floor["moved"], float)
    assert small["stays"] in (True, False)


def test_runs_that_diverged_make_the_criterion(capsys, with_diverged):
    hot, mild = "linear(0.008, 6000, warmup=50)", "linear(0.003, 6000, warmup=200)"
    code, out, _ = run(capsys, *PLAN, hot, mild, "--runs", str(with_diverged))
    assert code == 0
    assert "Likely to diverge (LogisticDivergence, fitted on 320 runs in 20 cells, 40 diverged)" in out
    assert f"hence ranked last: 1 of 2, {hot}" in out
    _, out, _ = run(capsys, *PLAN, hot, "--runs", str(with_diverged), "--strict", "--json")
    assert json.loads(out, parse_constant=pytest.fail)["schedules"][0]["diverges"] is True
    assert run(capsys, *PLAN, hot, "--runs", str(with_diverged), "--strict")[0] == 3


def test_next_runs_are_those_of_the_library(capsys, table):
    candidates = ("linear(0.002, 6000, warmup=100)", "wsd(0.004, 6000, warmup=80)")
    _, out, _ = run(capsys, *PLAN, *candidates, "--runs", str(table), "--next-runs", "2", "--json")
    rows = json.loads(out, parse_constant=pytest.fail)["next_runs"]
    runs = Runs.from_frame(grid_of_runs().frame)
    expected = laws.next_runs(laws.OptLaw.fit(runs), BUDGET, candidates, 2, runs=runs)
    assert [row["schedule"] for row in rows] == [str(schedule) for schedule in expected.schedules]
    _, out, _ = run(capsys, *PLAN, *candidates, "--runs", str(table), "--next-runs", "2")
    assert out.endswith(expected.summary() + "\n")


def test_where_chooses_rows_and_options_reach_the_fit(capsys, table):
    _, out, _ = run(capsys, *PLAN, "--runs", str(table), "--where", "params > 6e7", "--law", "OptLaw(ridge=0)")
    assert "Without the 80 runs of the smallest models (100M params)" in out


def test_top_is_what_is_shown_and_the_saved_plan_is_whole(capsys, table, tmp_path):
    file = tmp_path / "plan.json"
    _, out, _ = run(capsys, *PLAN, "--runs", str(table), "--top", "3", "--save", str(file))
    assert sum("warmup=" in line and line[:4].strip(" =").isdigit() for line in out.splitlines()) == 3
    assert len(laws.Plan.load(file).schedules) > 10
