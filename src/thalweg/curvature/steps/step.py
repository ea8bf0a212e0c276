"""One applied update d = θ_after - θ_before, and the loss along it.

θ(m) = θ_before + m·d and f(m) = L(θ(m)) - L(θ_before), on the batch that made the step, with the same random state and
buffers at every evaluation. m = 1 is the step itself. How the model comes to see θ(m) is the business of `weights.py`.
"""

from __future__ import annotations

import contextlib
import copy
import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from typing import Any

import torch
from torch import Tensor, nn
from torch.optim import Optimizer

from thalweg.curvature.steps.distributed import everywhere, gathered, is_sharded, local, ranks, replicas, unwrap_model
from thalweg.curvature.steps.hooks import around_step, unwrap
from thalweg.curvature.steps.reading import refused
from thalweg.curvature.steps.untouched import RandomState, untouched
from thalweg.curvature.steps.weights import Mode, chunks, ends_of
from thalweg.outcomes import Outcome, ThalwegError, bad_input

__all__ = ["Step", "capture"]

Closure = Callable[[], Any]

_SIXTEEN_BITS = (torch.float16, torch.bfloat16)


class Step:
    """The update that the optimizer really made, whatever the optimizer; made by `capture`, `Step.between` or a probe.

    In mode "in_place" two copies of the moved parameters (of this rank's shards under FSDP2) are kept while it lives, and
    every evaluation writes θ(m) into the live weights and brings them back bit for bit. In mode "per_module" one copy is
    kept, and each operator that reads a weight is given θ(m) instead. Buffers, gradients, random states and flags come back
    too, also after an exception. Losses and outcomes are those of all ranks together; every rank must ask for the same ones.

    Attributes:
        lr: learning rate η of the first parameter group at this step [1].
        slope: f'(0) = d·g with the gradients found after the step, or None [loss]. Clipping and loss scaling change it by
            an unknown factor: a hint, never evidence.
        parameters: the live tensors that the step may have moved, each once.
        optimizer: the optimizer that made it, or None.
        forward_passes: evaluations of the loss so far [count].
        outcome: the first obstacle that a measure reported, or OK.
        check_determinism: whether `obstacle` spends a second evaluation at m = 0.
        memory: what measures carry from one measured step to the next (a warm start); a probe hands it on.

    Example:
        The loss 3x²/2 at x = 1 and one step of size 0.1 down its gradient: d = -0.3, f(1) = 3/2 (0.7² - 1).

        >>> x = nn.Parameter(torch.ones(1, dtype=torch.float64))
        >>> model = nn.ParameterList([x])
        >>> optimizer = torch.optim.SGD([x], lr=0.1)
        >>> closure = lambda: 1.5 * (x**2).sum()
        >>> closure().backward()
        >>> with capture(model, optimizer, closure) as step:
        ...     optimizer.step()
        >>> round(step.at(1.0), 6), round(step.slope, 6), step.lr
        (-0.765, -0.9, 0.1)
    """

    def __init__(
        self,
        model: nn.Module,
        closure: Closure | None = None,
        *,
        lr: float = math.nan,
        optimizer: Optimizer | None = None,
        mode: Mode = "in_place",
        offload: bool = False,
    ) -> None:
        self.model = unwrap_model(model)
        self.closure = closure
        self.lr = lr
        self.slope: float | None = None
        self.optimizer = optimizer
        self.forward_passes = 0
        self.outcome = Outcome.OK
        self.check_determinism = True
        self.memory: dict[str, Any] = {}
        self._ends = ends_of(mode, self.model, offload=offload)
        self._random = RandomState.now()
        self._start: tuple[float, float] | None = None
        self._repeats: bool | None = None
        self._obstacle: Outcome | None = None
        self._needs_gradients = False

    @classmethod
    def between(
        cls,
        before: Mapping[str, Tensor] | Sequence[Tensor],
        after: Mapping[str, Tensor] | Sequence[Tensor],
        model: nn.Module,
        closure: Closure,
        *,
        lr: float,
        mode: Mode = "in_place",
        offload: bool = False,
    ) -> Step:
        """The update from one set of weights to another, for example from two checkpoints.

        Args:
            before: a state dict, or tensors in the order of `model.parameters()`. Buffers in it are not used.
            after: likewise.
            model: the live module; it keeps the weights it has.
            closure: zero-argument callable → loss of the batch that made the step; no backward, no zero_grad.
            lr: learning rate that the update is told in [1].
            mode: as in `capture`; "per_module" copies neither `before` nor `after` where they have the dtype and device of
                the parameters: they must stay as they are while the step lives.
            offload: as in `capture`.

        Raises:
            ThalwegError: a parameter is missing or has another shape; a mode that does not suit the model.

        Example:
            >>> model = nn.ParameterList([nn.Parameter(torch.tensor([1.0]))])
            >>> closure = lambda: (model[0] ** 2).sum()
            >>> step = Step.between([torch.tensor([1.0])], [torch.tensor([0.5])], model, closure, lr=0.25)
            >>> step.at(2.0), step.at(4.0)
            (-1.0, 0.0)
        """
        step = cls(model, closure, lr=lr, mode=mode, offload=offload)
        named = dict(step.model.named_parameters())
        if any(is_sharded(p) for p in named.values()):
            raise bad_input("model", "sharded parameters (FSDP2)", "whole ones", "Use capture or a probe there")
        step._ends.give(list(named.values()), _matched("before", before, named), _matched("after", after, named))
        return step

    def begin(self) -> None:
        """Keep the weights and the learning rate as they are: called before the optimizer moves them."""
        assert self.optimizer is not None
        groups = self.optimizer.param_groups
        self.lr = float(groups[0].get("lr", math.nan))
        moving = [p for group in groups for p in group["params"] if p.requires_grad or p.grad is not None]
        once = {(local(p).data_ptr() or id(p), p.shape): p for p in moving}  # tied weights
        self._ends.begin(list(once.values()))
        self._random = RandomState.now()

    def finish(self) -> None:
        """Keep the weights after the optimizer has moved them, and the slope while the gradients are there."""
        self._ends.finish()
        terms = [
            _slope(*ends, local(p.grad)) / replicas(p)
            for p, ends in zip(self.parameters, self._ends.pairs(), strict=True)
            if p.grad is not None
        ]
        slopes = [part for part in gathered(math.fsum(terms) if terms else None) if part is not None]
        self.slope = sum(slopes) if slopes else None

    @property
    def parameters(self) -> list[Tensor]:
        """The live tensors that the step may have moved, each once."""
        return self._ends.parameters

    @property
    def update(self) -> list[Tensor]:
        """d = θ_after - θ_before, in the order of `parameters` and on their device: as much memory as they take."""
        return [after - before for before, after in self._ends.pairs()]

    @property
    def start(self) -> list[Tensor]:
        """θ_before, in the order of `parameters`: to be read, not written to. On the CPU with `offload`."""
        return self._ends.before

    def under(self, loss: Closure) -> Step:
        """The same update, judged by another loss: a step of its own, with its own passes, outcome and memory."""
        other = copy.copy(self)
        other.closure, other.slope = loss, None
        other.forward_passes, other.outcome, other.memory = 0, Outcome.OK, {}
        other._start, other._repeats, other._obstacle, other._needs_gradients = None, None, None, False
        return other

    @property
    def rounding(self) -> float:
        """4 eps |L(θ_before)|: a change of the loss that is not above it is no evidence [loss]."""
        loss, eps = self._start_loss()
        return 4 * eps * abs(loss)

    def at(self, multiple: float) -> float:
        """f(m) = L(θ_before + m·d) - L(θ_before) [loss]; the weights come back."""
        start, _ = self._start_loss()
        return self._evaluate(multiple)[0] - start

    def obstacle(self) -> Outcome:
        """What forbids a search along this step, or OK: known before the search spends a pass."""
        if self._obstacle is None:
            self._obstacle = self._find_obstacle()
        return self._obstacle

    def report(self, outcome: Outcome) -> None:
        """Note what a measure met on this step; the first that is not OK stays."""
        if self.outcome is Outcome.OK:
            self.outcome = outcome

    @contextlib.contextmanager
    def at_start(self) -> Iterator[Callable[[], Tensor]]:
        """The weights at θ_before while the block lasts, and its differentiable loss: for second derivatives there."""
        with self._ends.at(0.0), untouched(self.model, self.parameters):
            yield self._loss

    def _find_obstacle(self) -> Outcome:
        if any(p.dtype in _SIXTEEN_BITS for p in self.parameters):
            return Outcome.LOW_PRECISION
        finite, moved = True, False
        for before, after in self._ends.pairs():
            finite = finite and _is_finite(before) and _is_finite(after)
            moved = moved or not torch.equal(before, after)
        seen = gathered((finite, moved))  # a rank sees its shards alone
        if not all(finite for finite, _ in seen):
            return Outcome.NOT_FINITE
        if not any(moved for _, moved in seen):
            return Outcome.NO_UPDATE
        loss, _ = self._start_loss()
        if not math.isfinite(loss):
            return Outcome.NOT_FINITE
        if self.check_determinism and not self._is_repeated(loss):
            return Outcome.NOT_DETERMINISTIC
        return Outcome.OK

    def _start_loss(self) -> tuple[float, float]:
        if self._start is None:
            self._start = self._evaluate(0.0)
        if self._ends.apart and self.check_determinism:
            self._is_repeated(self._start[0])  # before any number is given: a missed read would falsify it silently
        return self._start

    def _is_repeated(self, loss: float) -> bool:
        """Whether a second evaluation at m = 0 gives the same loss; it is made with the live weights hidden.

        Where θ(m) is read apart from them, the same bits prove that no live weight has a say in the loss.
        """
        if self._repeats is None:
            with self._ends.hidden():
                again, _ = self._evaluate(0.0)
            same = again == loss or not math.isfinite(loss)
            if self._ends.apart and not same and self._evaluate(0.0)[0] == loss:
                raise refused("a loss that reads weights by torch's operators (no compiled code, no raw pointers)")
            self._repeats = same
        return self._repeats

    def _evaluate(self, multiple: float) -> tuple[float, float]:
        """Loss at θ(m), the mean over the ranks, and the eps of the numbers it was made of."""
        try:
            values = everywhere(lambda: self._evaluate_here(multiple))
        except RuntimeError as error:
            if self._needs_gradients or "does not require grad" not in str(error):
                raise
            # Either the loss has a gradient inside (a penalty), or the closure trains: `untouched` refuses the latter.
            self._needs_gradients = True
            return self._evaluate(multiple)
        return sum(loss for loss, _ in values) / ranks(), max(eps for _, eps in values)

    def _evaluate_here(self, multiple: float) -> tuple[float, float]:
        """The same on this rank's batch."""
        with (
            self._ends.at(multiple),
            untouched(self.model, self.parameters),
            torch.set_grad_enabled(self._needs_gradients),
        ):
            loss = self._loss()
        eps = max(torch.finfo(t.dtype).eps for t in [loss, *self.parameters])
        return float(loss.detach()), eps

    def _loss(self) -> Tensor:
        if self.closure is None or not self._ends.after:
            raise ThalwegError("step: no optimizer.step() was made yet; measure after the `with capture(...)` block.")
        self._random.restore()
        self.forward_passes += 1
        value = self.closure()
        loss = value if isinstance(value, Tensor) else torch.as_tensor(value, dtype=torch.float64)
        if loss.numel() != 1 or not loss.is_floating_point():
            raise bad_input("closure", loss, "a callable that returns the loss, one floating-point number")
        return loss.reshape(())


@contextlib.contextmanager
def capture(
    model: nn.Module, optimizer: Any, closure: Closure, *, mode: Mode = "in_place", offload: bool = False
) -> Iterator[Step]:
    """Catch the update that `optimizer.step()` makes inside the block; measure it after the block.

    Random numbers are drawn from the state at the step's beginning, the same at every evaluation.

    Args:
        model: the module whose buffers and flags the closure may touch.
        optimizer: any torch optimizer, or a wrapper of one.
        closure: zero-argument callable → loss of the batch that made the step [loss]; no backward, no zero_grad.
        mode: "in_place" keeps two copies of the parameters and writes θ(m) into the live ones. "per_module" keeps one copy,
            of θ_before, and gives each operator that reads a weight the mix instead, the weights of one layer at a time; the
            live weights are θ_after, and are not written to. The numbers are the same to the bit.
        offload: keep the copies on the CPU, pinned where the weights are on CUDA.

    Raises:
        ThalwegError: no step was made in the block. In mode "per_module": sharded parameters (FSDP2); a compiled model; a
            loss that writes to weights, or reads them past torch's dispatcher, which the first evaluation finds out; weights
            that have moved on since the step.

    Example:
        See `Step`.
    """
    inner = unwrap(optimizer)
    step = Step(model, closure, optimizer=inner, mode=mode, offload=offload)
    with around_step(inner, step.begin, step.finish):
        yield step
    if not step._ends.after:
        raise ThalwegError(
            "capture: no optimizer.step() inside the block; write `with capture(...) as step: optimizer.step()`."
        )


def _matched(name: str, weights: Mapping[str, Tensor] | Sequence[Tensor], named: Mapping[str, Tensor]) -> list[Tensor]:
    if isinstance(weights, Mapping):
        missing = [key for key in named if key not in weights]
        if missing:
            raise bad_input(
                name, f"no {missing[0]!r}", "a state dict of this model", "Check the names of the checkpoint"
            )
        given = [weights[key] for key in named]
    else:
        given = list(weights)
    shapes = [tuple(t.shape) for t in given]
    expected = [tuple(p.shape) for p in named.values()]
    if shapes != expected:
        raise bad_input(name, shapes, f"the shapes of this model's parameters, {expected}")
    return given


def _is_finite(tensor: Tensor) -> bool:
    return all(bool(torch.isfinite(part).all()) for part in chunks(tensor))


def _slope(before: Tensor, after: Tensor, gradient: Tensor) -> float:
    """(after - before)·gradient in float64."""
    dense = gradient.to_dense() if gradient.is_sparse else gradient
    parts = zip(chunks(before), chunks(after), chunks(dense), strict=True)
    return math.fsum(float(torch.dot((a - b).double(), g.double())) for b, a, g in parts)
