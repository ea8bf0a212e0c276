from __future__ import annotations

import math

import numpy as np
import pytest

from thalweg.curvature import Band
from thalweg.curvature.finding.trials import Trials
from thalweg.figures import Points, Threshold


def test_quantiles_of_known_numbers():
    band = Band(np.arange(1.0, 22.0), lr=0.5)
    assert (band.safe, band.edge, band.climbs) == (3.0, 11.0, 0)
    assert band.spread == pytest.approx(19 / 3)
    one = Band(np.array([0.3]), lr=0.1)
    assert (one.safe, one.edge, one.spread) == (0.3, 0.3, 1.0)


def test_safe_is_reached_by_nine_tenths():
    for n in range(1, 60):
        values = np.random.default_rng(n).random(n)
        band = Band(values, lr=1.0)
        assert band.safe in values
        assert (values >= band.safe).mean() >= 0.9
        assert band.safe <= band.edge


def test_climbs_count_as_0():
    band = Band(np.array([0.0, 0.0, 4.0]), lr=1.0)
    assert (band.safe, band.edge, band.climbs) == (0.0, 0.0, 2)
    assert band.spread == math.inf
    assert "2 of them climbed" in band.summary()
    assert [type(mark) for mark in band.figures()[0].marks] == [Points, Threshold]  # nothing at 0 on a log axis


def test_a_band_without_a_number():
    band = Band(np.empty(0), lr=1.0, note="Nothing moved.")
    assert math.isnan(band.safe)
    assert math.isnan(band.edge)
    assert band.summary() == "all groups: no critical learning rate was measured. Nothing moved."
    assert band.figures() == ()


def test_trials_say_where_the_edge_is(tmp_path):
    trials = Trials(np.array([0.1, 0.2, 0.4]), np.array([1.0, 1.5, np.inf]), start=2.0, steps=100, spent=330)
    band = Band(np.array([0.3, 0.5, 0.7]), 0.1, trials=trials)
    assert (band.safe, band.typical, band.edge) == (0.2, 0.5, pytest.approx(0.2 * 2**0.5))
    assert "training diverges between lr 2e-1 and 4e-1 (trials of 100 steps, 330 steps in all)" in band.summary()
    assert [figure.name for figure in band.figures()] == ["critical_lrs", "trials"]
    assert Band.load(band.save(tmp_path / "band.json")).edge == band.edge
    calm = Band(np.array([0.3]), 0.1, trials=Trials(np.array([0.1]), np.array([1.0]), 2.0, 100, 125))
    assert (calm.safe, calm.edge) == (0.1, math.inf)
    assert "edge ∞" in calm.summary()
    assert calm.plot(tmp_path / "calm.svg")


def test_summary_figure_and_file(tmp_path):
    groups = (Band(np.array([0.4]), 0.1, "group 0"), Band(np.array([4.0]), 0.1, "group 1"))
    band = Band(np.array([0.2, 0.3]), 0.1, groups=groups, note="Re-ask.")
    lines = band.summary().splitlines()
    assert lines[0].startswith("all groups: safe 2e-1, edge 2.5e-1")
    assert lines[2] == "  group 1 alone: safe 4e0, edge 4e0, spread 1"
    assert lines[-1] == "Re-ask."
    (figure,) = band.figures()
    assert [mark.label for mark in figure.marks] == [
        "all groups",
        "group 0",
        "group 1",
        "safe 2e-1",
        "edge 2.5e-1",
        "lr 1e-1",
    ]
    assert band.plot(tmp_path / "band.svg")
    again = Band.load(band.save(tmp_path / "band.json"))
    assert again.summary() == band.summary()
    assert again.critical_lrs.tolist() == [0.2, 0.3]
