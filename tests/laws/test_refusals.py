"""What a new user does wrong: each is one line, or a named warning, never a number that means nothing."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws.tables import grid_of_runs, inside, with_loss
from thalweg import laws, plan
from thalweg.laws import BowlLaw, Chinchilla, Kaplan, OptLaw, OptLawFixedSize, select
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import constant, from_values


@pytest.mark.parametrize("fit", [*(laws.find(name).fit for name in laws.LAWS), select])
def test_a_frame_is_no_table_of_runs(fit):
    with pytest.raises(ThalwegError, match=r"got 'DataFrame', expected finished runs .* Runs.from_frame") as error:
        fit(grid_of_runs().frame)
    assert "\n" not in str(error.value)


def test_plan_wants_a_table_too():
    budget, schedules = inside()
    with pytest.raises(ThalwegError, match="expected finished runs"):
        plan(OptLaw.fit(grid_of_runs()), budget, schedules, runs=grid_of_runs().frame)


def test_a_bowl_without_its_batch_part_warns_of_mixed_batches():
    frame = grid_of_runs().frame
    frame = frame.assign(peak_lr=[schedule.peak_lr for schedule in grid_of_runs().schedules], warmup=50)
    frame = frame.drop(columns="schedule")
    frame = frame.assign(batch_tokens=np.where(np.arange(len(frame)) % 2, 1e6, 2e6))
    two = Runs.from_frame(frame, assume={"shape": "linear", "final_lr": 0.0})
    with pytest.warns(
        ThalwegWarning, match="BowlLaw without its batch part: the table varies batch_tokens from 1M to 2M"
    ):
        law = BowlLaw.fit(two)
    assert not law.batch


def test_a_loss_that_size_does_not_move_leaves_kaplan_without_constants():
    runs = with_loss(grid_of_runs(), 3.0 + 1e-9 * (np.arange(320) % 2))
    with pytest.raises(ThalwegError, match="hardly depends on params or on tokens"):
        Kaplan.fit(runs)


def test_schedules_without_decay_are_refused_by_the_law_of_eq_1():
    part = grid_of_runs().subset(grid_of_runs().frame.params.to_numpy() == 3e8)
    flat = [str(constant(s.peak_lr, s.steps, warmup=s.phases[0])) for s in part.schedules]
    with pytest.raises(ThalwegError, match="does not rise or does not fall"):
        OptLawFixedSize.fit(Runs.from_frame(part.frame.assign(schedule=flat)))


def test_a_jump_in_a_table_of_values_is_named():
    budget, _ = inside()
    values = np.concatenate([np.linspace(1e-5, 2e-3, 100), np.full(2900, 2e-3), np.linspace(2e-4, 1e-5, 3000)])
    law = OptLaw.fit(grid_of_runs())
    with pytest.warns(ThalwegWarning, match="jumps at step 3000"):
        law.predict(from_values(values, phases=(100, 3000, 3000)), budget)


@pytest.mark.filterwarnings("error::thalweg.outcomes.ThalwegWarning")
def test_a_table_without_a_jump_says_nothing():
    budget, schedules = inside()
    law = OptLaw.fit(grid_of_runs())
    for schedule in schedules:
        law.predict(from_values(schedule.values(), phases=tuple(schedule.phases)), budget)


def test_a_plan_says_what_its_law_does_not_see():
    budget, schedules = inside()
    assert OptLaw.published().blind_to == ""
    assert "Chinchilla does not see schedules" in plan(Chinchilla.fit(grid_of_runs()), budget, schedules).summary()
    law = BowlLaw.fit(grid_of_runs())
    assert law.blind_to == "anything of a schedule but peak_lr"
    assert f"does not see {law.blind_to}" in plan(law, budget, schedules).summary()
    assert "does not see" not in plan(OptLaw.fit(grid_of_runs()), budget, schedules).summary()


def test_only_finished_runs_count_for_the_choice_of_opt_law():
    runs = grid_of_runs().subset(np.arange(320) % 4 == 0)  # 80
    doomed = Runs.from_frame(runs.frame.assign(diverged=np.arange(80) % 2 == 0))
    (opt_law,) = (each for each in select(doomed).candidates if each.name == "OptLaw")
    assert opt_law.error is None and "got 40 that did not diverge" in opt_law.reason


@pytest.mark.parametrize("name", ["Chinchilla", "OptLaw", "BowlLaw", "GaussianProcessLaw", "BrokenPowerLaw", "Kaplan"])
def test_one_loss_for_all_runs_tells_nothing(name):
    with pytest.raises(ThalwegError, match="all 320 reached the same loss, 3: nothing can be told"):
        laws.find(name).fit(with_loss(grid_of_runs(), np.full(320, 3.0)))
    with pytest.raises(ThalwegError, match="no law can be fitted"):
        select(with_loss(grid_of_runs(), np.full(320, 3.0)))


def test_a_hill_has_no_best_learning_rate_and_a_slope_none_within_the_runs():
    peak = np.log([schedule.peak_lr for schedule in grid_of_runs().schedules]) - np.log(2e-3)
    size = np.array([1.7 + 400 * b.params**-0.34 + 1500 * b.tokens**-0.36 for b in grid_of_runs().budgets])
    hill = BowlLaw.fit(with_loss(grid_of_runs(), size * np.exp(-0.01 * peak**2)))
    assert "no best peak_lr" in hill.summary()
    with pytest.raises(ThalwegError, match="no minimum"):
        hill.optimum(1e8, 4e9)
    slope = BowlLaw.fit(with_loss(grid_of_runs(), size * np.exp(-0.02 * peak)))
    assert "no best peak_lr" in slope.summary() or "do not show a bottom" in slope.summary()
