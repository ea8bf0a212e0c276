"""Callbacks, the cap and the stop, on margins made by hand and on quadratics whose critical learning rate is 2/λ."""

from __future__ import annotations

import copy
import itertools
import json
import warnings

import pytest
import torch
from torch import nn

import thalweg as tw
from tests.curvature import act_on_ranks
from tests.curvature.training import adamw, batches, network, outcome_of_run, train
from tests.ranks import on_two_ranks
from thalweg.curvature import History, JsonlLog, StopTraining
from thalweg.curvature.probes.actions import Action, Guard, LrCap
from thalweg.curvature.probes.alarms import Alarm
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.units import format_lr

torch.set_num_threads(1)

CRITICAL = 2 / 3  # of gradient descent on 3x²/2


class Quadratic:
    """Gradient descent on 3x²/2 from 1; every step's critical learning rate is 2/3, whatever the step."""

    def __init__(self, lr, *, every=1, **options):
        self.x = nn.Parameter(torch.ones(1, dtype=torch.float64))
        self.optimizer = torch.optim.SGD([self.x], lr=lr)
        model = nn.ParameterList([self.x])
        self.probe = tw.probe(model, self.optimizer, every=every, closure=self.loss, **options)

    def loss(self):
        return 1.5 * (self.x**2).sum()

    def train(self, steps, scheduler=None):
        lrs = []
        with self.probe:
            for _ in range(steps):
                self.optimizer.zero_grad()
                self.loss().backward()
                self.optimizer.step()
                lrs.append(self.optimizer.param_groups[0]["lr"])
                if scheduler is not None:
                    scheduler.step()
        return lrs

    @property
    def lrs(self):
        """That the measured steps ran at."""
        return (2 / self.probe.history.column("sharpness/threshold_critical")[1]).tolist()


# Callbacks


def hand_made(margins, on_unstable="record", lrs=None):
    """A guard, and rows with these margins at these learning rates, 1 by default."""
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=1.0)
    rows = [
        {
            "step": i,
            "stability/margin": m,
            "lr/critical": m * lr,
            "sharpness/threshold_critical": 2 / lr,
            "probe/outcome": "OK",
        }
        for i, (m, lr) in enumerate(zip(margins, lrs or itertools.repeat(1.0), strict=False), start=1)
    ]
    return Guard(optimizer, on_unstable, measures=("critical",)), rows


def test_callbacks_get_the_row():
    guard, rows = hand_made([3.0, 0.9, 0.5, 2.0, 0.9])
    called = []
    guard.add(Alarm(1.0), called.append, ())
    for row in rows:
        guard.act(row, guard.decide(row, 1.0))
    assert called == [rows[1], rows[4]]
    assert not any("probe/action" in row for row in rows)


def test_on_margin_of_a_run_that_gets_unstable():
    """The learning rate doubles over the critical one, comes back, and doubles again."""
    run = Quadratic(0.5)
    called = []
    run.probe.on_margin(1, lambda row: called.append((row["step"], round(row["lr/critical"], 2))))
    by_step = [0.5, 1.0, 1.0, 0.5, 1.0, 0.2, 1.0]
    scheduler = torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda t: by_step[min(t, 6)] / 0.5)
    run.train(7, scheduler)
    assert [step for step, _ in called] == [2, 7]  # .5 has a margin of 4/3 only: no recovery
    assert all(critical == pytest.approx(CRITICAL, rel=1 / 16) for _, critical in called)
    assert len(run.probe.history.rows) == 7


def test_what_a_callback_raises_goes_through_after_the_row():
    run = Quadratic(1.0)

    def angry(row):
        raise LookupError(row["step"])

    run.probe.on_margin(1, angry)
    with pytest.raises(LookupError, match="1"):
        run.train(3)
    assert len(run.probe.history.rows) == 1


def test_a_dip_is_not_told_again_after_a_resume():
    run = Quadratic(1.0)
    run.train(3)
    for load_first in (True, False):
        again, called = Quadratic(1.0), []
        if load_first:
            again.probe.load_state_dict(run.probe.state_dict())
        again.probe.on_margin(1, called.append)
        if not load_first:
            again.probe.load_state_dict(run.probe.state_dict())
        again.train(2)
        assert called == []
    fresh, called = Quadratic(1.0), []
    fresh.probe.on_margin(1, called.append)
    fresh.train(2)
    assert len(called) == 1


# Policies


def test_record_is_the_default_and_changes_nothing():
    run = Quadratic(1.0)
    assert run.train(4) == [1.0] * 4
    assert run.probe.history.actions == ()
    assert run.x.item() == 16.0  # (1 - 3)^4


@pytest.mark.parametrize("policy", ["record", "alert", "cap_lr", "stop"])
def test_a_healthy_run_is_bit_identical_under_every_policy(policy):
    model = network()
    optimizer = adamw(model)
    plain = outcome_of_run(model, optimizer, train(model, optimizer, batches(60)))
    model = network()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=2, on_unstable=policy) as probe:
        losses = train(model, optimizer, probe.watch(batches(60)))
    assert outcome_of_run(model, optimizer, losses) == plain
    assert len(probe.history.rows) == 30
    assert probe.history.actions == ()


def test_alert_warns_once_with_both_numbers():
    run = Quadratic(1.0, on_unstable="alert")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        run.train(6)
    (warning,) = caught
    assert warning.category is ThalwegWarning
    step, (number, text) = 3, run.probe.history.actions[0]
    critical = run.probe.history.rows[2]["lr/critical"]
    assert critical == pytest.approx(CRITICAL, rel=1 / 16)
    assert (number, text) == (step, f"alert: LR 1e0, critical {format_lr(critical)}")
    assert str(warning.message) == f"step 3: {text}"


def test_an_alert_is_told_again_only_after_margins_of_2():
    def told(margins):
        guard, rows = hand_made(margins, "alert")
        return [row["step"] for row in rows if guard.decide(row, 1.0) is not None]

    low, calm = [0.4, 0.4], [1.9] * 9
    assert told(low + calm + low) == [2]
    assert told([*low, *calm, 2.0, *low]) == [2, 14]
    assert told([0.4] * 500 + [3.0] * 11 + low) == [2, 513]
    assert told([0.3, 4.0] * 20) == [3]


def test_every_step_is_measured_while_margins_are_low():
    by_step = [0.2, 0.2, 0.5, 0.5, 0.5, 0.2, 0.2, 0.2, 0.2, 0.2]  # margins of 3.3 and 1.3

    def measured(policy):
        run = Quadratic(1.0, every=4, on_unstable=policy)
        run.train(10, torch.optim.lr_scheduler.LambdaLR(run.optimizer, lambda t: by_step[min(t, 9)]))
        return [row["step"] for row in run.probe.history.rows]

    assert measured("record") == [4, 8]
    for policy in ("alert", "cap_lr", "stop"):
        assert measured(policy) == [4, 5, 6, 8]


def test_stop_raises_when_the_step_is_done():
    run = Quadratic(1.0, on_unstable="stop")
    with pytest.raises(StopTraining, match=r"^step 3: stop: LR 1e0, critical 6\.\d+e-1$") as raised:
        run.train(6)
    assert raised.value.step == 3
    assert raised.value.action.lr == 1.0
    assert raised.value.action.critical_lr == pytest.approx(CRITICAL, rel=1 / 16)
    assert run.x.item() == -8.0  # (1 - 3)³: three whole steps
    assert len(run.probe.history.rows) == 3
    assert not run.optimizer._optimizer_step_pre_hooks
    assert not isinstance(raised.value, ThalwegError)  # nobody made a mistake in the input


def test_a_host_is_asked_to_stop_instead():
    run = Quadratic(1.0, on_unstable="stop")
    asked = []
    run.probe.on_stop(asked.append)
    with pytest.warns(ThalwegWarning, match="^step 3: stop: LR 1e0, critical"):
        run.train(6)  # a host that goes on for a while is asked once
    assert [(stop.step, str(stop)) for stop in asked] == [(3, f"step 3: {run.probe.history.actions[0][1]}")]


@pytest.mark.parametrize("policy", ["alert", "cap_lr", "stop"])
def test_weights_that_are_not_finite_are_told_by_every_policy(policy):
    run = Quadratic(0.1, on_unstable=policy)
    with torch.no_grad():
        run.x.fill_(float("nan"))
    words = "LR 1e-1, weights or loss no longer finite"
    if policy == "stop":
        with pytest.raises(StopTraining, match=words):
            run.train(3)
    else:
        with pytest.warns(ThalwegWarning, match=words) as caught:
            assert run.train(3) == [0.1] * 3
        assert len(caught) == 1
    assert "lr/cap" not in run.probe.history.rows[-1]


# The cap


def test_the_cap_rescues_a_diverging_quadratic():
    plain = Quadratic(1.0)
    plain.train(40)
    assert plain.x.item() == 2.0**40
    run = Quadratic(1.0, on_unstable="cap_lr")
    with pytest.warns(ThalwegWarning, match="step 3: cap_lr: LR 1e0, critical") as caught:
        seen = run.train(40)
    assert len(caught) == 1
    assert abs(run.x.item()) < 1e-9
    assert run.lrs[:3] == [1.0] * 3
    assert run.lrs[3:] == pytest.approx([CRITICAL / 2] * 37, rel=1 / 16)  # half the critical one
    assert seen == [1.0] * 40  # after each step the schedule's value stands
    caps = [row.get("lr/cap") for row in run.probe.history.rows]
    assert caps[:2] == [None, None]
    assert caps[2:] == pytest.approx([CRITICAL / 2] * 38, rel=1 / 16)
    assert run.probe.history.actions[0][1].endswith(f"next steps under {format_lr(caps[2])}")


def test_all_groups_are_lowered_by_one_factor_also_tensors():
    a, b = (nn.Parameter(torch.ones(1, dtype=torch.float64)) for _ in range(2))
    rate = torch.tensor(0.5, dtype=torch.float64)
    optimizer = torch.optim.SGD([{"params": [a], "lr": 1.0}, {"params": [b], "lr": rate}], lr=1.0)
    cap = LrCap(optimizer)
    cap.set(critical_lr=0.5, lr=1.0)
    cap.lower()
    assert (cap.ceiling, cap.scheduled) == (0.25, 1.0)
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.25, 0.125]
    cap.lift()
    assert [float(group["lr"]) for group in optimizer.param_groups] == [1.0, 0.5]
    assert optimizer.param_groups[1]["lr"] is rate
    optimizer.param_groups[0]["lr"] = 0.2  # under the ceiling: as it is
    cap.lower()
    assert [float(group["lr"]) for group in optimizer.param_groups] == [0.2, 0.5]


def test_a_schedule_that_computes_from_its_last_value_is_not_disturbed():
    """ExponentialLR multiplies what it finds; the same learning rates are scheduled with and without the cap."""
    plain = Quadratic(1.0)
    scheduled = plain.train(60, torch.optim.lr_scheduler.ExponentialLR(plain.optimizer, 0.97))
    run = Quadratic(1.0, on_unstable="cap_lr")
    with pytest.warns(ThalwegWarning, match="cap_lr"):
        seen = run.train(60, torch.optim.lr_scheduler.ExponentialLR(run.optimizer, 0.97))
    assert seen == scheduled
    first, last = (text for _, text in run.probe.history.actions)
    assert first.startswith("cap_lr: LR 9.41e-1, critical ")
    assert last.startswith("release: ")
    (_, (released, _)) = run.probe.history.actions
    assert 30 < released < 45  # .97^t = 1/3 at t = 36
    assert run.lrs[released:] == pytest.approx(scheduled[released:])
    assert all(lr <= CRITICAL / 2 * 1.07 for lr in run.lrs[3:])


def test_the_ceiling_follows_down_at_once_and_up_slowly():
    cap = LrCap(torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=8.0))
    cap.lower()
    cap.set(critical_lr=4.0, lr=8.0)
    assert not cap.follow(critical_lr=0.2, lr=2.0)
    assert cap.ceiling == 0.1
    assert not cap.follow(critical_lr=100.0, lr=0.1)
    assert cap.ceiling == pytest.approx(0.105)  # a twentieth more
    assert not cap.follow(critical_lr=0.0, lr=0.2)  # a climb says nothing but: less
    assert cap.ceiling == 0.1
    while not cap.follow(critical_lr=100.0, lr=0.1):
        pass
    assert cap.ceiling is None


def test_an_error_in_the_middle_of_a_capped_step():
    run = Quadratic(1.0, on_unstable="cap_lr")
    with pytest.warns(ThalwegWarning, match="cap_lr"):
        run.train(3)

    def failing():
        raise torch.OutOfMemoryError("no memory left")

    with pytest.raises(torch.OutOfMemoryError), run.probe:
        run.optimizer.step(failing)
    assert run.optimizer.param_groups[0]["lr"] == 1.0
    run.train(2)
    assert run.lrs[-1] == pytest.approx(CRITICAL / 2, rel=1 / 16)


def test_a_resumed_run_goes_on_under_its_cap():
    def run(resume):
        made = Quadratic(1.0, every=2, on_unstable="cap_lr")
        with warnings.catch_warnings():
            warnings.simplefilter("ignore", ThalwegWarning)
            made.train(7)
            if resume:
                kept = copy.deepcopy((made.probe.state_dict(), made.optimizer.state_dict())), made.x.item()
                made = Quadratic(1.0, every=2, on_unstable="cap_lr")
                (probe, optimizer), weight = kept
                json.dumps(probe)  # plain values
                made.probe.load_state_dict(probe)
                made.optimizer.load_state_dict(optimizer)
                with torch.no_grad():
                    made.x.fill_(weight)
            made.train(9)
        return made.x.item(), [{k: v for k, v in r.items() if k != "probe/seconds"} for r in made.probe.history.rows]

    assert run(resume=True) == run(resume=False)
    state = Quadratic(1.0).probe.state_dict()
    del state["lr_cap"]  # of an earlier version
    Quadratic(1.0).probe.load_state_dict(state)


def test_a_run_that_was_capped_goes_on_under_another_policy():
    """What was a cap is an alert that was told: it is not told again."""
    run = Quadratic(1.0, on_unstable="cap_lr")
    with pytest.warns(ThalwegWarning, match="cap_lr"):
        run.train(3)
    again = Quadratic(1.0, on_unstable="alert")
    again.probe.load_state_dict(run.probe.state_dict())
    assert again.train(4) == [1.0] * 4
    assert [step for step, _ in again.probe.history.actions] == [3]


def test_a_capped_run_that_is_lost_after_a_resume_is_told():
    run = Quadratic(1.0, on_unstable="cap_lr")
    with pytest.warns(ThalwegWarning, match="cap_lr"):
        run.train(3)
    again = Quadratic(1.0, on_unstable="cap_lr")
    again.probe.load_state_dict(run.probe.state_dict())
    with torch.no_grad():
        again.x.fill_(float("nan"))
    with pytest.warns(ThalwegWarning, match="step 4: alert: .*no longer finite") as caught:
        again.train(2)
    assert len(caught) == 1
    passive = Quadratic(1.0)  # resumed without the policy: no cap is left behind
    passive.probe.load_state_dict(run.probe.state_dict())
    passive.train(2)
    assert passive.lrs[-2:] == [1.0, 1.0]


# Where it is told


def test_every_action_is_in_the_jsonl_and_the_numbers_in_the_log(tmp_path):
    path = tmp_path / "probe.jsonl"
    run = Quadratic(1.0, on_unstable="cap_lr", log=JsonlLog(path))
    with pytest.warns(ThalwegWarning):
        run.train(4)
    assert History.read_jsonl(path).actions == run.probe.history.actions
    assert run.probe.history.rows == History.read_jsonl(path).rows
    logged = []
    run = Quadratic(1.0, on_unstable="cap_lr", log=lambda values, step: logged.append(values))
    with pytest.warns(ThalwegWarning):
        run.train(4)
    assert ["lr/cap" in values for values in logged] == [False, False, True, True]
    assert all(type(value) is float for values in logged for value in values.values())


def test_actions_stand_in_summary_and_frame():
    rows = [{"step": i, "stability/margin": 0.8, "probe/outcome": "OK"} for i in range(1, 9)]
    for row in rows:
        row["probe/action"] = f"alert: {row['step']}"
    history = History(tuple(rows))
    assert "step 5: alert: 5" in history.summary()
    assert "step 6" not in history.summary()
    assert "3 more actions" in history.summary()
    assert history.to_frame()["probe/action"].tolist()[0] == "alert: 1"
    points = history.figures()[0].marks[-1]
    assert (points.label, list(points.x), set(points.y)) == ("the probe acted", list(range(1, 9)), {0.8})
    assert str(Action("alert", 3e-3, 1.9e-3)) == "alert: LR 3e-3, critical 1.9e-3"


def test_what_needs_margins_says_so():
    optimizer = torch.optim.SGD([torch.zeros(1, requires_grad=True)], lr=0.1)
    model = nn.Linear(1, 1)
    with pytest.raises(ThalwegError, match=r'on_unstable.*measures=\("critical",\)'):
        tw.probe(model, optimizer, measures=("hessian",), on_unstable="stop")
    with pytest.raises(ThalwegError, match="on_margin"):
        tw.probe(model, optimizer, measures=("hessian",)).on_margin(1, print)
    with pytest.raises(ThalwegError, match="one of record, alert, cap_lr, stop"):
        tw.probe(model, optimizer, on_unstable="panic")


# Many ranks


def test_two_ranks_act_alike_and_one_speaks(tmp_path):
    """DDP and FSDP2: the same rows and caps on both ranks and in one process; only the first rank warns."""
    first, second = on_two_ranks("tests.curvature.act_on_ranks", tmp_path)
    alone = act_on_ranks.capped("one")
    assert alone["warned"]
    for how in first:
        rows, same, expected = (
            [{k: v for k, v in row.items() if k != "probe/seconds"} for row in case["rows"]]
            for case in (first[how], second[how], alone)
        )
        assert rows == same
        assert [row.get("probe/action") for row in rows] == [row.get("probe/action") for row in expected]
        assert any("lr/cap" in row for row in rows)
        assert (len(first[how]["warned"]), second[how]["warned"]) == (len(alone["warned"]), [])
    assert first["ddp"]["weights"] == second["ddp"]["weights"]


# What the steps would have tolerated


def test_safe_lr_of_a_quadratic_is_its_critical_one():
    run = Quadratic(0.1)
    run.train(20)
    band = run.probe.history.safe_lr()
    assert band.safe == pytest.approx(CRITICAL, rel=1 / 16)
    assert band.edge == pytest.approx(CRITICAL, rel=1 / 16)
    assert band.spread < 1.1
    assert band.lr == pytest.approx(0.1)
    assert History(()).safe_lr() is None


def test_safe_lr_is_a_low_quantile_over_the_plateau():
    """Steps 0 to 40; the middle half, 10 to 30, holds 21 values 1, …, 21: at least 90 % reach 3."""
    rows = [
        {"step": s, "lr/critical": s - 9.0, "sharpness/threshold_critical": 2 / 0.5, "probe/outcome": "OK"}
        for s in range(41)
    ]
    band = History(tuple(rows)).safe_lr()
    assert (band.safe, band.edge, band.lr) == (3.0, 11.0, 0.5)
    assert sum(band.critical_lrs >= band.safe) / len(band.critical_lrs) >= 0.9
    assert band.spread == pytest.approx(19 / 3)
