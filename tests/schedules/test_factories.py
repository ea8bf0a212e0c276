from __future__ import annotations

import numpy as np
import pytest
import torch

from thalweg import schedules as S
from thalweg.outcomes import ThalwegError


@pytest.mark.parametrize(
    ("s", "phases"),
    [
        (S.constant(0.1, 100, warmup=10), (10, 10, 100)),
        (S.constant(0.1, 100), (0, 0, 100)),
        (S.linear(0.1, 100, warmup=10), (10, 10, 10)),
        (S.cosine(0.1, 100, warmup=10), (10, 10, 10)),
        (S.wsd(0.1, 100, warmup=10, decay=20), (10, 10, 80)),
        (S.wsd(0.1, 100, warmup=10, decay=0.2, shape="sqrt", ramp=3), (10, 10, 80)),
        (S.wsd(0.1, 100, warmup=10, decay=90), (10, 10, 10)),
        (S.four_phase(0.2, 0.1, 100, warmup=10, decay_until=30, cooldown_from=70), (10, 30, 70)),
        (S.four_phase(0.2, 0.2, 100, warmup=10, decay_until=10, cooldown_from=10), (10, 10, 10)),
        (S.four_phase(0.2, 0.1, 100, warmup=10, decay_until=30, cooldown_from=100), (10, 30, 100)),
        (S.cyclic(0.1, 110, cycles=2, warmup=10), (10, 60, 60)),
        (S.rewarmed(S.cosine(0.2, 100, warmup=10), S.wsd(0.1, 100, warmup=20, decay=30)), (10, 120, 170)),
    ],
    ids=repr,
)
def test_phases(s: S.Schedule, phases: tuple[int, int, int]) -> None:
    assert s.phases == phases
    assert (s.phases.warmup_end, s.phases.decay_end, s.phases.cooldown_start) == phases


def test_cosine_with_warmup_is_the_one_of_hugging_face() -> None:
    # transformers.get_cosine_schedule_with_warmup: max(0, .5 (1 + cos(π progress))), k/warmup before
    s = S.cosine(0.003, 200, warmup=20)
    for k in range(201):
        factor = k / 20 if k < 20 else 0.5 * (1 + np.cos(np.pi * (k - 20) / 180))
        assert s(k) == pytest.approx(0.003 * factor, rel=1e-14, abs=1e-18)


def test_polynomial_is_the_one_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    oracle = torch.optim.lr_scheduler.PolynomialLR(optimizer, total_iters=50, power=1.7)
    s = S.from_segments([("polynomial", 50, 0.1, 0.0, 1.7)])
    for k in range(50):
        assert s(k) == pytest.approx(oracle.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        oracle.step()


def test_restarts_are_the_ones_of_torch() -> None:
    optimizer = torch.optim.SGD([torch.nn.Parameter(torch.zeros(1))], lr=0.1)
    oracle = torch.optim.lr_scheduler.CosineAnnealingWarmRestarts(optimizer, T_0=25, eta_min=0.01)
    s = S.cyclic(0.1, 100, cycles=4, final_lr=0.01)
    for k in range(100):
        assert s(k) == pytest.approx(oracle.get_last_lr()[0], rel=1e-12)
        optimizer.step()
        oracle.step()


@pytest.mark.parametrize("shape", ["linear", "cosine", "sqrt", "exponential"])
def test_shapes_of_the_decay_half_way(shape: str) -> None:
    s = S.wsd(1.0, 100, decay=50, shape=shape, final_lr=0.25)  # type: ignore[arg-type]
    half = {"linear": 0.625, "cosine": 0.625, "sqrt": 1 - 0.75 * 0.5**0.5, "exponential": 0.5}[shape]
    assert s(49.9) == 1.0 and s(75) == pytest.approx(half, rel=1e-14) and s(100) == 0.25


def test_decay_as_share_or_steps() -> None:
    assert S.wsd(0.1, 1000).phases.cooldown_start == 850
    assert S.wsd(0.1, 1000, decay=1).phases.cooldown_start == 999
    assert S.wsd(0.1, 1001, decay=0.1).phases.cooldown_start == 901
    assert S.wsd(0.1, 1000, decay=np.float64(0.5)) == S.wsd(0.1, 1000, decay=np.int64(500))


def test_uneven_cycles_restart_on_whole_steps() -> None:
    s = S.cyclic(1.0, 11, cycles=3, shape="linear", warmup=1)
    assert [piece.length for piece in s.pieces] == [1, 3, 4, 3]
    assert s.steps == 11


def test_rewarmed_plays_both_and_ramps_from_the_rate_that_was_reached() -> None:
    first, second = S.cosine(0.2, 50, final_lr=0.02), S.linear(0.1, 40, warmup=10)
    jump = S.rewarmed(first, second)
    np.testing.assert_array_equal(jump.values(), np.concatenate([first.values(), second.values()]))
    assert jump.roughness_diverges_at == (50,)
    smooth = S.rewarmed(first, second, ramp=10)
    assert smooth.roughness_diverges_at == ()
    assert smooth(50) == 0.02 and smooth(55) == pytest.approx(0.06) and smooth(60) == 0.1
    np.testing.assert_array_equal(smooth(np.arange(60, 91)), second(np.arange(10, 41)))


def test_rewarmed_table_counts_the_step_into_the_next_schedule() -> None:
    s = S.rewarmed(S.from_values([0.5, 0.25]), S.from_values([1.0, 0.5]))
    assert s.roughness_diverges_at == ()
    assert s.roughness(0, 4) == pytest.approx(0.25**2 + 0.75**2 + 0.5**2)
    assert s == S.rewarmed(S.from_values([0.5, 0.25]), S.from_values([1.0, 0.5]))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: S.cosine(-0.003, 100), r"peak_lr: got -0.003, expected a learning rate of at least 0. Write for example peak_lr=0.003"),
        (lambda: S.cosine(0.0, 100), "peak_lr: got 0.0, expected a learning rate above 0"),
        (lambda: S.cosine(float("nan"), 100), "peak_lr: got nan, expected a learning rate, a finite number"),
        (lambda: S.cosine(float("inf"), 100), "peak_lr: got inf"),
        (lambda: S.cosine("0.1", 100), "peak_lr: got '0.1'"),  # type: ignore[arg-type]
        (lambda: S.cosine(0.1, 100, final_lr=-1e-5), "final_lr: got -1e-05"),
        (lambda: S.cosine(0.1, 0), "steps: got 0, expected a whole number of steps, at least 1"),
        (lambda: S.cosine(0.1, -5), "steps: got -5"),
        (lambda: S.cosine(0.1, 1e4), "steps: got 10000.0, .* Write steps=10000"),  # type: ignore[arg-type]
        (lambda: S.cosine(0.1, 10.5), "steps: got 10.5"),  # type: ignore[arg-type]
        (lambda: S.cosine(0.1, True), "steps: got True"),
        (lambda: S.cosine(0.1, 100, warmup=200), r"warmup: got 200, expected .* at most 99 \(shorter than the run of 100 steps\)"),
        (lambda: S.linear(0.1, 100, warmup=100), "warmup: got 100"),
        (lambda: S.constant(0.1, 100, warmup=-1), "warmup: got -1"),
        (lambda: S.wsd(0.1, 100, decay=0.0), r"decay: got 0.0, expected a share in \(0, 1\)"),
        (lambda: S.wsd(0.1, 100, decay=1.0), "decay: got 1.0, .* Write decay=1 for steps"),
        (lambda: S.wsd(0.1, 100, decay=1.5), "decay: got 1.5"),
        (lambda: S.wsd(0.1, 100, decay=float("nan")), "decay: got nan"),
        (lambda: S.wsd(0.1, 100, decay=0), "decay: got 0, expected a whole number"),
        (lambda: S.wsd(0.1, 100, decay=0.001), r"decay: got 0.001, expected a share .* \(it makes 0\)"),
        (lambda: S.wsd(0.1, 100, warmup=50, decay=60), "decay: got 60, expected .* at most 50"),
        (lambda: S.wsd(0.1, 100, warmup=50, decay=0.6), r"decay: got 0.6, expected .* 1 to 50 steps \(it makes 60\)"),
        (lambda: S.wsd(0.1, 100, shape="step"), "shape: got 'step', expected one of linear, cosine, sqrt, exponential"),  # type: ignore[arg-type]
        (lambda: S.wsd(0.1, 100, shape="exponential"), "final_lr: got 0.0, expected a learning rate above 0 for an exponential"),
        (lambda: S.wsd(0.1, 100, decay=10, shape="sqrt", ramp=11), "ramp: got 11, expected at most the 10 steps"),
        (lambda: S.four_phase(0.2, 0.1, 100, warmup=10, decay_until=5, cooldown_from=50), "decay_until: got 5"),
        (lambda: S.four_phase(0.2, 0.1, 100, warmup=10, decay_until=60, cooldown_from=50), "decay_until: got 60"),
        (lambda: S.four_phase(0.2, 0.1, 100, warmup=10, decay_until=60, cooldown_from=101), "cooldown_from: got 101"),
        (lambda: S.four_phase(0.2, 0.1, 100, warmup=10, decay_until=10, cooldown_from=50), "decay_until: got 10, .* plateau_lr=0.2"),
        (lambda: S.cyclic(0.1, 10, cycles=11), "cycles: got 11"),
        (lambda: S.cyclic(0.1, 10, cycles=0), "cycles: got 0"),
        (lambda: S.rewarmed("cosine(0.1, 10)", S.linear(0.1, 10)), "previous: got .* expected a Schedule"),  # type: ignore[arg-type]
    ],
)  # fmt: skip
def test_bad_input_is_told_in_one_line(make, message: str) -> None:
    with pytest.raises(ThalwegError, match=message) as caught:
        make()
    assert "\n" not in str(caught.value)
