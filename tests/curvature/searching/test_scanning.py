"""Losses with several crossings, all known; what the scan finds of them, and what it cannot find."""

from __future__ import annotations

import math

import pytest
import torch
from hypothesis import assume, given
from hypothesis import strategies as st
from torch import nn

import thalweg as tw
from tests.curvature.changes import Counted, crossings, shapes
from tests.curvature.state import everything
from thalweg.curvature import Bracket, SearchMemory, Step, critical_sharpness, relative_critical_sharpness, search
from thalweg.curvature.searching.scanning import scan_below
from thalweg.outcomes import Outcome, ThalwegError

torch.set_num_threads(1)


def certified(m, tolerance=1 / 16, evaluations=0):
    """What a search would say that had found the crossing at m."""
    lower, upper = m * (1 - tolerance / 2), m * (1 + tolerance / 3)
    return Bracket(lower, upper, (lower + upper) / 2, evaluations, False, Outcome.OK)


def crossing_at(*roots):
    """Falls at first and changes its sign at each root, an odd number of them."""
    return Counted(lambda m: -m * math.prod(1 - m / root for root in roots))


def assert_certified(found, f, tolerance, rounding=0.0):
    """The rule of `search`, on the evaluations of the scan alone."""
    values = f.values()
    assert found.outcome is Outcome.OK
    assert values[found.lower] <= 0 < values[found.upper]
    assert any(change < -rounding for m, change in values.items() if m <= found.lower)
    assert 1 - found.lower / found.upper <= tolerance
    assert len(f.asked) == len(set(f.asked))


@given(
    last=crossings,
    first=st.floats(2.5, 400),
    width=st.floats(2.05, 20),
    tolerance=st.sampled_from([1 / 4, 1 / 16, 1 / 64]),
)
def test_a_rise_of_an_octave_is_found_and_certified(last, first, width, tolerance):
    """Crossings at last/first (up), last/first·width (down), last (up)."""
    assume(width < first / 1.3)
    roots = last / first, last / first * width, last
    f = crossing_at(*roots)
    found = scan_below(f, certified(last, tolerance, evaluations=3), tolerance=tolerance)
    assert_certified(found, f, tolerance)
    assert found.lower <= roots[0] * (1 + 1e-9)
    assert found.upper >= roots[0] * (1 - 1e-9)
    assert found.evaluations == 3 + len(f.asked) <= 3 + 10 + 3 + math.ceil(math.log2(1 / tolerance))


def test_the_smallest_of_three():
    f = crossing_at(1.0, 3.0, 10.0, 40.0, 100.0)
    found = scan_below(f, certified(100.0))
    assert_certified(found, f, 1 / 16)
    assert found.lower <= 1.0 < found.upper


@given(c=crossings, shape=shapes)
def test_one_crossing_is_left_as_it_is(c, shape):
    f = Counted(lambda m: shape(m / c))
    found = search(f, guess=c)
    assume(found.lower <= c * (1 + 1e-9))
    again = scan_below(f, found)
    assert (again.lower, again.upper, again.outcome, again.wall) == (
        found.lower,
        found.upper,
        found.outcome,
        found.wall,
    )
    assert again.evaluations == found.evaluations + 10


def test_a_wall_that_ends_before_the_crossing():
    """Not finite from 2 to 6: that is a rise, and the answer says that it is a wall."""
    f = Counted(lambda m: math.nan if 2 <= m < 6 else m * (m - 50))
    found = scan_below(f, certified(50.0))
    assert found.outcome is Outcome.OK
    assert found.wall
    assert found.lower < 2 <= found.upper


@pytest.mark.parametrize("turn", [0.05, 0.5, 8.0])
def test_a_loss_that_climbs_from_the_start_and_falls_later(turn):
    """The smallest learning rate that raises the loss is 0 then: no fall is seen below the rises, down to 2^-16."""
    f = Counted(lambda m: -m * (m - turn) * (30 - m))
    found = scan_below(f, certified(30.0, evaluations=2))
    assert found.outcome is Outcome.NOT_DESCENT
    assert (found.lower, found.upper) == (0.0, min(f.asked))
    assert found.evaluations == 2 + 16 == 2 + len(f.asked)


def test_a_fall_below_the_last_octave_is_followed_down():
    """Rises from 2^-14 to 2^-5 of the found crossing: its beginning is found, below the grid."""
    f = crossing_at(2.0**-13.5, 2.0**-5, 1.0)
    found = scan_below(f, certified(1.0))
    assert_certified(found, f, 1 / 16)
    assert found.lower <= 2.0**-13.5 < found.upper


@pytest.mark.parametrize(
    "f",
    [
        crossing_at(2.0**-13, 2.0**-11, 1.0),  # a rise below the last octave
        crossing_at(0.26, 0.47, 1.0),  # one between 1/4 and 1/2 of the found crossing
    ],
)
def test_what_it_cannot_find(f):
    found = certified(1.0)
    f.asked.clear()
    again = scan_below(f, found)
    assert (again.lower, again.upper, again.evaluations) == (found.lower, found.upper, 10)


def test_rounding_is_not_taken_for_a_rise():
    """Alternating, as large as told: two ties end the walk."""
    f = Counted(lambda m: m * (m - 1) + 1e-3 * (-1) ** round(math.log2(m) * 2))
    found = scan_below(f, certified(1.0), rounding=1e-3)
    assert (found.outcome, found.lower) == (Outcome.OK, certified(1.0).lower)
    assert found.evaluations == 8
    assert f.asked[-1] == pytest.approx(certified(1.0).lower / 2**8)  # 8e-3 is lost twice in a row


def test_noise_that_was_not_told_is_seldom_taken_for_a_rise():
    """Gaussian, growing like √m, drowning f from 1/40 of the crossing down: half of the values there are rises."""
    taken = risen = 0
    for seed in range(400):
        generator = torch.Generator().manual_seed(seed)

        def noisy(m, generator=generator):
            return m * (m - 1) + 0.15 * math.sqrt(m) * torch.randn((), generator=generator).item()

        f = Counted(noisy)
        values = {}
        found = scan_below(lambda m, f=f, values=values: values.setdefault(m, f(m)), certified(1.0))
        risen += any(value > 0 for value in values.values())
        taken += found.lower != certified(1.0).lower
    assert risen > 300
    assert taken < 0.1 * risen, taken


def test_a_true_rise_in_noise_is_found():
    """The same noise, a tenth as large, and a rise from 1/20 to 1/5 of the crossing."""
    for seed in range(50):
        generator = torch.Generator().manual_seed(seed)

        def noisy(m, generator=generator):
            smooth = -m * (1 - 20 * m) * (1 - 5 * m) * (1 - m)
            return smooth + 0.005 * math.sqrt(m) * torch.randn((), generator=generator).item()

        values = {}
        found = scan_below(lambda m, values=values, f=noisy: values.setdefault(m, f(m)), certified(1.0))
        assert found.outcome is Outcome.OK
        assert 0.04 < found.centre < 0.06


@pytest.mark.parametrize("outcome", [Outcome.NOT_DESCENT, Outcome.NOT_BRACKETED])
def test_where_nothing_was_found_nothing_is_looked_for(outcome):
    f = Counted(lambda m: m)
    nothing = Bracket(0.0, 1.0, 0.5, 3, False, outcome)
    assert scan_below(f, nothing) is nothing
    assert not f.asked


def test_bad_tolerance():
    with pytest.raises(ThalwegError, match="tolerance: got 0, expected a number between 0 and 1"):
        scan_below(lambda m: m, certified(1.0), tolerance=0)


def hilly(lr=0.1):
    """A step of length 1 from x = 0 along a loss with crossings at 1, 3 and 20."""
    model = nn.ParameterList([nn.Parameter(torch.zeros(1, dtype=torch.float64))])

    def loss():
        x = model[0].sum()
        return x * (x - 1) * (x - 3) * (x - 20)

    return Step.between([torch.zeros(1)], [torch.ones(1)], model, loss, lr=lr), model, loss


def test_critical_sharpness_of_the_first_crossing():
    step, model, loss = hilly()
    before = everything(model)
    far = critical_sharpness(step, guess=18.0)
    assert far.lower <= 20.0 < far.upper
    spent = step.forward_passes
    near = critical_sharpness(step, guess=18.0, scan=True)
    assert near.lower <= 1.0 < near.upper
    assert near.critical_lr == pytest.approx(0.1, rel=1 / 16)
    assert near.forward_passes == step.forward_passes - spent
    assert (
        near.forward_passes == (far.forward_passes - 2) + 10 + 3 + 4
    )  # search, grid, noise, bisection; L(θ_before) is known
    assert everything(model) == before
    step, _, loss = hilly()
    other = relative_critical_sharpness(step, loss, guess=18.0, scan=True)
    assert (other.lower, other.upper) == (near.lower, near.upper)


@pytest.mark.parametrize(("scan", "margin"), [(False, 20.0), (True, 1.0)])
def test_a_probe_scans(scan, margin):
    """A memory that expects the last crossing finds it; the scan goes on to the first, and the memory keeps what it had."""
    memory = SearchMemory()
    for _ in range(3):
        search(lambda m: m * (m - 20), slope=-60.0, memory=memory)
    _, model, loss = hilly()
    optimizer = torch.optim.SGD(model.parameters(), lr=1.0)
    probe = tw.probe(model, optimizer, every=1, closure=loss, scan=scan)
    probe.load_state_dict({"steps": 0, "rows": [], "memory": {"search": memory.state_dict()}})
    with probe:
        model[0].grad = torch.tensor([-1.0], dtype=torch.float64)
        optimizer.step()
    (row,) = probe.history.rows
    assert row["stability/margin"] == pytest.approx(margin, rel=1 / 16)
    assert math.exp(probe.state_dict()["memory"]["search"]["x"]) == pytest.approx(20.0, rel=1 / 16)


def test_a_probe_without_margins_cannot_scan():
    model = nn.Linear(1, 1)
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with pytest.raises(ThalwegError, match=r"scan: got True.*Write measures=\(\(?'?\"?critical"):
        tw.probe(model, optimizer, measures=("norms",), scan=True)
