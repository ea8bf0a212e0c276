"""`simulate`: the published phase grid, the twin's statistics, reproducibility, runs that leave, bad input, Ctrl-C."""

from __future__ import annotations

import dataclasses
import json
import os
import signal
import subprocess
import sys

import numpy as np
import pytest

from tests.reference import two_valley_numpy as paper
from thalweg.outcomes import Outcome, ThalwegError
from thalweg.sde import TwoValley, kernel, simulate, simulating

VALLEYS = TwoValley()


def same(a, b):
    """Every number of two simulations, bit for bit; NaN equals NaN."""
    return all(
        np.array_equal(getattr(a, field.name), getattr(b, field.name), equal_nan=True)
        for field in dataclasses.fields(a)
        if isinstance(getattr(a, field.name), np.ndarray)
    )


def block(x, *, y=None, crossed_at=None, crossed_y=None, crossings=None, trace=((1,), (2,))):
    """A hand-made finished block of runs."""
    x = np.array(x, dtype=float)
    zeros, fives = np.zeros(x.size, dtype=np.int64), np.full(x.size, 5.0)
    runs = kernel.Runs(
        x=x,
        y=fives if y is None else np.array(y, dtype=float),
        crossed_at=zeros if crossed_at is None else np.array(crossed_at),
        crossed_y=fives if crossed_y is None else np.array(crossed_y, dtype=float),
        crossings=zeros if crossings is None else np.array(crossings),
    )
    return simulating._Block(runs, np.array(trace[0]), np.array(trace[1]))


def test_statistics_of_hand_made_runs():
    first = block(
        [0.1, -0.2, 0.0], crossed_at=[3, 0, 96], crossed_y=[6.0, 5.0, 9.0], crossings=[1, 0, 4], trace=((2,), (3,))
    )
    second = block([0.3], crossed_at=[95], crossed_y=[8.0], crossings=[2], trace=((0,), (1,)))
    cell = simulating._statistics([first, second], steps=100)
    assert cell["p_flat"] == 2 / 4  # x = 0 is not x > 0
    assert cell["freezing_step"] == (4 + 1 + 97 + 96) / 4  # 1 where a run never crossed
    assert cell["y_freeze"] == 7.0
    assert cell["crossings"] == 7 / 4
    assert cell["censored"] == 1 / 4  # update 96 is in the last 5 % of 100, update 95 is not
    assert cell["non_finite"] == 0
    assert cell["trace_p_flat"].tolist() == [0.5]
    assert cell["p_flat_se"] == pytest.approx(np.sqrt(0.25 / 3))
    assert cell["y_freeze_se"] == pytest.approx(np.sqrt((1 + 4 + 4 + 1) / 3 / 4))


def test_non_finite_runs_are_counted_and_not_averaged():
    cell = simulating._statistics(
        [block([0.1, np.nan, 0.3, -0.2], y=[5, 5, np.inf, 5], crossings=[2, 9, 9, 4])], steps=100
    )
    assert cell["non_finite"] == 2
    assert cell["p_flat"] == 0.5
    assert cell["crossings"] == 3


def test_no_finite_run_is_nan_and_one_has_no_error():
    none = simulating._statistics([block([np.nan, np.inf], trace=((0,), (0,)))], steps=100)
    assert np.isnan([none[name] for name in ("p_flat", "freezing_step", "y_freeze_se", "censored_se")]).all()
    assert np.isnan(none["trace_p_flat"]).all()
    one = simulating._statistics([block([0.1, np.nan])], steps=100)
    assert one["p_flat"] == 1
    assert np.isnan(one["p_flat_se"])


def test_without_noise_every_run_stays_in_its_valley():
    sim = simulate(VALLEYS, lr=[0.01, 0.05], noise=[0, 0.0], runs=10, steps=1000)
    assert sim.p_flat.tolist() == [[0.5, 0.5], [0.5, 0.5]]
    assert (sim.freezing_step == 1).all()
    assert (sim.freezing_time == [[0.01, 0.01], [0.05, 0.05]]).all()
    assert (sim.y_freeze == 5.0).all()
    assert not sim.crossings.any()
    assert not sim.censored.any()
    assert (sim.trace_p_flat == 0.5).all()
    assert sim.outcome is Outcome.OK


def test_starts_alternate_sharp_first():
    assert simulate(VALLEYS, lr=0.05, noise=0, runs=1, steps=10).p_flat.item() == 0
    assert simulate(VALLEYS, lr=0.05, noise=0, runs=3, steps=10).p_flat.item() == pytest.approx(1 / 3)


@pytest.mark.parametrize(("covariance", "noise"), [("hessian", 0.1), ("hessian_squared", 0.02), ("isotropic", 0.5)])
def test_statistics_agree_with_the_twin_on_its_own_random_numbers(covariance, noise):
    runs, steps = 1000, 500
    path = paper.trajectories(
        VALLEYS, 0.1, noise, np.random.default_rng(7).standard_normal((steps, runs, 2)), covariance
    )
    freezing_step, crossings = paper.freezing(path[:, :, 0])
    sim = simulate(VALLEYS, lr=0.1, noise=noise, runs=runs, steps=steps, covariance=covariance, seed=3)
    y_freeze = path[freezing_step - 1, np.arange(runs), 1]
    for mean, error, values in (
        (sim.p_flat, sim.p_flat_se, path[-1, :, 0] > 0),
        (sim.freezing_step, sim.freezing_step_se, freezing_step),
        (sim.y_freeze, sim.y_freeze_se, y_freeze),
        (sim.crossings, sim.crossings_se, crossings),
        (sim.censored, sim.censored_se, freezing_step > 0.95 * steps + 1),
    ):
        assert abs(mean.item() - values.mean()) < 4 * np.hypot(error.item(), values.std() / np.sqrt(runs))
        assert error.item() == pytest.approx(values.std() / np.sqrt(runs), rel=0.25)
    assert sim.crossings.item() > 1


# (row, column) of the 10 × 10 grid: frozen from the start, the rise, its top, the noisiest corner
CELLS = [(0, 0), (2, 6), (5, 2), (6, 2), (7, 1), (9, 9)]


@pytest.mark.data
@pytest.mark.parametrize(("row", "column"), CELLS)
def test_cells_of_the_published_phase_diagram(data_dir, row, column):
    table = json.loads((data_dir / "two_valley_phase_hessian.json").read_text())
    sim = simulate(VALLEYS, lr=table["eta"][row], noise=table["sigma"][column])
    for source in ("published", "independent"):
        p = table[f"p_flat_{source}"][row][column]
        pooled = (p + sim.p_flat.item()) / 2
        assert abs(sim.p_flat.item() - p) < 4 * max(np.sqrt(2 * pooled * (1 - pooled) / 2000), 5e-4)
        freezing_step = table[f"freezing_step_{source}"][row][column]
        error = np.hypot(sim.freezing_step_se.item(), table["freezing_step_se_independent"][row][column])
        if freezing_step > 100:
            assert abs(sim.freezing_step.item() - freezing_step) < 4 * error
    y_freeze = table["y_freeze_published"][row][column]
    assert abs(sim.y_freeze.item() - y_freeze) <= 4 * np.sqrt(2) * sim.y_freeze_se.item() + 1e-5


def test_threads_blocks_and_pauses_change_no_bit(monkeypatch):
    options = {"lr": [0.05, 0.1], "noise": [0.02, 0.1], "runs": 700, "steps": 301, "seed": 11}
    once = simulate(VALLEYS, threads=1, **options)
    assert same(once, simulate(VALLEYS, threads=2, **options))
    for size, pause in ((1, 302), (64, 2), (700, 100)):
        monkeypatch.setattr(simulating, "BLOCK", size)
        monkeypatch.setattr(simulating, "SLICE", pause)
        assert same(once, simulate(VALLEYS, threads=2, **options))


def test_a_cell_is_the_same_alone_and_in_a_grid():
    grid = simulate(VALLEYS, lr=[0.05, 0.1], noise=[0.02, 0.1], runs=50, steps=200)
    alone = simulate(VALLEYS, lr=0.1, noise=0.02, runs=50, steps=200)
    assert alone.p_flat.shape == (1, 1)
    assert (alone.trace_p_flat[0, 0] == grid.trace_p_flat[1, 0]).all()
    assert alone.y_freeze.item() == grid.y_freeze[1, 0]


def test_seeds_and_cells_have_numbers_of_their_own():
    keys = {
        tuple(simulating._key(seed, lr, noise)) for seed in (0, 1, 2**40) for lr in (0.1, 0.2) for noise in (0.1, 0.2)
    }
    assert len(keys) == 12
    a, b = (simulate(VALLEYS, lr=0.1, noise=0.1, runs=50, steps=200, seed=seed) for seed in (1, 2))
    assert a.y_freeze != b.y_freeze


def test_steps_so_large_that_runs_leave_are_counted():
    # in the flat valley far down H11 tends to 2/x1² = 3.1: every run diverges above lr = 2/3.1
    sim = simulate(VALLEYS, lr=[0.05, 0.9], noise=0.05, runs=20, steps=3000)
    assert sim.non_finite.tolist() == [[0], [20]]
    assert sim.outcome is Outcome.LEFT_DOMAIN
    assert np.isfinite(sim.p_flat[0, 0])
    for name in ("p_flat", "freezing_step", "y_freeze", "crossings", "censored"):
        assert np.isnan(getattr(sim, name)[1, 0])
        assert np.isnan(getattr(sim, f"{name}_se")[1, 0])
    assert sim.trace_p_flat[1, 0, 0] == pytest.approx(0.5, abs=0.3)
    assert np.isnan(sim.trace_p_flat[1, 0, -1])


def test_some_of_a_cells_runs_may_leave():
    sim = simulate(VALLEYS, lr=0.2, noise=1000.0, runs=200, steps=2000, covariance="hessian_squared")
    assert 0 < sim.non_finite.item() < 200
    assert np.isfinite(sim.p_flat.item())


@pytest.mark.parametrize(
    ("options", "told"),
    [
        (
            {"lr": -0.05},
            "lr: got -0.05, expected a number > 0, or a sequence of such numbers. Write for example lr=0.05",
        ),
        ({"lr": 0}, "lr: got 0, expected a number > 0"),
        ({"lr": []}, "lr: got []"),
        ({"lr": [[0.1]]}, "lr: got [[0.1]]"),
        ({"lr": "fast"}, "lr: got 'fast'"),
        ({"lr": [0.1, float("nan")]}, "lr: got [0.1, nan]"),
        ({"noise": [0.1, -1]}, "noise: got [0.1, -1], expected a number ≥ 0"),
        ({"runs": 0}, "runs: got 0, expected a whole number of at least 1"),
        ({"runs": 10.5}, "runs: got 10.5"),
        ({"steps": True}, "steps: got True"),
        ({"seed": -1}, "seed: got -1, expected a whole number of at least 0"),
        ({"threads": 0}, "threads: got 0"),
        ({"covariance": "Hessian"}, "covariance: got 'Hessian', expected one of hessian, hessian_squared, isotropic"),
    ],
)
def test_bad_input(options, told):
    with pytest.raises(ThalwegError) as error:
        simulate(VALLEYS, **{"lr": 0.05, "noise": 0.05, "runs": 4, "steps": 4, **options})
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)


def test_bar_goes_to_stderr_and_only_when_asked(capsys):
    simulate(VALLEYS, lr=0.05, noise=0.05, runs=4, steps=10)
    assert capsys.readouterr() == ("", "")
    simulate(VALLEYS, lr=0.05, noise=0.05, runs=4, steps=10, progress=True)
    out, err = capsys.readouterr()
    assert out == ""
    assert "40.0/40.0" in err


@pytest.mark.skipif(os.name == "nt", reason="signals are sent differently there")
def test_ctrl_c_ends_it():
    program = (
        "from thalweg.sde import TwoValley, simulate\n"
        "simulate(TwoValley(), lr=0.05, noise=0.05, runs=4, steps=10)\n"
        "print('compiled', flush=True)\n"
        "simulate(TwoValley(), lr=0.05, noise=0.05, runs=4000, steps=10**12, threads=2)"
    )
    child = subprocess.Popen([sys.executable, "-c", program], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)
    try:
        assert child.stdout.readline() == "compiled\n"
        child.send_signal(signal.SIGINT)
        _, err = child.communicate(timeout=60)
    finally:
        child.kill()
    assert "KeyboardInterrupt" in err
    assert child.returncode in (130, -signal.SIGINT)


def test_importing_the_room_brings_nothing_heavy():
    program = (
        "import sys, thalweg\n"
        "thalweg.simulate, thalweg.sde.TwoValley, thalweg.sde.Simulation\n"
        "print([name for name in ('torch', 'pandas', 'numba', 'sklearn', 'matplotlib', 'scipy') if name in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", program], capture_output=True, text=True, check=True)
    assert done.stdout == "[]\n"
