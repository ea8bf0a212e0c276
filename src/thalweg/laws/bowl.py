"""`BowlLaw`: loss by size and data, plus a bowl in learning rate and batch size around an optimum that moves with them."""

from __future__ import annotations

import warnings
from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING, ClassVar, NamedTuple, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.bowl_formula import BowlFormula, Shape, Size, Surface
from thalweg.laws.evidence import Evidence, inputs
from thalweg.laws.fitting import evidence_of, finished, folds, held_out, usable, warn_of_batches
from thalweg.laws.law import Law, refuse_earlier
from thalweg.outcomes import ThalwegError, ThalwegWarning, bad_input
from thalweg.schedules import Budget, Schedule
from thalweg.units import format_count, format_lr

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.runs import Runs

__all__ = ["BowlLaw", "Optimum"]

Floats = NDArray[np.float64]

LOGS = ("params", "tokens", "peak_lr", "batch_tokens")
SIZES: tuple[Size, ...] = ("kaplan", "chinchilla")
SHAPES: tuple[Shape, ...] = ("quadratic", "skewed", "quartic")
FEWEST_VALUES = 3  # of learning rate or batch size: two do not show where a bowl has its bottom
COLLINEAR = 1e-3  # share of a column's variance that size and data must leave unexplained
# On Step-Law's runs the scatter of log(loss) grows with the height above the floor: sd .2 % at the bottom, twice that at
# .02 and four times at .06, where runs at high learning rates go their own ways.
DOUBLING = 0.02
HUBER = 1.345  # standard deviations; 95 % efficient for normal noise
ROUNDS = 4  # of estimating the noise and fitting again
LEAST_NOISE = 1e-6


class Optimum(NamedTuple):
    """Where the bowl of one model size and amount of data has its bottom."""

    peak_lr: float
    batch_tokens: float | None  # None where the law has no batch part
    loss: float


@dataclass(frozen=True, slots=True, eq=False)
class BowlLaw(Law):
    """log(loss) = floor(params, tokens) + bowl(log peak_lr/best, log batch_tokens/best).

    The best learning rate and batch size are power laws of params and tokens (Li et al. 2025, "Step Law"), by default with
    exponents that may drift; the formula and what it assumes before it sees a run stand in `thalweg.laws.bowl_formula`.
    Of the schedule the law sees the peak alone: fit it on runs of one schedule shape.

    Attributes:
        size: how the floor falls with params and tokens: "kaplan" (they interact) or "chinchilla" (they add).
        shape: "quadratic" is symmetric around a pure power law, "skewed" is steeper on one side, "quartic" is a general
            polynomial of fourth degree.
        batch: whether the bowl has a batch part; it has none where the runs have fewer than 3 batch sizes, or where batch size
            follows params and tokens.
        constants: in the order of `formula.names`, shape (constants,).
        centres: what the logarithms of params, tokens, peak_lr, batch_tokens are measured from, shape (4,).
        noise: standard deviation of log(loss) of runs at the bottom of the bowl, robust.
        evidence: ranges, held-out residuals and noise of the runs it was fitted on.

    Example:
        >>> from thalweg.schedules import cosine
        >>> constants = np.array([0.9, 0.3, 0.4, 0.6, -1.6, 0.0, -0.5, 0.3, 0.01])
        >>> centres = np.log([1e8, 4e9, 2e-3, 5e5])
        >>> law = BowlLaw("kaplan", "quadratic", False, constants, centres, noise=0.002, evidence=Evidence())
        >>> budget = Budget(params=1e8, tokens=4e9, batch_tokens=5e5)
        >>> best = law.optimum(1e8, 4e9)
        >>> f"{best.peak_lr:.3g}", best.batch_tokens
        ('0.002', None)
        >>> runs = [cosine(peak_lr, 8000, warmup=100) for peak_lr in (2e-3, 2e-3 * np.e)]
        >>> law.log_losses(runs, [budget] * 2) - np.log(best.loss)  # a factor e off the optimum costs xx = .01
        array([0.  , 0.01])
    """

    sources: ClassVar[tuple[str, ...]] = ("step-law", "kaplan", "chinchilla")
    inputs: ClassVar[tuple[str, ...]] = ("params", "tokens", "batch_tokens", "peak_lr")
    size: Size
    shape: Shape
    batch: bool
    constants: Floats
    centres: Floats
    noise: float
    evidence: Evidence

    @classmethod
    def fit(cls, runs: Runs, *, size: Size = "kaplan", shape: Shape = "skewed") -> Self:
        """Fit the constants by maximum posterior: Huber loss on log(loss), in units of its own scatter, and weak priors.

        Args:
            runs: the table; diverged runs are left out.
            size: form of the floor.
            shape: form of the bowl.

        Raises:
            ThalwegError: unknown form; fewer finished configurations than constants; fewer than 3 learning rates, or learning
                rates that follow params and tokens.
        """
        if size not in SIZES:
            raise bad_input("size", size, "one of " + ", ".join(SIZES))
        if shape not in SHAPES:
            raise bad_input("shape", shape, "one of " + ", ".join(SHAPES))
        table = finished(runs)
        logs = _logs(table.schedules, table.budgets)
        formula = BowlFormula(size, shape, len(table) > 0 and _moves(logs, "batch_tokens"))
        kept = usable(runs, needed=len(formula.names), law=f"BowlLaw(shape={shape!r})")
        if not _moves(logs, "peak_lr"):
            raise ThalwegError(
                f"runs: peak_lr has {len(np.unique(logs[:, 2]))} values or follows params and tokens, expected at least "
                f"{FEWEST_VALUES} that vary within a cell: a bowl in the learning rate cannot be told from size and data. Add runs "
                "at other learning rates, or fit Chinchilla."
            )
        _warn_of_size(logs)
        if not formula.batch:
            warn_of_batches(
                kept, "BowlLaw without its batch part", "That needs 3 batch sizes or more that vary by themselves"
            )
        centres = logs.mean(axis=0)
        measured = np.log(kept.loss)
        fitted = _fit(formula, logs - centres, measured)

        def predict(left_out: NDArray[np.bool_]) -> Floats:
            part = _descend(formula, logs[~left_out] - centres, measured[~left_out], fitted.without(left_out))
            return formula.surface(part, logs[left_out] - centres).log_loss

        groups, words = folds(kept)
        evidence = evidence_of(kept, cls.inputs, measured - held_out(predict, groups), words)
        return cls(size, shape, formula.batch, fitted.constants, centres, fitted.noise, evidence)

    def refit(self, runs: Runs) -> Self:
        """A law of the same form, fitted on other runs."""
        return type(self).fit(runs, size=self.size, shape=self.shape)

    def without(self, runs: Runs, left_out: NDArray[np.bool_]) -> Self:
        """The law as it would be had it not seen some of its runs; found from where it is now, and without evidence.

        Args:
            runs: what it was fitted on, none diverged.
            left_out: which of them it should not have seen, shape (runs,).
        """
        logs = _logs(runs.schedules, runs.budgets) - self.centres
        seen = _Fit(self.constants, self.noise, self.scatter(runs.schedules, runs.budgets))
        part = _descend(self.formula, logs[~left_out], np.log(runs.loss[~left_out]), seen.without(left_out))
        return replace(self, constants=part, evidence=Evidence())

    @property
    def formula(self) -> BowlFormula:
        """The formula that the constants belong to."""
        return BowlFormula(self.size, self.shape, self.batch)

    def surface(self, schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Surface:
        """The parts of log(loss), and where each run lies in its bowl; shape (runs,) each."""
        return self.formula.surface(self.constants, _logs(schedules, budgets) - self.centres)

    def scatter(self, schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Floats:
        """How many times `noise` a run scatters, shape (runs,): 1 at the bottom of the bowl, more up its sides."""
        return _scatter(self.surface(schedules, budgets))

    def optimum(self, params: float, tokens: float) -> Optimum:
        """The best learning rate and batch size for a model size and an amount of data [count, count].

        Raises:
            ThalwegError: the fitted surface is no bowl, so it has no best learning rate.
        """
        if not self._is_bowl:
            raise ThalwegError(
                "optimum: the fitted surface has no minimum in learning rate and batch size. Add runs further from the best "
                "learning rate and batch size on both sides."
            )
        here = np.array([[params, tokens, 1.0, 1.0]])
        surface = self.formula.surface(self.constants, np.log(here) - self.centres)
        # x and z are distances from the optimum, here of a learning rate and a batch size of 1
        best_batch = float(np.exp(-surface.z[0])) if self.batch else None
        return Optimum(float(np.exp(-surface.x[0])), best_batch, float(np.exp(surface.floor[0])))

    @property
    def _is_bowl(self) -> bool:
        """Whether the fitted surface has a minimum in learning rate and batch size."""
        value = dict(zip(self.formula.names, self.constants.tolist(), strict=True))
        return bool(value["xx"] > 0 and 4 * value["xx"] * value.get("zz", 1.0) > value.get("xz", 0.0) ** 2)

    def log_losses(
        self,
        schedules: Sequence[Schedule],
        budgets: Sequence[Budget],
        *,
        after: Sequence[tuple[Schedule, Budget]] = (),
    ) -> Floats:
        """floor + bowl, shape (runs,).

        Raises:
            ThalwegError: earlier training was given.
        """
        refuse_earlier(after, type(self).__name__)
        return self.surface(schedules, budgets).log_loss

    def to_frame(self) -> pd.DataFrame:
        """The constants by name."""
        import pandas as pd

        return pd.DataFrame({"constant": self.formula.names, "value": self.constants})

    def summary(self) -> str:
        """The form, how the optimum moves, and how far the law missed runs it had not seen."""
        value = dict(zip(self.formula.names, self.constants.tolist(), strict=True))
        centre = dict(zip(LOGS, np.exp(self.centres), strict=True))
        at = f"at {format_count(centre['params'])} params, {format_count(centre['tokens'])} tokens"
        lines = [f"BowlLaw, {self.size} floor, {self.shape} bowl, {len(self.constants)} constants"]
        if not self._is_bowl:
            lines.append(
                "no best peak_lr: the fitted surface has no minimum. Add runs further from the best on both sides"
            )
            return "\n".join([*lines, self.evidence.summary()])
        rate = centre["peak_lr"] * np.exp(value["lr"])
        lowest, highest = self.evidence.ranges.get("peak_lr", (0.0, np.inf))
        beyond = "" if lowest <= rate <= highest else ", outside the fitted range: the runs do not show a bottom"
        grows = f"grows as params^{value['lr_n']:.2f} tokens^{value['lr_d']:.2f} there"
        lines.append(f"best peak_lr {format_lr(rate)} {at}, {grows}{beyond}")
        if self.batch:
            size = format_count(centre["batch_tokens"] * np.exp(value["batch"]))
            growth = f"params^{value['batch_n']:.2f} tokens^{value['batch_d']:.2f}"
            lines.append(f"best batch_tokens {size} {at}, grows as {growth} there")
        else:
            lines.append("no batch part: the runs do not vary batch size by itself, over 3 values or more")
        return "\n".join([*lines, self.evidence.summary()])


class _Fit(NamedTuple):
    constants: Floats
    noise: float
    scatter: Floats  # of each run, in units of the noise, shape (runs,)

    def without(self, left_out: NDArray[np.bool_]) -> _Fit:
        """Where the fit of the other runs starts: its minimum lies near that of all."""
        return self._replace(scatter=self.scatter[~left_out])


def _logs(schedules: Sequence[Schedule], budgets: Sequence[Budget]) -> Floats:
    """Logarithms of params, tokens, peak_lr, batch_tokens, shape (runs, 4)."""
    columns = inputs(schedules, budgets, LOGS)
    return np.log(np.stack([columns[name] for name in LOGS], axis=1))


def _scatter(surface: Surface) -> Floats:
    return 1 + np.maximum(surface.bowl, 0.0) / DOUBLING


def _moves(logs: Floats, name: str) -> bool:
    """Whether learning rate or batch size varies by more than params and tokens explain."""
    column = logs[:, LOGS.index(name)]
    if len(np.unique(column)) < FEWEST_VALUES:
        return False
    others = np.column_stack([np.ones(len(logs)), logs[:, :2]])
    left = column - others @ np.linalg.lstsq(others, column, rcond=None)[0]
    return bool(left.var() > COLLINEAR * column.var())


def _warn_of_size(logs: Floats) -> None:
    """Warn where the runs do not show how loss depends on params and on tokens apart."""
    n, d = logs[:, 0], logs[:, 1]
    constant = [name for name, column in (("params", n), ("tokens", d)) if np.ptp(column) < 1e-9]
    if constant:
        warnings.warn(
            f"BowlLaw: the runs have one value of {' and of '.join(constant)} alone; what the law says of others is assumed, not "
            "fitted.",
            ThalwegWarning,
            stacklevel=3,
        )
    elif abs(np.corrcoef(n, d)[0, 1]) > 1 - COLLINEAR / 2:
        warnings.warn(
            "BowlLaw: params and tokens are collinear in these runs; predictions hold along their line only. Add runs with "
            "another ratio of tokens to params.",
            ThalwegWarning,
            stacklevel=3,
        )


def _fit(formula: BowlFormula, logs: Floats, measured: Floats) -> _Fit:
    """Constants and noise, each estimated from the other in turn."""
    mean, _ = formula.prior
    level = float(np.median(measured))
    start = mean.copy()
    if formula.size == "kaplan":
        start[0] = level - np.exp(mean[4]) * np.log(2)  # at the centres both parts of the sum are 1
    else:
        start[:3] = level + np.log([0.6, 0.2, 0.2])
    fit = _Fit(start, 0.005, np.ones(len(measured)))
    for _ in range(ROUNDS):
        constants = _descend(formula, logs, measured, fit)
        surface = formula.surface(constants, logs)
        scatter = _scatter(surface)
        # few runs for many constants are fitted closer than they scatter
        freedom = max(1 - len(constants) / len(measured), 1 / 3)
        deviation = 1.4826 * np.median(np.abs(surface.log_loss - measured) / scatter) / np.sqrt(freedom)
        fit = _Fit(constants, max(float(deviation), LEAST_NOISE), scatter)
    return fit


def _descend(formula: BowlFormula, logs: Floats, measured: Floats, start: _Fit) -> Floats:
    """The constants of largest posterior that a start leads to."""
    from scipy.optimize import least_squares

    mean, deviation = formula.prior
    unit = start.noise * start.scatter

    def residuals(constants: Floats) -> Floats:
        surface = formula.surface(constants, logs)
        return np.concatenate([(surface.floor + surface.bowl - measured) / unit, (constants - mean) / deviation])

    def jacobian(constants: Floats) -> Floats:
        return np.vstack([formula.jacobian(constants, logs) / unit[:, None], np.diag(1 / deviation)])

    with np.errstate(over="ignore", invalid="ignore"):
        found = least_squares(
            residuals, start.constants, jacobian, x_scale=deviation, loss="huber", f_scale=HUBER, max_nfev=200
        )
    return np.asarray(found.x)
