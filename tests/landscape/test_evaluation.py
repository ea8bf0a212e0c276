"""The loss over all data does not depend on how it is cut into batches."""

from __future__ import annotations

from typing import Any

import pytest
import torch
from torch import nn

from thalweg.curvature.steps.replay import default_loss
from thalweg.landscape.evaluation import mean_loss
from thalweg.outcomes import ThalwegError


@pytest.fixture
def model() -> nn.Module:
    torch.manual_seed(0)
    return nn.Linear(3, 4).double()


@pytest.mark.parametrize("size", [1, 3, 5, 7])
def test_classification_with_ignored_labels(model: nn.Module, size: int) -> None:
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.tensor([0, 1, -100, 3, -100, -100, 2])
    whole = default_loss(model, (x, y))
    cut = mean_loss(model, list(zip(x.split(size), y.split(size), strict=True)), default_loss)
    assert cut.item() == pytest.approx(whole.item(), rel=1e-14)


@pytest.mark.parametrize("size", [1, 2, 5])
def test_regression(model: nn.Module, size: int) -> None:
    x, y = torch.randn(5, 3, dtype=torch.float64), torch.randn(5, 4, dtype=torch.float64)
    cut = mean_loss(model, list(zip(x.split(size), y.split(size), strict=True)), default_loss)
    assert cut.item() == pytest.approx(default_loss(model, (x, y)).item(), rel=1e-14)


@pytest.mark.parametrize("size", [1, 2, 3])
def test_language_model_with_masked_labels(size: int) -> None:
    torch.manual_seed(1)
    model = nn.Embedding(9, 9).double()
    tokens = torch.randint(0, 9, (5, 6))
    labels = tokens.clone()
    labels[0, 2:] = -100
    labels[3, 1:4] = -100
    whole = {"input_ids": tokens, "labels": labels}
    cut = [{"input_ids": a, "labels": b} for a, b in zip(tokens.split(size), labels.split(size), strict=True)]
    assert mean_loss(model, cut, default_loss).item() == pytest.approx(default_loss(model, whole).item(), rel=1e-14)


def test_a_batch_of_the_users_own_kind_counts_once(model: nn.Module) -> None:
    def loss_fn(_: nn.Module, batch: Any) -> torch.Tensor:
        return torch.tensor(float(batch))

    assert mean_loss(model, ["1", "2", "6"], loss_fn).item() == 3.0


def test_it_is_differentiable(model: nn.Module) -> None:
    x, y = torch.randn(7, 3, dtype=torch.float64), torch.randint(0, 4, (7,))
    cut = list(zip(x.split(3), y.split(3), strict=True))
    (whole,) = torch.autograd.grad(default_loss(model, (x, y)), [model.weight])
    (parts,) = torch.autograd.grad(mean_loss(model, cut, default_loss), [model.weight])
    torch.testing.assert_close(parts, whole, rtol=1e-12, atol=1e-15)


def test_no_label_at_all_is_an_error(model: nn.Module) -> None:
    for data in ([], [(torch.randn(2, 3), torch.tensor([-100, -100]))]):
        with pytest.raises(ThalwegError, match="data: got no sample at all"):
            mean_loss(model, data, default_loss)
