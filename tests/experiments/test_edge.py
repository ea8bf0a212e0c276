"""The edge of stability, the published phenomenon: both measures reach their threshold and stay."""

from __future__ import annotations

import numpy as np

from thalweg.experiments.edge import edge_figures, train_to_the_edge


def test_sharpness_and_margin_meet_at_one_and_stay() -> None:
    history = train_to_the_edge(steps=800, every=20)
    assert {row["probe/outcome"] for row in history.rows} == {"OK"}
    steps, margin = history.column("stability/margin")
    _, sharpness = history.column("sharpness/hessian")
    units = sharpness * 0.05 / 2
    early, late = steps <= 100, steps >= 600
    assert units[early].max() < 0.3 and margin[early].min() > 10, "it starts far from the edge"
    assert abs(np.median(units[late]) - 1) < 0.02
    assert abs(np.median(margin[late]) - 1) < 0.1
    marks = edge_figures(history)[0].marks
    np.testing.assert_array_equal(marks[0].y, margin)
    np.testing.assert_array_equal(marks[1].y, units)
