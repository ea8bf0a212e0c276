"""What goes wrong in real runs: the probe answers with an outcome or a warning, and training never notices.

Each situation trains a small model with and without the probe: weights, optimizer state, buffers and random states agree bit
for bit, and the rows say what was met.
"""

from __future__ import annotations

import math
import shutil

import pytest
import torch
from torch import nn

import thalweg as tw
from tests.curvature.state import bits, everything
from tests.curvature.training import adamw, batches, cross_entropy, network, outcome_of_run, train
from thalweg.curvature import MEASURES, capture, critical_sharpness
from thalweg.outcomes import Outcome, ThalwegWarning

torch.set_num_threads(1)

FORWARD_ONLY = ("critical", "directional", "norms")


@pytest.mark.parametrize("measure", [name for name in MEASURES if name != "norms"])  # norms evaluate nothing here
def test_out_of_memory_in_the_middle(measure):
    """The third evaluation of each measured step runs out of memory: a warning, FAILED, and the run is as without a probe."""
    model = network()
    optimizer = adamw(model)
    plain = outcome_of_run(model, optimizer, train(model, optimizer, batches(6)))

    model = network()
    optimizer = adamw(model)
    current, calls = {}, []

    def closure():
        calls.append(1)
        loss = cross_entropy(model, current["batch"])
        if len(calls) % 3 == 0:
            raise torch.OutOfMemoryError("CUDA out of memory. Tried to allocate 2.00 GiB")
        return loss

    with (
        pytest.warns(ThalwegWarning, match=f"{measure}: OutOfMemoryError: CUDA out of memory"),
        tw.probe(model, optimizer, every=2, measures=(measure,), closure=closure) as probe,
    ):
        losses = train(model, optimizer, batches(6), current=current)
    assert outcome_of_run(model, optimizer, losses) == plain
    outcomes = [row["probe/outcome"] for row in probe.history.rows]
    assert len(outcomes) == 3
    assert "FAILED" in outcomes


class Bag(nn.Module):
    """Mean of embeddings, and a head. Only the rows of the tokens that were seen have a gradient."""

    def __init__(self):
        super().__init__()
        generator = torch.Generator().manual_seed(0)
        self.table = nn.Embedding(50, 8, sparse=True)
        self.head = nn.Linear(8, 3)
        with torch.no_grad():
            for parameter in self.parameters():
                parameter.copy_(torch.randn(parameter.shape, generator=generator) / 3)

    def forward(self, tokens):
        return self.head(self.table(tokens).mean(1))


def sparse_batches(count):
    generator = torch.Generator().manual_seed(1)
    for _ in range(count):
        y = torch.randint(0, 3, (16,), generator=generator)
        told = torch.where(
            torch.rand(16, generator=generator) < 0.3, torch.randint(0, 3, (16,), generator=generator), y
        )
        yield torch.randint(0, 10, (16, 5), generator=generator) + 10 * told[:, None], y


@pytest.mark.parametrize(
    ("optimizer_class", "settings"), [(torch.optim.SGD, {"lr": 0.5}), (torch.optim.SparseAdam, {"lr": 0.01})]
)
def test_sparse_gradients(optimizer_class, settings):
    """An embedding with sparse=True, under SGD and SparseAdam: measured, and the sparse gradients come back."""

    def optimizer_of(model):
        return optimizer_class(model.table.parameters(), **settings)

    model = Bag()
    optimizer = optimizer_of(model)
    for batch in sparse_batches(10):
        train(model, optimizer, [batch])
    plain = {name: bits(p) for name, p in model.named_parameters()}, bits(model.table.weight.grad.to_dense())

    model = Bag()
    optimizer = optimizer_of(model)
    with tw.probe(model, optimizer, every=5, measures=FORWARD_ONLY) as probe:
        train(model, optimizer, probe.watch(sparse_batches(10)))
    assert model.table.weight.grad.is_sparse
    assert ({name: bits(p) for name, p in model.named_parameters()}, bits(model.table.weight.grad.to_dense())) == plain
    for row in probe.history.rows:
        assert row["probe/outcome"] == "OK"
        assert row["stability/margin"] > 1
        assert row["norm/gradient"] > 0
        assert row["sharpness/directional_error"] < 0.1


def test_the_slope_of_a_sparse_step_is_that_of_a_dense_one():
    slopes = []
    for sparse in (True, False):
        model = Bag()
        model.table.sparse = sparse
        optimizer = torch.optim.SGD(model.parameters(), lr=0.5)
        (batch,) = sparse_batches(1)
        cross_entropy(model, batch).backward()
        assert model.table.weight.grad.is_sparse == sparse
        with capture(model, optimizer, lambda model=model, batch=batch: cross_entropy(model, batch)) as step:
            optimizer.step()
        slopes.append((step.slope, critical_sharpness(step).multiple))
    assert slopes[0] == pytest.approx(slopes[1], rel=1e-6)


def test_a_scaler_that_skips_a_step():
    """Losses scaled by 2^16, the third one overflows: no row for the step that was not made, margins as without scaling."""

    def run(scaled, probed):
        model = network()
        optimizer = adamw(model)
        scaler = torch.amp.GradScaler("cpu", init_scale=2.0**16 if scaled else 1.0, growth_interval=1000)
        with tw.probe(model, optimizer, every=1 if probed else 10**9, measures=FORWARD_ONLY) as probe:
            for i, batch in enumerate(probe.watch(batches(6))):
                optimizer.zero_grad()
                loss = cross_entropy(model, batch) * (math.inf if i == 2 else 1.0)
                scaler.scale(loss).backward()
                scaler.unscale_(optimizer)
                scaler.step(optimizer)
                scaler.update()
        return outcome_of_run(model, optimizer, scaler.get_scale()), probe.history.rows

    plain, _ = run(scaled=True, probed=False)
    left, rows = run(scaled=True, probed=True)
    assert left == plain
    assert [row["step"] for row in rows] == [1, 2, 3, 4, 5]
    _, unscaled = run(scaled=False, probed=True)
    for row, expected in zip(rows, unscaled, strict=True):
        assert row["probe/outcome"] == expected["probe/outcome"]
        assert row.get("stability/margin") == pytest.approx(expected.get("stability/margin"), rel=1e-3)


def test_gradients_left_scaled_do_not_move_the_margin():
    """An optimizer may scale gradients in place inside its step: the slope is a hint, and decides nothing."""

    class Scaling(torch.optim.SGD):
        def step(self, closure=None):
            super().step(closure)
            for group in self.param_groups:
                for p in group["params"]:
                    p.grad.mul_(self.left_scaled)

    def measured(scale):
        model = network().double()
        optimizer = Scaling(model.parameters(), lr=0.1)
        optimizer.left_scaled = scale
        x, y = next(batches(1))
        cross_entropy(model, (x.double(), y)).backward()
        with capture(model, optimizer, lambda: cross_entropy(model, (x.double(), y))) as step:
            optimizer.step()
        row = MEASURES["directional"](step)
        return step.slope, critical_sharpness(step), row["sharpness/directional"]

    slope, critical, directional = measured(1.0)
    wrong_slope, again, same = measured(2.0**10)
    assert wrong_slope == pytest.approx(2**10 * slope)
    assert again.outcome is critical.outcome is Outcome.OK
    assert again.lower <= critical.upper
    assert critical.lower <= again.upper  # two certified intervals around one crossing
    assert same == directional


def test_two_optimizers_over_one_model():
    """Body and head have an optimizer each, and a probe each: each measures its own update, and neither moves the other."""

    def run(probed):
        model = network()
        body = torch.optim.AdamW(list(model[:4].parameters()), lr=3e-3)
        head = torch.optim.SGD(model[4].parameters(), lr=0.1)
        current = {}

        def closure():
            return cross_entropy(model, current["batch"])

        every = 2 if probed else 10**9
        with (
            tw.probe(model, body, every=every, measures=FORWARD_ONLY, closure=closure) as first,
            tw.probe(model, head, every=every, measures=FORWARD_ONLY, closure=closure) as second,
        ):
            losses = []
            for current["batch"] in batches(8):
                body.zero_grad()
                head.zero_grad()
                loss = closure()
                loss.backward()
                body.step()
                head.step()
                losses.append(loss.item())
        return (outcome_of_run(model, body, losses), outcome_of_run(model, head, losses)), first.history, second.history

    plain, *_ = run(probed=False)
    left, first, second = run(probed=True)
    assert left == plain
    for history, lr in ((first, 3e-3), (second, 0.1)):
        assert [row["step"] for row in history.rows] == [2, 4, 6, 8]
        assert [row["sharpness/threshold_critical"] for row in history.rows] == pytest.approx([2 / lr] * 4)
        assert {row["probe/outcome"] for row in history.rows} <= {"OK", "NOT_DESCENT"}
    margins = [[row["stability/margin"] for row in history.rows] for history in (first, second)]
    assert margins[0] != margins[1]


compiler = pytest.mark.skipif(
    shutil.which("g++") is None, reason="torch.compile's default backend needs a C++ compiler"
)


@pytest.mark.parametrize("backend", ["eager", pytest.param("inductor", marks=compiler)])
def test_critical_sharpness_of_a_compiled_model(backend):
    """torch.compile, by its default backend too: the rows are those of the model as it is, and it is compiled once."""

    def run(compiled):
        torch.manual_seed(0)
        inner = nn.Sequential(nn.Linear(6, 16), nn.GELU(), nn.Linear(16, 3)).double()
        seen = []

        def counting(module, inputs):
            seen.append(module)
            return torch._dynamo.lookup_backend(backend)(module, inputs)

        model = torch.compile(inner, backend=counting) if compiled else inner
        optimizer = adamw(inner)
        with tw.probe(model, optimizer, every=2, measures=FORWARD_ONLY) as probe:
            train(model, optimizer, probe.watch([(x.double(), y) for x, y in batches(6)]))
        return {name: p.detach().clone() for name, p in inner.named_parameters()}, probe.history.rows, len(seen)

    torch._dynamo.reset()
    weights, rows, _ = run(compiled=False)
    compiled_weights, compiled_rows, compilations = run(compiled=True)
    torch._dynamo.reset()
    for name, weight in weights.items():
        torch.testing.assert_close(compiled_weights[name], weight, rtol=1e-9, atol=1e-12)
    assert 1 <= compilations <= 2  # with gradients, and without
    for row, expected in zip(compiled_rows, rows, strict=True):
        assert row["probe/outcome"] == expected["probe/outcome"] == "OK"
        for key in ("stability/margin", "sharpness/critical", "sharpness/directional", "norm/update"):
            assert row[key] == pytest.approx(expected[key], rel=1e-6)


def test_pure_bfloat16_weights():
    """No margin and no curvature, and the row says why; norms are still told, and training is as without the probe."""

    def run(probed):
        model = network().to(torch.bfloat16)
        optimizer = adamw(model)
        loader = [(x.bfloat16(), y) for x, y in batches(4)]
        with tw.probe(model, optimizer, every=2 if probed else 10**9, measures=tuple(MEASURES)) as probe:
            losses = train(model, optimizer, probe.watch(loader))
        return outcome_of_run(model, optimizer, losses), probe.history.rows

    plain, _ = run(probed=False)
    left, rows = run(probed=True)
    assert left == plain
    for row in rows:
        assert row["probe/outcome"] == "LOW_PRECISION"
        assert row["probe/forward_passes"] == 0
        assert row["norm/update_ratio"] > 0
        assert not {"stability/margin", "sharpness/critical", "sharpness/directional", "sharpness/hessian"} & set(row)


def test_learning_rate_0():
    """The weights do not move: NO_UPDATE without a pass; norms say 0."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.0, momentum=0.9)
    with tw.probe(model, optimizer, every=1, measures=FORWARD_ONLY) as probe:
        train(model, optimizer, probe.watch(batches(2)))
    for row in probe.history.rows:
        assert row["probe/outcome"] == "NO_UPDATE"
        assert row["probe/forward_passes"] == 0
        assert (row["norm/update"], row["norm/update_ratio"], row["norm/update_ratio_max"]) == (0.0, 0.0, 0.0)
        assert not {"stability/margin", "sharpness/directional"} & set(row)


def test_frozen_parameters():
    """Frozen layers in the optimizer's groups: neither copied nor written, and the margin is that of a model without them."""

    def row(in_groups):
        model = network().double()
        for module in (model[0], model[1]):
            module.requires_grad_(False)
        chosen = model.parameters() if in_groups else model[4].parameters()
        optimizer = torch.optim.AdamW(chosen, lr=3e-3)
        before = {name: (id(p), bits(p)) for name, p in model[0].named_parameters()}
        with tw.probe(model, optimizer, every=3, measures=FORWARD_ONLY) as probe:
            train(model, optimizer, probe.watch([(x.double(), y) for x, y in batches(3)]))
        assert {name: (id(p), bits(p)) for name, p in model[0].named_parameters()} == before
        assert all(p.grad is None for p in model[0].parameters())
        return {key: value for key, value in probe.history.rows[0].items() if key != "probe/seconds"}

    assert row(in_groups=True) == row(in_groups=False)
    assert row(in_groups=True)["probe/outcome"] == "OK"


def test_everything_frozen():
    """An optimizer whose parameters have no gradient moves nothing."""
    model = network()
    optimizer = torch.optim.SGD(model.parameters(), lr=0.1)
    model.requires_grad_(False)
    (batch,) = batches(1)
    before = everything(model, optimizer)
    with tw.probe(
        model, optimizer, every=1, measures=FORWARD_ONLY, closure=lambda: cross_entropy(model, batch)
    ) as probe:
        optimizer.step()
    assert everything(model, optimizer) == before
    (row,) = probe.history.rows
    assert row["probe/outcome"] == Outcome.NO_UPDATE.name
