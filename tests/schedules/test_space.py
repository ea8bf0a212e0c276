"""Spaces of schedules: points are schedules within the ranges, ends are exact, mistakes are one line."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from thalweg.outcomes import ThalwegError
from thalweg.schedules import Space, cosine, four_phase, linear, parse, wsd

STEPS = 10_000
WSD = Space("wsd", peak_lr=(1e-3, 1.23456e-2), warmup=(100, 2000), decay=(0.1, 0.4), final_lr=1e-5)
FOUR = Space(
    "four_phase", peak_lr=(1e-3, 1e-2), plateau_lr=5e-4, warmup=200, decay_until=(0.1, 0.6), cooldown_from=(0.3, 0.9)
)


def test_the_corners_are_the_ends_of_the_ranges_exactly():
    assert WSD.at([0, 0, 0], STEPS) == wsd(1e-3, STEPS, warmup=100, decay=1000, final_lr=1e-5)
    assert WSD.at([1, 1, 1], STEPS) == wsd(1.23456e-2, STEPS, warmup=2000, decay=4000, final_lr=1e-5)


def test_learning_rates_and_lengths_are_spaced_in_ratios_and_positions_evenly():
    middle = WSD.at([0.5, 0.5, 0.5], STEPS)
    assert middle.peak_lr == pytest.approx(math.sqrt(1e-3 * 1.23456e-2), rel=1e-3)
    assert middle.phases.warmup_end == round(math.sqrt(100 * 2000))
    assert STEPS - middle.phases.cooldown_start == round(math.sqrt(0.1 * 0.4) * STEPS)
    assert FOUR.at([0, 0.5, 0.5], STEPS) == four_phase(
        1e-3, 5e-4, STEPS, warmup=200, decay_until=3500, cooldown_from=6000
    )


@given(st.lists(st.floats(0, 1), min_size=3, max_size=3), st.integers(4000, 10**7))
def test_every_point_lies_within_its_ranges(vector, steps):
    schedule = WSD.at(vector, steps)
    assert schedule.steps == steps
    assert 1e-3 <= schedule.peak_lr <= 1.23456e-2
    assert 100 <= schedule.phases.warmup_end <= 2000
    assert round(0.1 * steps) <= steps - schedule.phases.cooldown_start <= round(0.4 * steps)
    assert parse(str(schedule)) == schedule


def test_shares_follow_the_run_and_steps_do_not():
    space = Space("linear", peak_lr=1e-3, warmup=(0.01, 0.1))
    assert [space.at([1], steps).phases.warmup_end for steps in (1000, 5000)] == [100, 500]
    space = Space("linear", peak_lr=1e-3, warmup=(10, 100))
    assert [space.at([1], steps).phases.warmup_end for steps in (1000, 5000)] == [100, 100]


def test_choices_are_taken_as_they_are():
    space = Space("wsd", peak_lr=[1e-3, 3e-3], warmup=[50, 0.02], decay=[0.1, 500], shape=["linear", "sqrt"], ramp=10)
    found = space.grid(5, STEPS)
    assert len(found) == 16
    assert {s.peak_lr for s in found} == {1e-3, 3e-3}
    assert {s.phases.warmup_end for s in found} == {50, 200}
    assert {STEPS - s.phases.cooldown_start for s in found} == {1000, 500}
    assert sum("sqrt" in str(s) for s in found) == 8


def test_a_grid_is_every_combination_with_both_ends():
    found = Space("cosine", peak_lr=(1e-3, 4e-3), warmup=(100, 200), final_lr=[0.0, 1e-4]).grid(3, STEPS)
    expected = {
        cosine(peak, STEPS, warmup=warmup, final_lr=final)
        for peak in (1e-3, 2e-3, 4e-3)
        for warmup in (100, 141, 200)
        for final in (0.0, 1e-4)
    }
    assert set(found) == expected
    assert len(found) == 18


def test_impossible_combinations_are_left_out():
    """decay_until must not lie after cooldown_from: of 3 × 3 positions two pairs are out of order."""
    assert len(FOUR.grid(3, STEPS)) == 3 * 7
    assert all(s.phases.decay_end <= s.phases.cooldown_start for s in FOUR.sample(200, STEPS))


def test_a_sample_is_different_schedules_and_its_seed_fixes_it():
    found = WSD.sample(100, STEPS)
    assert len(set(found)) == 100
    assert found == WSD.sample(100, STEPS, seed=0) != WSD.sample(100, STEPS, seed=1)
    assert WSD.sample(30, STEPS, seed=3) == WSD.sample(100, STEPS, seed=3)[:30]


def test_a_sample_of_a_small_space_is_all_of_it():
    space = Space("linear", peak_lr=[1e-3, 2e-3], warmup=(10, 12))
    assert set(space.sample(50, 100)) == {linear(lr, 100, warmup=w) for lr in (1e-3, 2e-3) for w in (10, 11, 12)}
    assert Space("linear", peak_lr=1e-3).sample(5, 100) == (linear(1e-3, 100),)


@pytest.mark.parametrize("d", [1, 2, 3, 5])
def test_points_fill_the_cube_more_evenly_than_random_ones(d):
    """Error of the mean of Σ x_j: half a point's share for the sequence, 1/√(12 n) a coordinate for random points."""
    options = {
        "peak_lr": (1e-3, 1e-2),
        "plateau_lr": (1e-4, 1e-3),
        "warmup": (1, 9),
        "decay_until": (10, 20),
        "cooldown_from": (30, 40),
    }
    fixed = {"peak_lr": 1e-2, "plateau_lr": 1e-3, "warmup": 1, "decay_until": 10, "cooldown_from": 30}
    space = Space("four_phase", **(fixed | dict(list(options.items())[:d])))
    points = space.points(512)
    assert points.shape == (512, d)
    assert (points >= 0).all() and (points < 1).all()
    assert np.abs(points.mean(axis=0) - 0.5).max() < 1 / math.sqrt(12 * 512) / 2
    counts = np.histogramdd(points[:, :2], bins=8, range=[(0, 1)] * min(d, 2))[0]
    assert counts.min() >= 0.5 * counts.mean()


def test_repr_is_the_call_that_makes_it():
    space = Space("wsd", decay=[0.1, 200], peak_lr=(1e-3, 1e-2), warmup=100)
    assert repr(space) == "Space('wsd', peak_lr=(0.001, 0.01), warmup=100, decay=[0.1, 200])"
    assert eval(repr(space)) == space
    assert hash(eval(repr(space))) == hash(space)


def test_numpy_scalars_and_arrays_are_numbers():
    space = Space("linear", peak_lr=np.geomspace(1e-3, 1e-2, 3), warmup=(np.int64(10), np.int64(20)))
    assert space == Space("linear", peak_lr=[1e-3, 10**-2.5, 1e-2], warmup=(10, 20))


@pytest.mark.parametrize(
    ("shape", "options", "match"),
    [
        ("cosin", {"peak_lr": 1e-3}, "Write 'cosine'"),
        ("cosine", {}, "peak_lr: missing"),
        ("four_phase", {"peak_lr": 1e-3, "plateau_lr": 1e-4, "warmup": 9, "decay_until": 10}, "cooldown_from: missing"),
        ("cosine", {"peak_lr": 1e-3, "decay": 0.1}, "decay: got 0.1, expected an option of cosine"),
        ("cosine", {"peak_lr": 1e-3, "steps": 100}, "the budget has the run's length"),
        ("cosine", {"peak_lr": (1e-2, 1e-3)}, "low end below the high end"),
        ("cosine", {"peak_lr": (1e-3, 2e-3, 3e-3)}, "two numbers"),
        ("cosine", {"peak_lr": (0.0, 1e-2)}, "above 0"),
        ("cosine", {"peak_lr": []}, "at least one choice"),
        ("cosine", {"peak_lr": 1e-3, "warmup": (0.1, 500)}, "two ints of steps or two float shares"),
        ("cosine", {"peak_lr": 1e-3, "warmup": (100.0, 500.0)}, "Write warmup=100"),
        ("cosine", {"peak_lr": 1e-3, "warmup": -5}, "warmup: got -5"),
        ("wsd", {"peak_lr": 1e-3, "shape": ("linear", "sqrt")}, "list of choices"),
    ],
)
def test_a_mistake_is_one_line(shape, options, match):
    with pytest.raises(ThalwegError, match=match) as error:
        Space(shape, **options)
    assert "\n" not in str(error.value)


def test_points_and_counts_that_do_not_fit():
    with pytest.raises(ThalwegError, match=r"3 numbers in \[0, 1\], one for each of peak_lr, warmup, decay"):
        WSD.at([0.5], STEPS)
    with pytest.raises(ThalwegError, match="vector"):
        WSD.at([0.5, 0.5, 1.5], STEPS)
    with pytest.raises(ThalwegError, match="n: got 1"):
        WSD.grid(1, STEPS)
    with pytest.raises(ThalwegError, match="n: got 0"):
        WSD.sample(0, STEPS)
    for draw in (lambda space: space.grid(3, 90), lambda space: space.sample(3, 90)):
        with pytest.raises(ThalwegError, match="warmup: got 1"):
            draw(Space("linear", peak_lr=(1e-3, 1e-2), warmup=(100, 120)))
