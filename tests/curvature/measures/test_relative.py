"""Relative critical sharpness on two parabolas, and the same guarantees as along the step's own loss."""

from __future__ import annotations

import json
import math

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from torch import nn

import thalweg as tw
from tests.curvature.state import everything
from tests.curvature.training import adamw, batches, cross_entropy, network, outcome_of_run, train
from thalweg.curvature import (
    MEASURES,
    RelativeCritical,
    SearchMemory,
    capture,
    critical_sharpness,
    relative_critical_sharpness,
)
from thalweg.curvature.measures import relative as relative_module
from thalweg.curvature.measures.critical import critical_measure
from thalweg.curvature.measures.relative import relative_measure
from thalweg.outcomes import Outcome

torch.set_num_threads(1)


def step_towards(own, lr=0.1):
    """A step of gradient descent on |x - own|²/2 from (1, 1)."""
    x = nn.Parameter(torch.ones(2, dtype=torch.float64))
    target = torch.tensor(own, dtype=torch.float64)
    optimizer = torch.optim.SGD([x], lr=lr)

    def closure():
        return 0.5 * (x - target).square().sum()

    closure().backward()
    with capture(nn.ParameterList([x]), optimizer, closure) as step:
        optimizer.step()
    return step, x


@given(angle=st.floats(0.0, 1.4), scale=st.floats(0.05, 20), lr=st.floats(0.001, 1.5))
def test_two_round_bowls(angle, scale, lr):
    """Step along u towards its own minimum; another bowl of curvature a centred at distance r, at an angle: it is back at
    2 r cos(angle), so η_c = 2 r cos(angle) / |g|, whatever a and η."""
    step, x = step_towards([0.0, 1.0], lr)  # |g| = 1, u = (-1, 0)
    centre = torch.tensor([1 - math.cos(angle), 1 + math.sin(angle)], dtype=torch.float64)
    found = relative_critical_sharpness(step, lambda: scale * (x - centre).square().sum(), tolerance=1e-4)
    assert found.outcome is Outcome.OK
    assert found.critical_lr == pytest.approx(2 * math.cos(angle), rel=1e-4)
    assert found.sharpness == pytest.approx(2 / found.critical_lr)
    assert found.lower <= found.multiple <= found.upper


def test_its_own_loss_gives_critical_sharpness():
    step, _ = step_towards([0.0, 0.0])
    critical = critical_sharpness(step)
    relative = relative_critical_sharpness(step, step.closure)
    assert (relative.sharpness, relative.outcome) == (pytest.approx(critical.sharpness, rel=1 / 8), critical.outcome)


def test_a_direction_that_climbs_the_other_loss_at_once():
    step, x = step_towards([0.0, 1.0])
    found = relative_critical_sharpness(step, lambda: (x - 2).square().sum())
    assert (found.outcome, found.multiple, found.critical_lr, found.sharpness) == (
        Outcome.NOT_DESCENT,
        0.0,
        0.0,
        math.inf,
    )
    assert "relative critical lr 0, sharpness ∞" in found.summary()
    assert critical_sharpness(step).outcome is Outcome.OK  # its own loss falls


def test_a_direction_that_never_raises_the_other_loss():
    step, x = step_towards([0.0, 1.0])
    found = relative_critical_sharpness(step, lambda: x[0])
    assert found.outcome is Outcome.NOT_BRACKETED
    assert math.isnan(found.sharpness)
    assert "does not raise the other loss" in found.summary()


def test_nothing_is_changed_and_masks_repeat():
    """Dropout and BatchNorm in the other loss, NaN in it, and an error in the middle of it."""
    model = network()
    optimizer = adamw(model)
    own, other = batches(2)
    cross_entropy(model, own).backward()
    with capture(model, optimizer, lambda: cross_entropy(model, own)) as step:
        optimizer.step()
    before, spent = everything(model, optimizer), step.forward_passes
    found = relative_critical_sharpness(step, lambda: cross_entropy(model, other))
    assert everything(model, optimizer) == before
    assert found.outcome in (Outcome.OK, Outcome.NOT_DESCENT)
    assert (
        relative_critical_sharpness(step, lambda: cross_entropy(model, other) * math.nan).outcome is Outcome.NOT_FINITE
    )

    def failing():
        cross_entropy(model, other)
        raise torch.OutOfMemoryError("in the middle")

    with pytest.raises(torch.OutOfMemoryError, match="in the middle"):
        relative_critical_sharpness(step, failing)
    assert everything(model, optimizer) == before
    assert step.forward_passes >= spent + found.forward_passes > spent
    assert critical_sharpness(step).outcome is Outcome.OK  # the step's own loss is still its own


def test_tasks_as_a_measure_of_a_probe(monkeypatch):
    """Training is bit-identical, and each task has its own key."""
    *_, held_out = batches(41)  # the same distribution, not trained on

    def run(probed):
        model = network()
        optimizer = adamw(model)
        if not probed:
            return outcome_of_run(model, optimizer, train(model, optimizer, batches(40))), None
        losses = {"same": lambda: cross_entropy(model, held_out), "away": lambda: -cross_entropy(model, held_out)}
        monkeypatch.setitem(MEASURES, "tasks", relative_measure(losses))
        with tw.probe(model, optimizer, every=10, measures=("tasks",)) as probe:
            losses = train(model, optimizer, probe.watch(batches(40)))
        return outcome_of_run(model, optimizer, losses), probe.history

    plain, _ = run(probed=False)
    left, history = run(probed=True)
    assert left == plain
    steps, same = history.column("sharpness/relative/same")
    assert steps.size > 0
    assert (same > 0).all()
    for row in history.rows:  # what lowers the held-out loss raises its opposite at once: λ = ∞ is not in the row
        if "sharpness/relative/same" in row:
            assert "sharpness/relative/away" not in row
            assert row["probe/outcome"] == "NOT_DESCENT"
    assert all(row["probe/forward_passes"] >= 4 for row in history.rows)


def slowly_moving(measure, steps=60, stop=False):
    """Gradient descent on one quadratic, the other as a task: the probe, and the sharpness without a memory."""
    generator = torch.Generator().manual_seed(0)
    x = nn.Parameter(torch.randn(20, dtype=torch.float64, generator=generator))
    own_curvature = torch.logspace(-2, 1, 20, dtype=torch.float64)
    other_curvature = own_curvature + 0.3 * own_curvature.flip(0)
    optimizer = torch.optim.SGD([x], lr=0.01)
    cosine = torch.optim.lr_scheduler.CosineAnnealingLR(optimizer, 2 * steps)  # the multiples move with the lr too

    def own():
        return 0.5 * (own_curvature * x * x).sum()

    def other():
        return 0.5 * (other_curvature * (x - 0.05) ** 2).sum()

    measures = {"critical": critical_measure, "remembered": relative_measure({"other": other})}
    exact = []

    def without_memory(step):
        found = relative_critical_sharpness(step, other, tolerance=1e-6)
        exact.append(found.sharpness)
        return measures[measure](step)

    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(MEASURES, "here", without_memory if measure == "remembered" else measures[measure])
        with tw.probe(nn.ParameterList([x]), optimizer, every=1, measures=("here",), closure=own) as made:
            for i in range(steps):
                if stop and i == steps // 2:  # a stop and a new start, in place
                    state = json.loads(json.dumps(made.state_dict()))
                    assert "search/relative/other" in state["memory"]
                    made.load_state_dict(state)
                optimizer.zero_grad()
                own().backward()
                optimizer.step()
                cosine.step()
    return made, exact


def test_a_task_is_remembered_as_the_critical_measure_remembers(monkeypatch):
    """On a slowly moving quadratic a measurement costs the two evaluations that a certificate needs, not three."""
    spent = {}

    def counting(step, loss, **options):
        found = relative_critical_sharpness(step, loss, **options)
        spent.setdefault("other", []).append(found.forward_passes - 1)
        return found

    critical, _ = slowly_moving("critical")
    monkeypatch.setattr(relative_module, "relative_critical_sharpness", counting)
    made, exact = slowly_moving("remembered")
    searches = [row["probe/forward_passes"] - 1 for row in critical.history.rows]
    assert sum(searches[1:]) / 59 == pytest.approx(2.0, abs=0.1)
    assert sum(spent["other"][1:]) / 59 == pytest.approx(2.0, abs=0.1)
    _, found = made.history.column("sharpness/relative/other")
    assert found.size == len(exact) == 60
    assert found == pytest.approx(exact, rel=1 / 16)  # both are certified, one to 1/16


def test_a_task_goes_through_a_checkpoint():
    """Rows and costs after a stop are those of a run that never stopped."""

    def rows(made):
        return [{k: v for k, v in row.items() if k != "probe/seconds"} for row in made.history.rows]

    assert rows(slowly_moving("remembered", steps=20, stop=True)[0]) == rows(slowly_moving("remembered", steps=20)[0])


def test_a_memory_of_another_learning_rate_is_converted():
    """Half the learning rate: the multiples double, the critical learning rate stays, two evaluations find it."""
    memory, spent = SearchMemory(), []
    for lr in (0.1, 0.1, 0.05):
        step, x = step_towards([0.0, 1.0], lr)
        step.check_determinism = False
        memory.convert(lr)
        found = relative_critical_sharpness(step, lambda x=x: (x[0] - 0.5).square(), memory=memory)
        assert found.critical_lr == pytest.approx(1.0, rel=1 / 16)
        spent.append(found.forward_passes - 1)
    assert spent[0] > 2
    assert spent[1:] == [2, 2]


def test_result_saves(tmp_path):
    step, x = step_towards([0.0, 1.0])
    found = relative_critical_sharpness(step, lambda: (x - 0.5).square().sum())
    assert RelativeCritical.load(found.save(tmp_path / "relative.json")) == found
    assert found.summary().startswith("this update lowers the other loss up to lr")
