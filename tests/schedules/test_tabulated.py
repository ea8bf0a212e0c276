from __future__ import annotations

import numpy as np
import pytest

from thalweg import schedules as S
from thalweg.outcomes import ThalwegError


def test_conventions_of_values() -> None:
    v = [0.0, 0.5, 1.0, 0.25]
    s = S.from_values(v)
    assert [s(t) for t in (0, 0.99, 1, 2.5, 3, 3.99, 4, 100)] == [0.0, 0.0, 0.5, 1.0, 0.25, 0.25, 0.25, 0.25]
    assert s.values().tolist() == v
    assert s.integral(0.5, 3.5) == 0 + 0.5 + 1.0 + 0.125
    assert s.square_integral(1, 3) == 0.25 + 1.0
    assert s.roughness(0, 4) == 0.25 + 0.25 + 0.5625  # Σ(Δη)² over n − 1 differences
    assert s.roughness(0, 3) == s.roughness(0, 4)
    assert (s.steps, s.peak_lr) == (4, 1.0)


def test_a_tabulated_schedule_is_the_schedule() -> None:
    s = S.wsd(0.003, 2000, warmup=100, decay=0.2)
    log = S.from_values(s.values())
    assert log.phases == s.phases
    assert (log.peak_lr, log.final_peak_lr) == (s.peak_lr, s.final_peak_lr)
    # a left sum is off by half a step of the rise and fall
    assert log.integral(0, 2000) == pytest.approx(s.integral(0, 2000), abs=0.003)
    assert log.roughness(100, 1999) == pytest.approx(s.roughness(100, 1999), rel=1e-9)


def test_one_value() -> None:
    s = S.from_values([0.1])
    assert (s.steps, s(0), s.integral(0, 1), s.roughness(0, 1), s.phases) == (1, 0.1, 0.1, 0.0, (0, 0, 1))


def test_given_phases_are_kept() -> None:
    assert S.from_values([0.1, 0.2, 0.1], phases=(1, 1, 2)).phases == (1, 1, 2)
    assert S.from_segments([("linear", 5, 0.0, 1.0), ("cosine", 5, 1.0, 0.0)], phases=(5, 5, 6)).phases == (5, 5, 6)


def test_segments_are_the_factories() -> None:
    rows = [("linear", 10, 0.0, 0.1), ("constant", 70, 0.1, 0.1), ("sqrt", 20, 0.1, 0.01)]
    s = S.from_segments(rows)
    assert s == S.wsd(0.1, 100, warmup=10, decay=20, shape="sqrt", final_lr=0.01)
    assert S.from_segments(rows, ramp=4) == S.wsd(0.1, 100, warmup=10, decay=20, shape="sqrt", final_lr=0.01, ramp=4)


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S.from_values([]), r"lrs: got \[\], expected a non-empty array"),
        (lambda: S.from_values([[0.1, 0.2]]), r"lrs: .* not \(1, 2\)"),
        (lambda: S.from_values(0.1), "lrs: got 0.1"),
        (lambda: S.from_values([0.1, float("nan")]), r"lrs\[1\]: got nan, expected a finite learning rate"),
        (lambda: S.from_values([0.1, float("inf")]), r"lrs\[1\]: got inf"),
        (lambda: S.from_values([0.1, 0.2, -0.1]), r"lrs\[2\]: got -0.1"),
        (lambda: S.from_values(["a"]), "lrs: got"),
        (lambda: S.from_values([0.1, 0.2], phases=(0, 1, 3)), r"phases\[2\]: got 3, .* at most 2"),
        (lambda: S.from_values([0.1, 0.2], phases=(1, 0, 2)), r"phases\[1\]: got 0, .* at least 1"),
        (lambda: S.from_values([0.1, 0.2], phases=(1, 2)), "phases: got .* expected three steps"),  # type: ignore[arg-type]
        (lambda: S.from_segments([]), r"segments: got \[\], expected a non-empty list"),
        (lambda: S.from_segments([("step", 5, 1.0, 0.0)]), r"segments\[0\]: got .* with a shape of constant, linear"),
        (lambda: S.from_segments([("linear", 5, 1.0)]), r"segments\[0\]: got"),  # type: ignore[list-item]
        (lambda: S.from_segments([("linear", 5, 1.0, 0.0, 2.0)]), r"segments\[0\]: got .* a power if and only if"),
        (lambda: S.from_segments([("polynomial", 5, 1.0, 0.0, 0.0)]), r"segments\[0\] power: got 0.0"),
        (lambda: S.from_segments([("linear", 0, 1.0, 0.0)]), r"segments\[0\] steps: got 0"),
        (lambda: S.from_segments([("constant", 5, 1.0, 0.0)]), r"segments\[0\]: .* Write 'linear' for a line"),
        (lambda: S.from_segments([("exponential", 5, 1.0, 0.0)]), r"segments\[0\] end_lr: got 0.0"),
        (lambda: S.from_segments([("linear", 5, 1.0, -1.0)]), r"segments\[0\] end_lr: got -1.0"),
    ],
)
def test_bad_input_is_told_in_one_line(make, message: str) -> None:
    with pytest.raises(ThalwegError, match=message):
        make()


def test_numpy_and_other_sequences_are_read() -> None:
    assert S.from_values(np.float32([0.5, 0.25])) == S.from_values((0.5, 0.25))
