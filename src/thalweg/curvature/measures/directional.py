"""Directional sharpness: the curvature along an applied update, from a few values of the loss on both sides of it."""

from __future__ import annotations

import math
from collections.abc import Callable
from dataclasses import dataclass
from typing import ClassVar, NamedTuple

import torch
from torch import Tensor

from thalweg.curvature.measures.hessian import hessian_product, twice_differentiable
from thalweg.curvature.steps.distributed import averaged, refuse_sharded
from thalweg.curvature.steps.step import Step
from thalweg.outcomes import Outcome
from thalweg.results import Result

__all__ = ["Directional", "directional_measure", "directional_sharpness"]

_AGREEMENT = 0.01  # estimated relative error at which h is neither halved nor doubled any more
_BLUR = 0.001  # share of rounding at which h is large enough: small losses are often noisier than their last digit
_RESOLVED = 0.1  # an estimated error above it: the number is not given in rows
# f(h) + f(-h) holds four roundings, of L(θ_before) twice; at h/2 they count 4 times, and (4·lower - upper)/3 adds up.
_ROUNDINGS = (4 * 4 + 1) / 3 * 4
_RISES = 24  # doublings of h before rounding is given up on
_FALLS = 8


@dataclass(frozen=True, slots=True)
class Directional(Result):
    """The parabola that the loss is along one step.

    Attributes:
        sharpness: λ_dir = -dᵀHd / (η d·g) [1/lr]; its threshold is 2/η. Negative where the loss bends down along a
            descending step, or up along a climbing one: `slope` and `curvature` tell which.
        multiple: m_dir = 2 / (η λ_dir) [1], where the parabola is back at its beginning; what the margin would be if the
            loss were quadratic.
        slope: d·g, measured and not read from gradients [loss].
        curvature: dᵀHd [loss].
        error: estimated |error| / |λ_dir| [1]; 0 where it was asked for exactly.
        lr: learning rate η of the step [1].
        forward_passes: evaluations of the loss spent here [count].
        outcome: OK; NOT_DESCENT where the step climbs (d·g > 0); NOT_RESOLVED where the error is above a tenth; or why there is
            no number. Numbers that were not measured are NaN.
    """

    sources: ClassVar[tuple[str, ...]] = ("critical-sharpness",)

    sharpness: float
    multiple: float
    slope: float
    curvature: float
    error: float
    lr: float
    forward_passes: int
    outcome: Outcome

    def summary(self) -> str:
        """The sharpness with its error and threshold, or the outcome's sentence."""
        reservation = "" if self.outcome is Outcome.OK else f"{self.outcome.name}: {self.outcome.value}"
        if math.isnan(self.sharpness):
            return reservation or "no directional sharpness at a learning rate of 0 in the first parameter group"
        number = (
            f"directional sharpness {self.sharpness:.4g} [1/lr] (relative error about {self.error:.1g}), "
            f"threshold {2 / self.lr:.4g} [1/lr]"
        )
        return f"{number}; {reservation}" if reservation else number


def directional_sharpness(step: Step, *, exact: bool = False) -> Directional:
    """Curvature along an applied update d over its slope: λ_dir = -dᵀHd / (η d·g).

    In multiples of the step, f(h) + f(-h) = h² dᵀHd + O(h⁴) and f(h) - f(-h) = 2h d·g + O(h³): two evaluations give both, so
    clipped or scaled gradients do not matter. h is raised until rounding of the loss is small against the sum, then halved
    until two values agree to 1 %, and a third one with them; the error of order h² is extrapolated away. What that changes,
    what the third value says against it, and rounding add up to the estimated error. Six evaluations where the last
    measurement's h still serves. Attention kernels without a second derivative and sharded weights are no obstacle.

    Args:
        step: from `capture`, `Step.between` or a probe.
        exact: differentiate twice instead, at θ_before: two forwards and one Hessian-vector product, memory as for a
            backward pass that keeps its graph.

    Raises:
        ThalwegError: a closure that changes gradients; with `exact`, one whose loss is not differentiable, or sharded weights.

    Source: critical-sharpness paper, Definition 2.2 (Eq. 2; their Δθ is -d/η), Results D.1 and D.2.

    Example:
        Gradient descent weights the eigenvalues by the squared gradient (Eq. 3): (9·3 + 1·1)/(9 + 1) on (3x² + y²)/2 at (1, 1).

        >>> from thalweg.curvature.steps.step import capture
        >>> x = torch.nn.Parameter(torch.ones(2, dtype=torch.float64))
        >>> optimizer = torch.optim.SGD([x], lr=0.1)
        >>> closure = lambda: 0.5 * (torch.tensor([3.0, 1.0]) * x**2).sum()
        >>> closure().backward()
        >>> with capture(torch.nn.ParameterList([x]), optimizer, closure) as step:
        ...     optimizer.step()
        >>> round(directional_sharpness(step).sharpness, 6), round(directional_sharpness(step, exact=True).sharpness, 6)
        (2.8, 2.8)
    """
    spent = step.forward_passes
    outcome = step.obstacle()
    slope = curvature = error = sharpness = multiple = math.nan
    if outcome is Outcome.OK:
        found = _by_double_backward(step) if exact else _by_differences(step)
        slope, curvature, error = found.slope, found.curvature, found.error
        if slope != 0:
            sharpness = -curvature / (step.lr * slope) if step.lr > 0 else math.nan  # only other groups have moved
            multiple = -2 * slope / curvature if curvature != 0 else math.inf
        if not error <= _RESOLVED or slope == 0:
            outcome = Outcome.NOT_RESOLVED
        elif slope > 0:
            outcome = Outcome.NOT_DESCENT
    passes = step.forward_passes - spent
    return Directional(sharpness, multiple, slope, curvature, error, step.lr, passes, outcome)


def directional_measure(step: Step) -> dict[str, float]:
    """The row of `directional_sharpness`; a number that rounding hides is not given.

    Keys: `sharpness/directional` [1/lr] and `sharpness/directional_error`, its estimated relative error [1].
    """
    found = directional_sharpness(step)
    step.report(found.outcome)
    if found.outcome not in (Outcome.OK, Outcome.NOT_DESCENT):
        return {}
    return {"sharpness/directional": found.sharpness, "sharpness/directional_error": found.error}


class _Parabola(NamedTuple):
    """d·g and dᵀHd [loss], the estimated relative error of their quotient [1], and the h to begin with the next time [1]."""

    slope: float
    curvature: float
    error: float
    next: float


def _by_double_backward(step: Step) -> _Parabola:
    """d·g and dᵀHd at θ_before by automatic differentiation, dot products in float64."""
    parameters = step.parameters
    refuse_sharded("exact", parameters)
    update = torch.cat([part.reshape(-1).double() for part in step.update])
    with step.at_start() as loss, twice_differentiable(), torch.enable_grad():
        for parameter in parameters:  # moved ones that training no longer differentiates; flags are restored
            parameter.requires_grad_(True)
        product = hessian_product(loss, parameters, across_ranks=True)(update)
        gradient = averaged(lambda: _gradient(loss, parameters))
    return _Parabola(float(update @ gradient), float(update @ product), 0.0, math.nan)


def _gradient(loss: Callable[[], Tensor], parameters: list[Tensor]) -> Tensor:
    gradients = torch.autograd.grad(loss().sum(), parameters, allow_unused=True, materialize_grads=True)
    return torch.cat([part.reshape(-1).double() for part in gradients])


def _by_differences(step: Step) -> _Parabola:
    """The same from values of the loss; h begins where it served at the last measurement."""
    found = parabola(step.at, rounding=step.rounding / 4, start=step.memory.get("directional", 1.0))
    if found.error <= _RESOLVED:
        step.memory["directional"] = found.next
    return found


def parabola(f: Callable[[float], float], *, rounding: float, start: float = 1.0) -> _Parabola:
    """f'(0) and f''(0) from central differences at h and h/2, extrapolated to h = 0.

    Args:
        f: change of the loss at a multiple of the step; f(0) = 0.
        rounding: error of one loss [loss]. h goes up until the differences stand out of it, then down until they agree;
            where they never do (an unknown noise, of bfloat16 products for example), up again.
        start: first h [1].

    Example:
        >>> found = parabola(lambda m: math.exp(m) - 1, rounding=1e-16)
        >>> round(found.slope, 4), round(found.curvature, 4), found.error < 0.01
        (1.0, 1.0, True)
    """
    ladder = _Ladder(f, rounding, start)
    k = 0
    while k < _RISES and ladder.blur(k) > _BLUR:
        # It falls as 1/h²: go where it would be small enough, at most by 8, for it may be rounding that is extrapolated.
        k += math.ceil(math.log2(min(ladder.blur(k) / _BLUR, 64)) / 2)
    while k > -_RISES and not ladder.finite(k):
        k -= 1
    best = ladder.parabola(k)
    for lower in range(k - 1, k - _FALLS, -1):
        if best.error <= _AGREEMENT or ladder.blur(lower) > best.error:
            break
        best = min(best, ladder.parabola(lower), key=lambda found: found.error)
    for higher in range(k + 1, k + _FALLS):
        if best.error <= _AGREEMENT or not ladder.finite(higher) or ladder.parabola(higher).error >= best.error:
            break
        best = ladder.parabola(higher)
    return best


class _Ladder:
    """Central differences of f at h = start·2^k, each pair of evaluations made once."""

    def __init__(self, f: Callable[[float], float], rounding: float, start: float) -> None:
        self._f, self._rounding, self._start = f, rounding, start
        self._seen: dict[int, tuple[float, float]] = {}

    def _rung(self, k: int) -> tuple[float, float]:
        """First and second difference quotient at rung k."""
        if k not in self._seen:
            h = self._h(k)
            ahead, behind = self._f(h), self._f(-h)
            self._seen[k] = (ahead - behind) / (2 * h), (ahead + behind) / h**2
        return self._seen[k]

    def _h(self, k: int) -> float:
        return self._start * 2.0**k

    def finite(self, k: int) -> bool:
        return all(math.isfinite(value) for value in self._rung(k))

    def blur(self, k: int) -> float:
        """Share of rounding in the curvature that rungs k and k - 1 would give together [1]; 0 beyond the finite losses."""
        if not self.finite(k):
            return 0.0
        return _share(_ROUNDINGS * self._rounding / self._h(k) ** 2, self._rung(k)[1])

    def parabola(self, k: int) -> _Parabola:
        """What rungs k and k - 1 give together; rung k - 2 is the witness, as two values may agree by accident."""
        high, middle, low = (self._rung(j) for j in (k, k - 1, k - 2))
        slope, bend = _extrapolated(high, middle)
        witness_slope, witness_bend = _extrapolated(middle, low)
        changed = _share(slope - middle[0], slope) + _share(bend - middle[1], bend)
        contradicted = _share(slope - witness_slope, slope) + _share(bend - witness_bend, bend)
        h = self._h(k)
        rounding = _share(3 * self._rounding / h, slope) + _share(_ROUNDINGS * self._rounding / h**2, bend)
        error = changed + contradicted + rounding
        # Twice the h changes 4 times as much; as long as that still agrees, it stands further out of rounding.
        further = 2 * h if 8 * changed < _AGREEMENT else h
        return _Parabola(slope, bend, error if math.isfinite(error) else math.inf, further)


def _extrapolated(upper: tuple[float, float], lower: tuple[float, float]) -> tuple[float, float]:
    """Quotients at h and h/2 without their error of order h²."""
    return (4 * lower[0] - upper[0]) / 3, (4 * lower[1] - upper[1]) / 3


def _share(part: float, whole: float) -> float:
    if part == 0:
        return 0.0
    return abs(part / whole) if whole != 0 else math.inf
