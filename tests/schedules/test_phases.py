"""Phases of tabulated curves: exact on clean values, close on noisy, rounded and forward-filled logs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schedules.strategies import tables
from thalweg import schedules as S
from thalweg.schedules.phases import find_phases

STEPS = 10_000
CURVES = {
    "cosine": S.cosine(3e-3, STEPS, warmup=500),
    "linear": S.linear(3e-3, STEPS, warmup=2000, final_lr=3e-5),
    "linear, no warmup": S.linear(3e-3, STEPS),
    "wsd": S.wsd(3e-3, STEPS, warmup=500, decay=0.2),
    "wsd cosine": S.wsd(3e-3, STEPS, warmup=50, decay=0.1, shape="cosine"),
    "wsd sqrt": S.wsd(3e-3, STEPS, warmup=1000, decay=0.3, shape="sqrt"),
    "wsd exponential": S.wsd(3e-3, STEPS, warmup=1000, decay=0.3, shape="exponential", final_lr=3e-5),
    "constant": S.constant(1e-3, STEPS, warmup=300),
    "constant, no warmup": S.constant(1e-3, STEPS),
    "four phases": S.four_phase(6e-3, 3e-3, STEPS, warmup=500, decay_until=4000, cooldown_from=8000),
    "four phases, steep": S.four_phase(6e-3, 1e-3, STEPS, warmup=2000, decay_until=3000, cooldown_from=9000, final_lr=1e-4),
}  # fmt: skip
every_curve = pytest.mark.parametrize("s", CURVES.values(), ids=CURVES)


def close(found: S.Phases, true: S.Phases, steps: int, share: float) -> bool:
    return max(abs(a - b) for a, b in zip(found, true, strict=True)) <= share * steps


@every_curve
def test_clean_values_give_the_factory_s_phases_exactly(s: S.Schedule) -> None:
    assert find_phases(s.values()) == s.phases
    assert find_phases(s.values().astype(np.float32).astype(np.float64)) == s.phases


@given(st.integers(20, 3000), st.data())
def test_clean_values_of_any_proportions(steps: int, data: st.DataObject) -> None:
    warmup = data.draw(st.integers(0, steps // 3))
    cooldown = data.draw(st.integers(max(2, steps // 50), steps // 3))
    for s in (
        S.cosine(3e-3, steps, warmup=warmup),
        S.linear(3e-3, steps, warmup=warmup),
        S.wsd(3e-3, steps, warmup=warmup, decay=cooldown),
        S.constant(3e-3, steps, warmup=warmup),
    ):
        assert find_phases(s.values()) == s.phases


@every_curve
@pytest.mark.parametrize("seed", [0, 1])
@pytest.mark.parametrize("noise", [1e-3, 1e-2, 3e-2])
def test_additive_noise(s: S.Schedule, noise: float, seed: int) -> None:
    jitter = np.random.default_rng(seed).standard_normal(STEPS)
    assert close(
        find_phases(np.abs(s.values() + noise * s.peak_lr * jitter)), s.phases, STEPS, 0.02 if noise > 0.01 else 0.01
    )


@every_curve
def test_multiplicative_noise(s: S.Schedule) -> None:
    jitter = np.random.default_rng(2).standard_normal(STEPS)
    assert close(find_phases(s.values() * np.exp(0.02 * jitter)), s.phases, STEPS, 0.01)


@every_curve
def test_logs_printed_with_three_or_two_digits(s: S.Schedule) -> None:
    for digits in (3, 2):
        printed = np.array([float(f"{lr:.{digits - 1}e}") for lr in s.values()])
        assert close(find_phases(printed), s.phases, STEPS, 0.015)


@every_curve
def test_a_log_of_every_tenth_step_filled_forward(s: S.Schedule) -> None:
    assert close(find_phases(np.repeat(s.values()[::10], 10)), s.phases, STEPS, 0.015)


@every_curve
def test_phases_do_not_depend_on_the_unit_of_the_learning_rate(s: S.Schedule) -> None:
    noisy = np.abs(s.values() + 0.01 * s.peak_lr * np.random.default_rng(3).standard_normal(STEPS))
    assert find_phases(noisy) == find_phases(2.0**20 * noisy)


@pytest.mark.parametrize("noise", [0.0, 0.01])
def test_the_last_hump_cools_down(noise: float) -> None:
    jitter = np.random.default_rng(4).standard_normal(STEPS)
    cycles = S.cyclic(1e-3, STEPS, cycles=4, warmup=200)
    found = find_phases(np.abs(cycles.values() + noise * 1e-3 * jitter))
    assert close(found, S.Phases(200, 7550, 7550), STEPS, 0.01 if noise else 0)
    again = S.rewarmed(S.cosine(1e-3, 5000, warmup=100), S.wsd(5e-4, 5000, warmup=500, decay=0.2))
    found = find_phases(np.abs(again.values() + noise * 1e-3 * jitter))
    assert close(found, S.Phases(100, 5500, 9000), STEPS, 0.01 if noise else 0)


def test_a_floor_belongs_to_the_cooldown() -> None:
    floored = np.concatenate([S.cosine(1e-3, 900, warmup=50, final_lr=1e-4).values(), np.full(300, 1e-4)])
    assert find_phases(floored) == (50, 50, 50)


def test_small_curves() -> None:
    assert find_phases(np.zeros(5)) == (0, 0, 5)
    assert find_phases(np.array([1.0])) == (0, 0, 1)
    assert find_phases(np.array([0.0, 1.0])) == (1, 1, 2)
    assert find_phases(np.array([1.0, 0.0])) == (0, 0, 0)


@pytest.mark.data
@pytest.mark.parametrize("size", [25, 100])
def test_real_logs(data_dir: Path, size: int) -> None:
    """Logged rates of published runs, one row every 128 steps; the table begins after the warmup."""
    table = np.genfromtxt(
        data_dir / "loss_curves_25M_100M.csv", delimiter=",", names=True, dtype=None, encoding="utf-8"
    )
    cooldowns = {
        "cosine_24000": 2160,
        "cosine_72000": 2160,
        "wsd_20000_24000": 20000,
        "wsdld_20000_24000": 20000,
        "wsdcon_9": 8000,
    }
    for run, start in cooldowns.items():
        rows = table[(table["run"] == run) & (table["model_millions"] == size)]
        found = find_phases(rows["lr"])
        assert found[:2] == (0, 0)
        assert abs(rows["step"][found.cooldown_start] - start) <= 160
    for run in ("constant_24000", "constant_72000"):
        rows = table[(table["run"] == run) & (table["model_millions"] == size)]
        assert find_phases(rows["lr"]) == (0, 0, len(rows))


@given(tables())
def test_phases_are_in_order_for_any_values(s: S.Schedule) -> None:
    a1, a2, a3 = find_phases(s.values())
    assert 0 <= a1 <= a2 <= a3 <= s.steps
