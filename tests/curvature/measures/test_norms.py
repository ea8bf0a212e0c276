from __future__ import annotations

import math

import pytest
import torch
from torch import nn

import thalweg as tw
from tests.curvature.state import everything
from tests.curvature.training import adamw, batches, network, train
from thalweg.curvature import Step, capture
from thalweg.curvature.measures.norms import largest_attention_logit, norms_measure, output_weight
from thalweg.experiments.models import GPT
from thalweg.outcomes import Outcome

torch.set_num_threads(1)


def between(model, after, closure=lambda: torch.zeros(())):
    return Step.between(model.state_dict(), after, model, closure, lr=0.1)


def test_the_largest_ratio_is_that_of_a_matrix():
    """A bias that begins at zero moves by its whole size: the ratio would be infinite, and at later steps still the largest."""
    model = nn.Sequential(nn.Linear(2, 2), nn.Linear(2, 2))
    with torch.no_grad():
        model[0].weight.fill_(2.0)
        model[1].weight.fill_(1.0)
        model[0].bias.zero_()
        model[1].bias.fill_(0.001)
    after = {name: value + 0.01 for name, value in model.state_dict().items()}
    row = norms_measure(between(model, after))
    assert row["norm/update"] == pytest.approx(0.01 * math.sqrt(12))
    assert row["norm/update_ratio"] == pytest.approx(0.01 * math.sqrt(12) / math.sqrt(16 + 4 + 2e-6))
    assert row["norm/update_ratio_max"] == pytest.approx(0.01)
    assert row["norm/output_layer"] == pytest.approx(2.0)
    assert "norm/gradient" not in row
    assert "logit/attention_max" not in row


def test_the_gradient_is_the_one_that_the_optimizer_used():
    model = network()
    optimizer = adamw(model)
    with tw.probe(model, optimizer, every=1, measures=("norms",)) as probe:
        for x, y in probe.watch(batches(2)):
            optimizer.zero_grad()
            nn.functional.cross_entropy(model(x), y).backward()
            nn.utils.clip_grad_norm_(model.parameters(), 0.01)
            optimizer.step()
    for row in probe.history.rows:
        assert row["norm/gradient"] == pytest.approx(0.01, rel=1e-4)
        assert row["norm/output_layer"] > 0
        assert row["probe/forward_passes"] == 0
        assert row["probe/outcome"] == "OK"


def test_the_output_layer_of_common_models():
    mlp = nn.Sequential(nn.Linear(2, 3), nn.ReLU(), nn.Linear(3, 4), nn.BatchNorm1d(4))
    assert output_weight(mlp) is mlp[2].weight
    cnn = nn.Sequential(nn.Conv2d(1, 2, 3), nn.Flatten(), nn.LazyLinear(4))
    cnn(torch.zeros(1, 1, 5, 5))
    assert output_weight(cnn) is cnn[2].weight
    gpt = GPT(16, length=8, width=8, layers=1, heads=2)
    assert output_weight(gpt) is gpt.tokens.weight  # tied: the last matrix in order would be the last block's
    assert output_weight(nn.ModuleList([gpt])) is gpt.tokens.weight  # wrapped
    assert output_weight(nn.ParameterList([torch.zeros(2, 2)])) is None


@pytest.fixture
def gpt_step():
    model = GPT(16, length=8, width=8, layers=2, heads=2, seed=0)
    with torch.no_grad():
        for block in model.blocks:
            block.qkv.weight.mul_(30)  # logits far from 0
    tokens = torch.randint(0, 16, (3, 8), generator=torch.Generator().manual_seed(0))
    optimizer = torch.optim.SGD(model.parameters(), lr=0.5)

    def closure():
        return model(tokens).square().mean()

    closure().backward()
    with capture(model, optimizer, closure) as step:
        optimizer.step()
    return model, optimizer, step, tokens


def by_hand(model, tokens):
    """The largest unmasked logit at the weights as they are, pair by pair."""
    inputs = []
    hooks = [block.qkv.register_forward_hook(lambda _, __, out: inputs.append(out)) for block in model.blocks]
    with torch.no_grad():
        model(tokens)
    for hook in hooks:
        hook.remove()
    largest = -math.inf
    for out in inputs:
        q, k, _ = out.view(3, 8, 3, 2, 4).unbind(2)
        for i in range(8):
            for j in range(i + 1):
                largest = max(largest, ((q[:, i] * k[:, j]).sum(-1) / 2).max().item())
    return largest


def test_the_largest_attention_logit_before_the_step(gpt_step):
    model, optimizer, step, tokens = gpt_step
    state = everything(model, optimizer)
    found = largest_attention_logit(step)
    assert everything(model, optimizer) == state
    assert [block.max_attention_logit for block in model.blocks] == [None, None]
    after = by_hand(model, tokens)
    with torch.no_grad():
        for parameter, before in zip(step.parameters, step.start, strict=True):
            parameter.copy_(before)
    assert found == pytest.approx(by_hand(model, tokens), rel=1e-5)
    assert found != pytest.approx(after, rel=1e-5)
    assert norms_measure(step)["logit/attention_max"] == pytest.approx(found)


def test_nothing_is_kept_where_nobody_asked(gpt_step):
    model, _, step, tokens = gpt_step
    model(tokens)
    assert [block.max_attention_logit for block in model.blocks] == [None, None]

    def failing():
        model(tokens)
        raise torch.OutOfMemoryError("in the middle")

    state = everything(model)
    step.closure = failing
    with pytest.raises(torch.OutOfMemoryError):
        norms_measure(step)
    assert [block.max_attention_logit for block in model.blocks] == [None, None]
    assert everything(model) == state


def test_weights_that_are_not_finite_have_no_norm():
    model = nn.Linear(2, 2)
    step = between(model, {name: value * math.nan for name, value in model.state_dict().items()})
    assert norms_measure(step) == {}
    assert step.outcome is Outcome.NOT_FINITE


def test_16_bit_weights_have_norms():
    model = nn.Linear(4, 4, bias=False).to(torch.bfloat16)
    with torch.no_grad():
        model.weight.fill_(1.0)
    row = norms_measure(between(model, [torch.full((4, 4), 1.5)]))
    assert row["norm/update"] == pytest.approx(2.0)
    assert row["norm/output_layer"] == pytest.approx(4.0)


def test_norms_beside_the_margin_leave_its_row_alone():
    def rows(measures):
        model = network()
        optimizer = adamw(model)
        with tw.probe(model, optimizer, every=5, measures=measures) as probe:
            train(model, optimizer, probe.watch(batches(10)))
        return probe.history.rows

    alone, both = rows(("critical",)), rows(("norms", "critical"))
    assert [row["stability/margin"] for row in both] == [row["stability/margin"] for row in alone]
    assert all("norm/update_ratio_max" in row for row in both)
