"""Iso-loss families: who belongs together, and how different its members are; the paper's Fig. 7."""

from __future__ import annotations

import numpy as np
import pytest

from tests.laws.bowls import ToyBowl
from thalweg.laws import DivergenceCriterion, OptLaw, plan
from thalweg.laws.plans.families import Family, families, figure_of, shape_of
from thalweg.schedules import Budget, Space, cosine, four_phase, from_values, linear, wsd

BUDGET = Budget(params=0.58e9, tokens=10e9, batch_tokens=1e6)
STEPS = BUDGET.steps
LAW = ToyBowl()  # optimum at peak 3e-3, warmup 400
# four schedules on one contour of the bowl, log(2) from the optimum, two better ones, and one far away
CONTOUR = [
    linear(6e-3, STEPS, warmup=400), cosine(1.5e-3, STEPS, warmup=400), wsd(3e-3, STEPS, warmup=800),
    linear(3e-3, STEPS, warmup=200),
]  # fmt: skip
INNER = [linear(3e-3, STEPS, warmup=400), cosine(3e-3, STEPS, warmup=400)]
FAR = linear(2e-2, STEPS, warmup=20)


def test_schedules_on_one_contour_are_a_family_whatever_their_shape():
    found = plan(LAW, BUDGET, [*CONTOUR, FAR, *INNER]).families(1e-9)
    assert [set(family.schedules) for family in found] == [set(INNER), set(CONTOUR)]
    assert found[1].shapes == ("cosine", "linear", "wsd")
    assert found[1].gaps == pytest.approx(0.05 * np.log(2) ** 2)
    wide = plan(LAW, BUDGET, [*CONTOUR, FAR, *INNER]).families(0.1)
    assert [len(family.schedules) for family in wide] == [6]


def test_members_are_within_the_tolerance_and_nobody_else_is():
    gaps = np.sort(np.random.default_rng(0).random(200)) * 0.1
    schedules = [linear(1e-3, STEPS, warmup=row + 1) for row in range(200)]
    found = families(schedules, gaps, 0.003)
    taken = [schedule for family in found for schedule in family.schedules]
    assert len(taken) == len(set(taken))
    for family in found:
        assert len(family.schedules) >= 2
        assert np.ptp(family.gaps) < 0.003
        first = schedules.index(family.schedules[0])
        following = first + len(family.schedules)
        assert following == 200 or gaps[following] >= gaps[first] + 0.003
    alone = [row for row in range(200) if schedules[row] not in taken]
    assert all(gaps[row + 1] - gaps[row] >= 0.003 for row in alone if row < 199)


def test_the_tolerance_is_the_seed_noise_where_that_is_known_and_is_said_else():
    assert {family.tolerance for family in plan(LAW, BUDGET, INNER).families()} == {0.001}
    from thalweg.laws import Evidence

    noisy = ToyBowl(evidence=Evidence(seed_noise=0.05))
    assert {family.tolerance for family in plan(noisy, BUDGET, [*INNER, *CONTOUR]).families()} == {0.05}
    assert plan(LAW, BUDGET, INNER).families(0.0) == ()


def test_those_that_diverge_belong_to_none():
    criterion = DivergenceCriterion.published()
    hot = [linear(2e-2, STEPS, warmup=100), wsd(2e-2, STEPS, warmup=100)]
    assert criterion.diverges(hot[0], BUDGET)
    found = plan(LAW, BUDGET, [*hot, *INNER], divergence=criterion)
    assert [set(family.schedules) for family in found.families()] == [set(INNER)]


def test_unlike_members_are_far_from_each_other():
    group = Family((*INNER, linear(3e-3, STEPS, warmup=401), linear(6e-3, STEPS, warmup=3000)), np.zeros(4), 0.001)
    assert group.unlike(2) == (INNER[0], linear(6e-3, STEPS, warmup=3000))
    assert group.unlike(3) == (INNER[0], linear(6e-3, STEPS, warmup=3000), INNER[1])
    assert set(group.unlike(99)) == set(group.schedules)


def test_the_paper_finds_different_schedules_of_one_loss():
    """Fig. 7: three schedules of the 8×0.6B model on 100B tokens, all of four phases; here of several shapes."""
    budget = Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048)
    options = {"peak_lr": (1e-3, 6e-3), "warmup": (500, 3000)}
    phases = {"plateau_lr": (5e-4, 1e-3), "decay_until": (4000, 8000), "cooldown_from": (12000, 20000)}
    found = plan(OptLaw.published(), budget, [Space("cosine", **options), Space("four_phase", **options, **phases)])
    widest = max(found.families(), key=lambda family: (len(family.shapes), len(family.schedules)))
    assert widest.shapes == ("cosine", "four_phase")
    losses = [OptLaw.published().predict(schedule, budget).loss for schedule in widest.unlike(3)]
    assert max(losses) / min(losses) - 1 < 0.001
    a, b = (np.array(schedule.values()) for schedule in widest.unlike(2))
    assert np.mean(np.abs(a - b)) > 0.2 * np.mean(a)


def test_the_figure_holds_the_families_a_colour_each():
    found = plan(LAW, BUDGET, [*CONTOUR, FAR, *INNER])
    figure = found.figures()[-1]
    assert figure.name == "plan_families"
    assert [mark.series for mark in figure.marks] == [0, 0, 1, 1, 1]
    assert [mark.label for mark in figure.marks] == ["+0.00% from the best", "", "+2.40% from the best", "", ""]
    assert [mark.style for mark in figure.marks] == ["solid", "dashed", "solid", "dashed", "dotted"]
    np.testing.assert_allclose(figure.marks[0].y, found.best(figure.marks[0].x))
    assert len(plan(LAW, BUDGET, [FAR, INNER[0]]).figures()) == 2, "no family, no figure"
    assert len(figure_of(found.families()[1:]).marks) == 3


def test_the_summary_says_what_is_as_good_as_the_best():
    line = next(x for x in plan(LAW, BUDGET, [*CONTOUR, *INNER]).summary().splitlines() if x.startswith("As good"))
    assert "2 schedules within 0.10% of each other (cosine, linear; peak_lr 3e-3 to 3e-3, warmup 400 to 400)" in line
    assert "no other schedule" in plan(LAW, BUDGET, [FAR, INNER[0]]).summary()


def test_frame_and_file(tmp_path):
    group = plan(LAW, BUDGET, [*CONTOUR, *INNER]).families()[1]
    frame = group.to_frame()
    assert list(frame.schedule) == [str(schedule) for schedule in group.schedules]
    assert set(frame["shape"]) == set(group.shapes)
    again = Family.load(group.save(tmp_path / "family.json"))
    assert again.summary() == group.summary()


def test_a_tabulated_schedule_has_a_short_name():
    assert shape_of(from_values(np.linspace(1e-3, 1e-4, 1000))) == "from_values"
    assert shape_of(four_phase(1e-3, 5e-4, 100, warmup=5, decay_until=20, cooldown_from=80)) == "four_phase"
