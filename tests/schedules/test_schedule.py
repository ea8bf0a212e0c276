from __future__ import annotations

import copy
import dataclasses
import math
import pickle
import subprocess
import sys
import warnings

import numpy as np
import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import tanhsinh

from tests.schedules.strategies import schedules, tables
from thalweg import schedules as S
from thalweg.outcomes import ThalwegError, ThalwegWarning

fraction = st.floats(0.0, 1.0)

EXAMPLES = [
    S.constant(0.003, 997, warmup=13),
    S.linear(0.003, 997, warmup=13, final_lr=1e-5),
    S.cosine(0.0031, 997, warmup=100, final_lr=1e-5),
    S.wsd(0.003, 997, warmup=13, decay=0.2, shape="sqrt"),
    S.wsd(0.003, 997, warmup=13, decay=300, shape="exponential", final_lr=3e-6, ramp=10),
    S.four_phase(0.006, 0.0031, 997, warmup=50, decay_until=300, cooldown_from=800),
    S.cyclic(0.003, 997, cycles=3, warmup=13, ramp=7),
    S.from_segments([("polynomial", 500, 0.003, 1e-5, 1.7), ("cosine", 497, 1e-5, 0.01)]),
    S.from_values(np.random.default_rng(0).uniform(0, 1e-2, 997)),
    S.rewarmed(S.cosine(0.003, 500), S.linear(0.001, 497, warmup=20)),
]
every_example = pytest.mark.parametrize("s", EXAMPLES, ids=lambda s: repr(s).split("(")[0])


# the spec's check values: warmup a, peak h, S steps


@pytest.mark.parametrize(("a", "h", "steps"), [(500, 0.003, 10000), (1, 1.0, 2), (1999, 6e-3, 2000)])
def test_check_values_of_cosine_and_linear(a: int, h: float, steps: int) -> None:
    for s in (S.cosine(h, steps, warmup=a), S.linear(h, steps, warmup=a)):
        assert s.integral(0, a) == pytest.approx(a * h / 2, rel=1e-14)
        assert s.integral(a, steps) == pytest.approx((steps - a) * h / 2, rel=1e-14)
        assert s.roughness(0, a) == pytest.approx(h**2 / a, rel=1e-14)
    assert S.cosine(h, steps, warmup=a).roughness(a, steps) == pytest.approx(
        math.pi**2 * h**2 / (8 * (steps - a)), rel=1e-14
    )
    assert S.linear(h, steps, warmup=a).roughness(a, steps) == pytest.approx(h**2 / (steps - a), rel=1e-14)


# integrals


@given(schedules, fraction, fraction)
def test_integrals_equal_quadrature_of_the_callable(s: S.Schedule, f: float, g: float) -> None:
    a, b = sorted((f * s.steps, g * s.steps))
    assume(b - a > 1e-6)
    table = any(not hasattr(piece, "start_lr") for piece in s.pieces)
    kinks = range(s.steps + 1) if table else np.cumsum([0, *(piece.length for piece in s.pieces)])
    points = np.array(sorted({a, b, *(float(k) for k in kinks if a < k < b)}))
    assume(len(points) < 200)
    once = tanhsinh(s, points[:-1], points[1:], rtol=1e-12, minlevel=6).integral.sum()
    twice = tanhsinh(lambda t: s(t) ** 2, points[:-1], points[1:], rtol=1e-12, minlevel=6).integral.sum()
    assert s.integral(a, b) == pytest.approx(once, rel=1e-10, abs=1e-12 * s.peak_lr * s.steps)
    assert s.square_integral(a, b) == pytest.approx(twice, rel=1e-10, abs=1e-12 * s.peak_lr**2 * s.steps)


@given(schedules, fraction, fraction, fraction)
def test_partial_intervals_add_up(s: S.Schedule, f: float, g: float, h: float) -> None:
    a, b, c = sorted((f * s.steps, g * s.steps, h * s.steps))
    measures = [(s.integral, s.peak_lr), (s.square_integral, s.peak_lr**2)]
    if not s.roughness_diverges_at:
        measures.append((s.roughness, s.roughness(0, s.steps)))
    for measure, scale in measures:
        assert measure(a, b) + measure(b, c) == pytest.approx(measure(a, c), rel=1e-10, abs=1e-12 * scale * s.steps)
        assert measure(b, b) == 0


@given(tables())
def test_tables_sum_over_whole_steps(s: S.Schedule) -> None:
    v = s.values()
    assert s.integral(0, s.steps) == pytest.approx(v.sum(), rel=1e-12)
    assert s.square_integral(0, s.steps) == pytest.approx((v**2).sum(), rel=1e-12)
    assert s.roughness(0, s.steps) == pytest.approx((np.diff(v) ** 2).sum(), rel=1e-12, abs=1e-300)


@every_example
@pytest.mark.parametrize("interval", [(-1, 5), (5, 4), (0, 998), (math.nan, 5), (0, math.inf)])
def test_intervals_outside_the_run(s: S.Schedule, interval: tuple[float, float]) -> None:
    for measure in (s.integral, s.square_integral, s.roughness):
        with pytest.raises(ThalwegError, match=r"interval: got .* expected 0 ≤ a ≤ b ≤ 997"):
            measure(*interval)


# where the squared slope has no integral


def test_a_jump_is_answered_with_the_discrete_sum_and_named() -> None:
    s = S.cyclic(1.0, 100, cycles=2, shape="linear")
    assert s.roughness_diverges_at == (50,)
    with pytest.warns(ThalwegWarning, match="at step 50"):
        answer = s.roughness(0, 100)
    # 49 falls of 1/50, one rise back from 1/50 to 1, 50 falls of 1/50, the last one to s(100) = 0
    assert answer == pytest.approx(99 / 50**2 + 0.98**2, rel=1e-12)
    # beside the jump the closed form holds, without a warning
    assert s.roughness(0, 49.5) + s.roughness(50, 100) == pytest.approx(49.5 / 50**2 + 50 / 50**2, rel=1e-12)


def test_one_minus_sqrt_diverges_at_its_start_and_ramp_is_the_remedy() -> None:
    s = S.wsd(1.0, 100, warmup=10, decay=64, shape="sqrt")
    assert s.roughness_diverges_at == (36,)
    with pytest.warns(ThalwegWarning, match=r"at step 36.*ramp="):
        answer = s.roughness(10, 100)
    assert answer == pytest.approx((np.diff([*s.values(), 0.0])[10:] ** 2).sum(), rel=1e-12)
    assert s.roughness(0, 36) == pytest.approx(0.1, rel=1e-12)
    assert s.roughness(52, 100) == pytest.approx(math.log(64 / 16) / (4 * 64), rel=1e-12)

    ramped = S.wsd(1.0, 100, warmup=10, decay=64, shape="sqrt", ramp=16)
    assert ramped.roughness_diverges_at == ()
    # a line from 1 to 1 − √(16/64) over 16 steps, then the curve that was there
    assert ramped.roughness(10, 100) == pytest.approx(0.5**2 / 16 + math.log(64 / 16) / (4 * 64), rel=1e-12)
    np.testing.assert_array_equal(ramped(np.arange(52, 101)), s(np.arange(52, 101)))


def test_a_low_power_diverges_at_its_end() -> None:
    s = S.from_segments([("polynomial", 10, 1.0, 0.0, 0.5), ("constant", 5, 0.0, 0.0)])
    assert s.roughness_diverges_at == (10,)
    with pytest.warns(ThalwegWarning, match="at step 10"):
        s.roughness(0, 10)
    with warnings.catch_warnings():
        warnings.simplefilter("error")
        assert s.roughness(10, 15) == 0
        s.roughness(0, 9)


@given(schedules)
def test_the_continuous_value_is_the_limit_of_finer_sums(s: S.Schedule) -> None:
    if s.roughness_diverges_at or any(not hasattr(piece, "start_lr") for piece in s.pieces):
        return
    closed = s.roughness(0, s.steps)
    t = np.arange(32 * s.steps + 1) / 32
    # the mean squared slope over a cell is at most the mean of the squares (Jensen), and tends to it
    fine = 32 * (np.diff(s(t)) ** 2).sum()
    coarse = (np.diff(s(t[::32])) ** 2).sum()
    assert coarse <= fine * (1 + 1e-9) + 1e-25
    assert fine <= closed * (1 + 1e-9) + 1e-25


# values, calls, peaks


@every_example
def test_values_are_calls_bit_for_bit(s: S.Schedule) -> None:
    values = s.values()
    assert values.shape == (s.steps,) == (997,)
    assert all(values[k] == s(k) for k in range(s.steps))
    assert isinstance(s(3), float)
    assert s(np.arange(6).reshape(2, 3)).tolist() == values[:6].reshape(2, 3).tolist()


@every_example
def test_before_and_after_the_run(s: S.Schedule) -> None:
    assert s(997) == s(1e9) == s(math.inf)
    for step in (-1, math.nan):
        with pytest.raises(ThalwegError, match="step: got"):
            s(step)


def test_update_zero_of_a_warmup_is_a_no_op() -> None:
    weight = torch.nn.Parameter(torch.ones(3))
    optimizer = torch.optim.SGD([weight], lr=1.0)
    scheduler = S.cosine(0.5, 10, warmup=2).to_torch(optimizer)
    moved = []
    for _ in range(2):
        before = weight.detach().clone()
        weight.grad = torch.ones(3)
        optimizer.step()
        scheduler.step()
        moved.append(float((before - weight.detach())[0]))
    assert moved == [0.0, 0.25]


@given(schedules)
def test_peaks_are_the_largest_learning_rates(s: S.Schedule) -> None:
    t = np.unique(np.concatenate([np.linspace(0, s.steps, 400), np.arange(s.steps + 1)]))
    ends = [lr for piece in s.pieces for lr in (piece.first_lr, piece.last_lr)]
    assert s.peak_lr >= s(t).max() * (1 - 1e-15)
    assert s.peak_lr <= max(*ends, s(t).max())
    assert s.final_peak_lr >= s(t[t >= s.phases.decay_end]).max(initial=0) * (1 - 1e-15)
    assert s.final_peak_lr <= s.peak_lr


def test_final_peak_of_four_phases() -> None:
    s = S.four_phase(0.006, 0.001, 100, warmup=10, decay_until=40, cooldown_from=80)
    assert (s.peak_lr, s.final_peak_lr) == (0.006, 0.001)
    assert S.constant(0.006, 10, warmup=9).final_peak_lr == 0.006
    assert S.from_values([1.0, 3.0, 2.0], phases=(1, 2, 3)).final_peak_lr == 2.0
    assert S.from_values([1.0, 3.0, 2.0], phases=(3, 3, 3)).final_peak_lr == 2.0


# a value object


@given(schedules)
def test_equality_hash_copies_and_pickles(s: S.Schedule) -> None:
    assert s == copy.deepcopy(s) == pickle.loads(pickle.dumps(s))
    assert hash(s) == hash(copy.deepcopy(s))
    assert str(pickle.loads(pickle.dumps(s))) == str(s)


def test_equality_is_of_curve_and_phases_not_of_words() -> None:
    assert S.wsd(0.1, 100, decay=0.2) == S.wsd(0.1, 100, decay=20)
    assert hash(S.wsd(0.1, 100, decay=0.2)) == hash(S.wsd(0.1, 100, decay=20))
    assert S.linear(0.1, 100) != S.linear(0.1, 101)
    assert S.linear(0.1, 100) != S.cosine(0.1, 100)
    assert S.from_values([0.1, 0.2]) != S.from_values([0.1, 0.2], phases=(0, 0, 0))


def test_frozen() -> None:
    s = S.from_values(given := np.array([0.1, 0.2]))
    with pytest.raises(dataclasses.FrozenInstanceError):
        s.phases = (0, 0, 0)  # type: ignore[misc]
    given[0] = 9.0
    assert s(0) == 0.1
    with pytest.raises(ValueError, match="read-only"):
        s.pieces[0].values[0] = 9.0


def test_representation_abbreviates_tables_and_text_does_not() -> None:
    s = S.from_values([0.5] * 100)
    assert repr(s) == "from_values([0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, 0.5, … 100 values])"
    assert str(s).count("0.5") == 100


# PyTorch


@every_example
def test_to_torch_plays_the_schedule_bit_for_bit(s: S.Schedule) -> None:
    parameters = [torch.nn.Parameter(torch.zeros(1)) for _ in range(3)]
    optimizer = torch.optim.AdamW(
        [{"params": [p], "lr": lr} for p, lr in zip(parameters, (0.3, 0.1, 0.45), strict=True)], lr=1.0
    )
    scheduler = s.to_torch(optimizer)
    assert isinstance(scheduler, torch.optim.lr_scheduler.LambdaLR)
    for k in range(s.steps + 3):
        first, second, third = (group["lr"] for group in optimizer.param_groups)
        assert first == s(k)
        assert second == pytest.approx(first / 3, rel=1e-15, abs=0)
        assert third == pytest.approx(first * 1.5, rel=1e-15, abs=0)
        optimizer.step()
        scheduler.step()


def test_to_torch_resumes_from_its_state() -> None:
    s = S.cosine(0.003, 50, warmup=5)

    def make() -> tuple[torch.optim.Optimizer, torch.optim.lr_scheduler.LambdaLR]:
        groups = [{"params": [torch.nn.Parameter(torch.zeros(1))], "lr": lr} for lr in (1.0, 0.1)]
        optimizer = torch.optim.SGD(groups, lr=1.0)
        return optimizer, s.to_torch(optimizer)

    optimizer, scheduler = make()
    for _ in range(20):
        optimizer.step()
        scheduler.step()
    saved = copy.deepcopy((optimizer.state_dict(), scheduler.state_dict()))
    optimizer, scheduler = make()
    optimizer.load_state_dict(saved[0])
    scheduler.load_state_dict(saved[1])
    optimizer.step()
    scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [s(21), pytest.approx(0.1 * s(21), rel=1e-15)]


def test_to_torch_keeps_ratios_after_an_earlier_scheduler_stopped_at_zero() -> None:
    optimizer = torch.optim.SGD([{"params": [torch.zeros(1)], "lr": lr} for lr in (0.2, 0.1)])
    scheduler = S.linear(0.5, 2).to_torch(optimizer)
    for _ in range(2):
        optimizer.step()
        scheduler.step()
    assert [group["lr"] for group in optimizer.param_groups] == [0.0, 0.0]
    S.constant(0.25, 4).to_torch(optimizer)
    assert [group["lr"] for group in optimizer.param_groups] == [0.25, 0.125]


def test_to_torch_keeps_a_tensor_learning_rate_in_place() -> None:
    held = torch.tensor(0.1, dtype=torch.float64)
    optimizer = torch.optim.Adam([torch.nn.Parameter(torch.zeros(1))], lr=held, foreach=False, capturable=False)
    scheduler = S.linear(0.003, 10, warmup=2).to_torch(optimizer)
    held = optimizer.param_groups[0]["lr"]
    optimizer.step()
    scheduler.step()
    assert optimizer.param_groups[0]["lr"] is held and float(held) == 0.0015


def test_to_torch_without_a_ratio() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.0)
    with pytest.raises(ThalwegError, match=r"optimizer: got 0\.0, expected a first group with a learning rate above 0"):
        S.constant(0.1, 10).to_torch(optimizer)


def test_importing_schedules_brings_numpy_only() -> None:
    heavy = ("torch", "pandas", "scipy", "sklearn", "matplotlib")
    code = f"import sys, thalweg.schedules; print([name for name in {heavy} if name in sys.modules])"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "[]\n"
