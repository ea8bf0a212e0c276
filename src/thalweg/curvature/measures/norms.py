"""Cheap norms beside the margin: instability has causes that curvature along the step does not show."""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from torch import Tensor, nn

from thalweg.curvature.steps.distributed import gathered, local, replicas
from thalweg.curvature.steps.step import Step
from thalweg.outcomes import Outcome

__all__ = ["largest_attention_logit", "norms_measure", "output_weight"]


def norms_measure(step: Step) -> dict[str, float]:
    """Norms of the update, the weights and the gradient, of the output layer, and the largest attention logit.

    Keys, all [1]: `norm/update` = ‖d‖ and `norm/update_ratio` = ‖d‖/‖θ_before‖ over all moved parameters;
    `norm/update_ratio_max`, the same ratio of the one weight matrix where it is largest (biases and gains, which begin at or
    near zero, would hide the matrices; they count where there is no matrix); `norm/gradient`, of the gradients found after
    the step (clipped, where they were); `norm/output_layer`, of `output_weight`; `logit/attention_max`, see
    `largest_attention_logit`. All norms are Euclidean, in float64. What is not there has no key.

    No forward passes, but one where a module exposes its attention logits.

    Example:
        From (3, 4) to (0, 0): ‖d‖ = 5.

        >>> model = nn.ParameterList([nn.Parameter(torch.tensor([3.0, 4.0]))])
        >>> step = Step.between([torch.tensor([3.0, 4.0])], [torch.zeros(2)], model, lambda: model[0].sum(), lr=1.0)
        >>> norms_measure(step)
        {'norm/update': 5.0, 'norm/update_ratio': 1.0, 'norm/update_ratio_max': 1.0}
    """
    updates, weights = _norms(step.update, step.parameters), _norms(step.start, step.parameters)
    update, weight = math.hypot(*updates), math.hypot(*weights)
    if not math.isfinite(update + weight):
        step.report(Outcome.NOT_FINITE)
        return {}
    row = {"norm/update": update}
    if weight > 0:
        row["norm/update_ratio"] = update / weight
        row["norm/update_ratio_max"] = _largest_ratio(step.parameters, updates, weights)
    moved = [p for p in step.parameters if p.grad is not None]
    if moved:
        row["norm/gradient"] = math.hypot(*_norms([p.grad for p in moved if p.grad is not None], moved))
    output = output_weight(step.model)
    if output is not None:
        row["norm/output_layer"] = math.hypot(*_norms([output], [output]))
    logit = largest_attention_logit(step)
    if logit is not None:
        row["logit/attention_max"] = logit
    return row


def output_weight(model: nn.Module) -> Tensor | None:
    """The weight matrix that makes the model's output, or None.

    Where a module answers `get_output_embeddings()`, as Hugging Face models do, it is the weight of what that gives: a head
    tied to the embedding is no module of its own. Otherwise it is the last weight of two or more dimensions in the order of
    `modules()`, the output layer of any model whose modules were made in the order they run.

    Example:
        >>> model = nn.Sequential(nn.Linear(2, 8), nn.Tanh(), nn.Linear(8, 3), nn.LayerNorm(3))
        >>> output_weight(model) is model[2].weight
        True
    """
    modules = list(model.modules())
    for module in modules:
        weight = getattr(getattr(module, "get_output_embeddings", lambda: None)(), "weight", None)
        if isinstance(weight, Tensor):
            return weight
    matrices = [w for w in (getattr(module, "weight", None) for module in modules) if _is_matrix(w)]
    return matrices[-1] if matrices else None


def largest_attention_logit(step: Step) -> float | None:
    """The largest attention logit at θ_before on the step's batch [1], or None where no module exposes any.

    A module exposes it by an attribute `max_attention_logit`: None as long as nobody asks; a forward that finds another
    value there replaces it by the largest logit (q·k/√d, a masked one does not count), a number or a tensor of one element.
    Asking is one forward pass; the attributes are as before afterwards.

    Source: logits that grow without bound foretell divergence of transformers (Wortsman et al. 2023, section 3.1).

    Example:
        >>> class Attention(nn.Linear):
        ...     max_attention_logit = None
        ...
        ...     def forward(self, x):
        ...         q = super().forward(x)
        ...         if self.max_attention_logit is not None:
        ...             self.max_attention_logit = (q @ q.T).max()
        ...         return q
        >>> model = Attention(1, 1, bias=False)
        >>> loss = lambda: model(torch.ones(2, 1)).sum()
        >>> step = Step.between([torch.tensor([[3.0]])], [torch.tensor([[1.0]])], model, loss, lr=1.0)
        >>> largest_attention_logit(step), model.max_attention_logit
        (9.0, None)
    """
    exposing: list[Any] = [module for module in step.model.modules() if hasattr(module, "max_attention_logit")]
    if not exposing:
        return None
    before = [module.max_attention_logit for module in exposing]
    try:
        for module in exposing:
            module.max_attention_logit = -math.inf
        with step.at_start() as loss:
            loss()
        logits = [float(torch.as_tensor(module.max_attention_logit).detach()) for module in exposing]
    finally:
        for module, value in zip(exposing, before, strict=True):
            module.max_attention_logit = value
    largest = max(gathered(max(logits)))
    return largest if math.isfinite(largest) else None


def _largest_ratio(tensors: Sequence[Tensor], updates: list[float], weights: list[float]) -> float:
    ratios = [(_is_matrix(t), u / w) for t, u, w in zip(tensors, updates, weights, strict=True) if w > 0]
    return max(ratio for is_matrix, ratio in ratios if is_matrix or not any(matrix for matrix, _ in ratios))


def _is_matrix(weight: object) -> bool:
    return isinstance(weight, Tensor) and weight.dim() >= 2


def _norms(parts: Sequence[Tensor], wholes: Sequence[Tensor]) -> list[float]:
    """Norm of each tensor over all ranks, the same on each: `parts` are this rank's entries of tensors spread as `wholes`."""
    dense = [local(part.detach().to_dense() if part.is_sparse else part.detach()) for part in parts]
    squares = [
        float(torch.linalg.vector_norm(part, dtype=torch.float64)) ** 2 / replicas(whole)
        for part, whole in zip(dense, wholes, strict=True)
    ]
    return [math.sqrt(math.fsum(column)) for column in zip(*gathered(squares), strict=True)]
