"""Whole training runs with the probe on: every source of the loss, accumulation, scaling, autocast, the edge of stability."""

from __future__ import annotations

import math
import types

import pytest
import torch
import torch.nn.functional as F
from torch import nn

import thalweg as tw
from tests.curvature.steps.test_replay import Host, tokens
from tests.curvature.training import adamw, batches, cross_entropy, network, outcome_of_run, train
from thalweg.curvature import capture, critical_sharpness
from thalweg.curvature.probes.history import UNITS

torch.set_num_threads(1)


@pytest.mark.parametrize("source", ["closure", "watch", "default", "replay"])
def test_200_steps_are_bit_identical_with_and_without_the_probe(source):
    """AdamW, dropout, BatchNorm; every source of the loss; and the probe did measure."""
    model, optimizer = network(), None
    if source == "replay":
        model = WithLoss(model)
    optimizer = adamw(model)
    loss_fn = (lambda model, batch: model(*batch).loss) if source == "replay" else cross_entropy
    losses = train(model, optimizer, batches(200), loss_fn)
    plain = outcome_of_run(model, optimizer, losses)

    model = network()
    if source == "replay":
        model = WithLoss(model)
    optimizer, current, rows = adamw(model), {}, []
    options = {
        "closure": {"closure": lambda: cross_entropy(model, current["batch"])},
        "watch": {"loss_fn": cross_entropy},
    }
    measures = {"critical": 5, "hessian": 50, "preconditioned": 50}
    with tw.probe(
        model, optimizer, measures=measures, log=lambda row, step: rows.append((step, row)), **options.get(source, {})
    ) as probe:
        loader = probe.watch(batches(200)) if source in ("watch", "default") else batches(200)
        losses = train(model, optimizer, loader, loss_fn, current)
    assert outcome_of_run(model, optimizer, losses) == plain

    history = probe.history
    assert [row["step"] for row in history.rows] == list(range(5, 201, 5)) == [step for step, _ in rows]
    assert {row["probe/outcome"] for row in history.rows} == {"OK"}
    for row, (_, logged) in zip(history.rows, rows, strict=True):
        assert {key: value for key, value in row.items() if key not in ("step", "probe/outcome")} == logged
        assert set(logged) <= set(UNITS)
        assert all(type(value) is float and math.isfinite(value) for value in logged.values())
        always = {"sharpness/critical", "sharpness/threshold_critical", "lr/critical", "stability/margin"}
        always |= {"probe/forward_passes", "probe/seconds"}
        second = {"sharpness/hessian", "sharpness/preconditioned", "sharpness/threshold"}
        assert set(logged) == (always | second if row["step"] % 50 == 0 else always)
        assert logged["stability/margin"] == pytest.approx(logged["lr/critical"] / 3e-3)
        assert logged["sharpness/critical"] == pytest.approx(2 / logged["lr/critical"])
        assert logged["sharpness/threshold_critical"] == pytest.approx(2 / 3e-3)
    assert history.rows[9]["sharpness/threshold"] == pytest.approx((2 / 3e-3 - 0.1) * 19)


class WithLoss(nn.Module):
    def __init__(self, inner):
        super().__init__()
        self.inner = inner

    def forward(self, x, y):
        logits = self.inner(x)
        return types.SimpleNamespace(loss=F.cross_entropy(logits, y), logits=logits)


def test_the_batch_and_the_masks_that_made_the_step_are_measured():
    """Against a capture by hand at step 7, with the random state of that step's forward."""
    model = network()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=7, loss_fn=cross_entropy) as probe:
        train(model, optimizer, probe.watch(batches(7)))

    model = network()
    optimizer = adamw(model)
    *first, last = batches(7)
    train(model, optimizer, first)
    state = torch.get_rng_state()
    optimizer.zero_grad()
    cross_entropy(model, last).backward()

    def closure():
        torch.set_rng_state(state)
        return cross_entropy(model, last)

    with capture(model, optimizer, closure) as step:
        optimizer.step()
    by_hand = critical_sharpness(step)
    (row,) = probe.history.rows
    assert row["stability/margin"] == by_hand.multiple
    assert row["probe/forward_passes"] == by_hand.forward_passes
    another = next(batches(1, seed=9))
    step.closure, step._start = lambda: cross_entropy(model, another), None
    assert critical_sharpness(step).multiple != pytest.approx(row["stability/margin"], rel=0.05)


def test_gradient_accumulation_takes_all_micro_batches_since_the_last_step():
    """Three micro-batches of 4 rows are one batch of 12: the same margin, without dropout and BatchNorm."""

    def plain():
        torch.manual_seed(0)
        return nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3)).double()

    whole = [(x.double(), y) for x, y in batches(6)]
    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tw.probe(model, optimizer, every=3) as probe:
        train(model, optimizer, probe.watch(whole))
    expected = [row["stability/margin"] for row in probe.history.rows]

    model = plain()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    with tw.probe(model, optimizer, every=3) as probe:
        pieces = [(x[i : i + 4], y[i : i + 4]) for x, y in whole for i in (0, 4, 8)]
        for i, batch in enumerate(probe.watch(pieces)):
            (cross_entropy(model, batch) / 3).backward()
            if i % 3 == 2:
                optimizer.step()
                optimizer.zero_grad()
    assert [row["step"] for row in probe.history.rows] == [3, 6]
    assert [row["stability/margin"] for row in probe.history.rows] == pytest.approx(expected, rel=1e-12)


def test_replay_of_a_language_model_with_accumulation():
    model = Host()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=2) as probe:
        for step in range(4):
            for i in range(2):
                (model(**tokens(10 * step + i)).loss / 2).backward()
            optimizer.step()
            optimizer.zero_grad()
    assert [(row["step"], row["probe/outcome"]) for row in probe.history.rows] == [(2, "OK"), (4, "OK")]


def test_an_optimizer_that_calls_its_closure_inside_the_step():
    """As LBFGS does, and Lightning: forward and backward run between the hooks."""
    model = network()[0]
    optimizer = torch.optim.LBFGS(model.parameters(), lr=0.1, max_iter=4)
    x, _ = next(batches(1))

    def closure():
        optimizer.zero_grad()
        loss = model(x).square().mean()
        loss.backward()
        return loss

    with tw.probe(model, optimizer, every=1, closure=lambda: model(x).square().mean()) as probe:
        for _ in range(3):
            optimizer.step(closure)
    assert [row["probe/outcome"] for row in probe.history.rows] == ["OK"] * 3
    assert probe.history.note.startswith("LBFGS")


def test_several_groups_wrappers_and_a_tensor_learning_rate():
    model = network()
    groups = [
        {"params": model[0].parameters(), "lr": torch.tensor(0.02)},
        {"params": model[4].parameters(), "lr": 0.01},
    ]
    inner = torch.optim.SGD(groups, momentum=0.9)
    with tw.probe(model, types.SimpleNamespace(optimizer=inner), every=4) as probe:
        train(model, inner, probe.watch(batches(8)))
    assert [row["sharpness/threshold_critical"] for row in probe.history.rows] == pytest.approx([100.0, 100.0])


def test_a_skipped_step_is_not_a_step():
    """GradScaler leaves the optimizer out where gradients overflow."""
    model = network()
    optimizer = adamw(model)
    scaler = torch.amp.GradScaler("cpu", init_scale=1024.0)
    with tw.probe(model, optimizer, every=1) as probe:
        for i, batch in enumerate(probe.watch(batches(3))):
            optimizer.zero_grad()
            scaler.scale(cross_entropy(model, batch) * (math.inf if i == 1 else 1.0)).backward()
            scaler.step(optimizer)
            scaler.update()
    assert [row["step"] for row in probe.history.rows] == [1, 2]


def test_bfloat16_autocast():
    model = network()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=5) as probe:
        for batch in probe.watch(batches(20)):
            optimizer.zero_grad()
            with torch.autocast("cpu", dtype=torch.bfloat16):
                loss = cross_entropy(model, batch)
            loss.backward()
            optimizer.step()
    assert [row["probe/outcome"] for row in probe.history.rows] == ["OK"] * 4


def test_warmup_from_zero():
    """The first step of a linear warmup has learning rate 0: no passes, and the next measurement checks afresh."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    scheduler = torch.optim.lr_scheduler.LambdaLR(optimizer, lambda step: step / 3)
    with tw.probe(model, optimizer, every=1) as probe:
        for batch in probe.watch(batches(3)):
            train(model, optimizer, [batch])
            scheduler.step()
    first, second, third = probe.history.rows
    assert (first["probe/outcome"], first["probe/forward_passes"]) == ("NO_UPDATE", 0.0)
    assert set(first) == {"step", "probe/outcome", "probe/forward_passes", "probe/seconds"}
    assert second["sharpness/threshold_critical"] == pytest.approx(60.0)
    assert third["probe/outcome"] == "OK"


def test_the_edge_of_stability_in_a_full_batch_run():
    """Gradient descent on a small tanh network: both λ_max·η/2 and the margin settle at 1."""
    torch.manual_seed(0)
    model = nn.Sequential(nn.Linear(2, 24), nn.Tanh(), nn.Linear(24, 1)).double()
    x = torch.randn(24, 2, dtype=torch.float64)
    batch = (x, torch.sin(3 * x[:, :1]) * x[:, 1:])
    optimizer = torch.optim.SGD(model.parameters(), lr=0.2)
    with tw.probe(model, optimizer, every=100, measures=("critical", "hessian")) as probe:
        train(model, optimizer, probe.watch([batch] * 3000), loss_fn=lambda m, b: F.mse_loss(m(b[0]), b[1]))
    rows = probe.history.rows
    assert {row["probe/outcome"] for row in rows} == {"OK"}
    early, late = rows[1], rows[14:]
    assert early["stability/margin"] > 50  # the margin stays in the hundreds while λ_max climbs, then collapses
    assert early["sharpness/hessian"] < early["sharpness/threshold"] == pytest.approx(10.0)
    for row in late:
        assert row["sharpness/hessian"] / row["sharpness/threshold"] == pytest.approx(1.0, abs=0.06)
        assert row["stability/margin"] == pytest.approx(1.0, abs=0.06)
