from __future__ import annotations

import dataclasses
import subprocess
import sys

import pytest
import torch

import thalweg as tw
from thalweg.outcomes import ThalwegError
from thalweg.schedules import Budget, check_steps, constant


def test_steps_are_rounded() -> None:
    assert Budget(params=1, tokens=1499, batch_tokens=1000).steps == 1
    assert Budget(params=1, tokens=1501, batch_tokens=1000).steps == 2
    assert tw.Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048).steps == 23842


def test_of_counts_every_parameter_once() -> None:
    model = torch.nn.Sequential(torch.nn.Embedding(7, 3), torch.nn.Linear(3, 7, bias=False), torch.nn.Linear(7, 2))
    model[1].weight = model[0].weight  # tied
    model[2].bias.requires_grad_(False)  # frozen ones count
    assert Budget.of(model, tokens=1e6, batch_tokens=1e3) == Budget(params=21 + 14 + 2, tokens=1e6, batch_tokens=1e3)


def test_frozen_and_hashable() -> None:
    budget = Budget(1, 2, 1)
    with pytest.raises(dataclasses.FrozenInstanceError):
        budget.tokens = 3  # type: ignore[misc]
    assert budget == Budget(1.0, 2.0, 1.0) and hash(budget) == hash(Budget(1.0, 2.0, 1.0))


@pytest.mark.parametrize(
    ("make", "message"),
    [
        (lambda: Budget(0, 1e9, 1e6), "params: got 0, expected a finite number above 0"),
        (lambda: Budget(1e9, -1e9, 1e6), "tokens: got -1000000000.0"),
        (lambda: Budget(1e9, 1e9, float("nan")), "batch_tokens: got nan"),
        (lambda: Budget(1e9, "100B", 1e6), "tokens: got '100B'"),  # type: ignore[arg-type]
        (lambda: Budget(1e9, 100, 1e6), "tokens: got 100.0, expected at least one batch of 1000000 tokens"),
        (lambda: Budget.of(3, tokens=1e9, batch_tokens=1e6), "model: got 3, expected a module with parameters"),
    ],
)
def test_bad_input_is_told_in_one_line(make, message: str) -> None:
    with pytest.raises(ThalwegError, match=message):
        make()


def test_schedule_and_budget_agree_to_half_a_percent() -> None:
    budget = Budget(params=1e6, tokens=1e7, batch_tokens=1e4)  # 1000 steps
    for steps in (995, 1000, 1005):
        check_steps(constant(0.1, steps), budget)
    for steps in (994, 1006):
        with pytest.raises(ThalwegError) as caught:
            check_steps(constant(0.1, steps), budget)
        message = str(caught.value)
        assert f"has {steps} steps" in message and "expected 1000" in message
        assert f"constant(0.1, {steps})" in message and repr(budget) in message and "steps=1000" in message


def test_of_does_not_import_torch() -> None:
    code = """
import sys
from thalweg.schedules import Budget
class Parameter:
    def numel(self): return 5
class Model:
    def parameters(self): return iter([Parameter(), Parameter()])
assert Budget.of(Model(), tokens=1e6, batch_tokens=1e3).params == 10
assert "torch" not in sys.modules
"""
    subprocess.run([sys.executable, "-c", code], check=True)
