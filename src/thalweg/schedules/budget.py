"""What a run may cost: parameters, tokens and the batch, in raw counts."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from thalweg.outcomes import ThalwegError, bad_input
from thalweg.schedules.arguments import as_positive
from thalweg.schedules.schedule import Schedule

__all__ = ["Budget", "check_steps"]

# OL: laws count tokens as steps × batch_tokens; a schedule further off than this belongs to another run.
TOLERANCE = 0.005


@dataclass(frozen=True, slots=True)
class Budget:
    """The size of a run in raw counts.

    Attributes:
        params: TOTAL parameters, embeddings and every expert included [count].
        tokens: tokens trained on, repetitions counted [count].
        batch_tokens: tokens in one optimizer step, over all workers and accumulation [count].

    Raises:
        ThalwegError: a count that is not above 0, fewer tokens than make one step.

    Example:
        >>> Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048).steps
        23842
    """

    params: float
    tokens: float
    batch_tokens: float

    def __post_init__(self) -> None:
        for name in ("params", "tokens", "batch_tokens"):
            object.__setattr__(self, name, as_positive(name, getattr(self, name)))
        if self.steps < 1:
            raise bad_input("tokens", self.tokens, f"at least one batch of {self.batch_tokens:.0f} tokens")

    @property
    def steps(self) -> int:
        """Optimizer steps: round(tokens / batch_tokens) [count]."""
        return round(self.tokens / self.batch_tokens)

    @classmethod
    def of(cls, model: Any, *, tokens: float, batch_tokens: float) -> Budget:
        """The budget of a model: counts its TOTAL parameters, frozen ones included, shared ones once.

        Args:
            model: anything with `parameters()`, whose items have `numel()`: a `torch.nn.Module`.
            tokens: tokens trained on [count].
            batch_tokens: tokens in one optimizer step [count].

        Raises:
            ThalwegError: an object without parameters, or a count that is not above 0.

        Example:
            >>> import torch
            >>> Budget.of(torch.nn.Linear(9, 10), tokens=1e6, batch_tokens=1000).params
            100.0
        """
        if not callable(getattr(model, "parameters", None)):
            raise bad_input(
                "model", model, "a module with parameters()", "Write Budget(params=…, tokens=…, batch_tokens=…)"
            )
        return cls(
            params=sum(parameter.numel() for parameter in model.parameters()), tokens=tokens, batch_tokens=batch_tokens
        )


def check_steps(schedule: Schedule, budget: Budget) -> None:
    """Refuse a schedule whose steps are not the budget's, to within 0.5 %.

    Raises:
        ThalwegError: the two differ by more; both are printed.

    Example:
        >>> from thalweg.schedules import constant
        >>> check_steps(constant(0.003, 1000), Budget(params=1e6, tokens=1e6, batch_tokens=1e3))
    """
    if abs(schedule.steps - budget.steps) > TOLERANCE * budget.steps:
        raise ThalwegError(
            f"schedule: {schedule!r} has {schedule.steps} steps, expected {budget.steps} as in {budget} to within 0.5 %. "
            f"Write steps={budget.steps} or change tokens to {schedule.steps * budget.batch_tokens:.6g}."
        )
