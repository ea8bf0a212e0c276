"""What every law offers: fit, predict, rank, and an honest account of where it has been tested."""

from __future__ import annotations

from abc import ABC, abstractmethod
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, ClassVar, Self

import numpy as np
from numpy.typing import NDArray

from thalweg.laws.evidence import Evidence, inputs
from thalweg.outcomes import ThalwegError
from thalweg.results import Result
from thalweg.schedules import Budget, Schedule, check_steps

if TYPE_CHECKING:
    from thalweg.laws.divergence.divergence_criterion import DivergenceCriterion
    from thalweg.runs import Runs

__all__ = ["Law", "Prediction", "Ranking", "earlier", "refuse_earlier"]

Floats = NDArray[np.float64]
Earlier = tuple[Schedule, Budget] | Sequence[tuple[Schedule, Budget]]


@dataclass(frozen=True, slots=True)
class Prediction(Result):
    """The predicted final loss of one run.

    Attributes:
        loss: mean token cross-entropy at the last step [nats].
        interval: central 90 % interval for one new run [nats]; None where the law knows no residuals (published ones).
        diverges: whether the run is likely to diverge; None where no criterion was asked.
        extrapolates: a phrase for every input outside the range the law was fitted on.

    Example:
        >>> print(Prediction(2.5, (2.4, 2.6), False, ("params 4B, fitted on 100M to 1B",)).summary())
        loss 2.5000 [2.4000, 2.6000] nats (90 % for one new run)
        extrapolates: params 4B, fitted on 100M to 1B
    """

    loss: float
    interval: tuple[float, float] | None = None
    diverges: bool | None = None
    extrapolates: tuple[str, ...] = ()

    def summary(self) -> str:
        """The prediction in one to three lines."""
        spread = (
            f" [{self.interval[0]:.4f}, {self.interval[1]:.4f}] nats (90 % for one new run)"
            if self.interval
            else " nats"
        )
        lines = [f"loss {self.loss:.4f}{spread}"]
        if self.diverges:
            lines.append("likely to diverge")
        if self.extrapolates:
            lines.append("extrapolates: " + "; ".join(self.extrapolates))
        return "\n".join(lines)


@dataclass(frozen=True, slots=True, eq=False)
class Ranking(Result):
    """Schedules in the order of their predicted loss; levels may mean nothing (continual training), the order does.

    Attributes:
        order: numbers of the schedules as given, best first, shape (schedules,).
        gaps: predicted log(loss) above the best, in that order, shape (schedules,); the first is 0.
    """

    order: NDArray[np.intp]
    gaps: Floats

    def summary(self) -> str:
        """Best first, with the gap in predicted log(loss) to the best."""
        return "\n".join(f"schedule {number}: {gap:+.4f}" for number, gap in zip(self.order, self.gaps, strict=True))


class Law(Result, ABC):
    """Base of every law: a frozen dataclass that holds its parameters and its `evidence`.

    A new law defines `fit`, `log_losses`, the class variables `sources` and `inputs`, and a row in `thalweg.laws.LAWS`.
    """

    __slots__ = ()
    inputs: ClassVar[tuple[str, ...]]  # what the prediction depends on; a fit stores their ranges
    evidence: Evidence

    @classmethod
    @abstractmethod
    def fit(cls, runs: Runs) -> Self:
        """Fit the law on a table of finished runs; diverged runs are left out."""

    def refit(self, runs: Runs) -> Self:
        """A law of the same kind and settings, fitted on other runs; a law whose `fit` has settings overrides this."""
        return type(self).fit(runs)

    @abstractmethod
    def log_losses(
        self,
        schedules: Sequence[Schedule],
        budgets: Sequence[Budget],
        *,
        after: Sequence[tuple[Schedule, Budget]] = (),
    ) -> Floats:
        """Predicted log(loss) of each schedule on its budget, shape (runs,), after earlier training.

        Raises:
            ThalwegError: the law has no form for one of these.
        """

    @property
    def criterion(self) -> DivergenceCriterion | None:
        """The divergence criterion that was fitted on the same runs as the law; None where there is none."""
        return None

    @property
    def blind_to(self) -> str:
        """What of a schedule has no part in the prediction, in words; empty where the law sees its shape."""
        names = type(self).inputs
        if "final_lr" in names:
            return ""
        seen = [name for name in ("peak_lr", "warmup") if name in names]
        return f"anything of a schedule but {' and '.join(seen)}" if seen else "schedules"

    def predict(self, schedule: Schedule, budget: Budget) -> Prediction:
        """The final loss of one run that has not been seen.

        Raises:
            ThalwegError: steps and tokens disagree by over .5 %, or the law is undefined for this schedule.
        """
        check_steps(schedule, budget)
        log_loss = self.log_losses([schedule], [budget])
        interval = self.intervals([schedule], [budget], log_loss)
        return Prediction(
            loss=float(np.exp(log_loss[0])),
            interval=None if interval is None else (float(interval[0][0]), float(interval[1][0])),
            diverges=None if self.criterion is None else self.criterion.diverges(schedule, budget),
            extrapolates=self.evidence.outside(inputs([schedule], [budget], type(self).inputs))[0],
        )

    def intervals(
        self, schedules: Sequence[Schedule], budgets: Sequence[Budget], log_losses: Floats
    ) -> tuple[Floats, Floats] | None:
        """Lower and upper ends of the central 90 % interval of each new run [nats], shape (runs,); None without residuals.

        Equally wide for all, unless a law knows where it is surer and overrides this.

        Args:
            schedules: of each run.
            budgets: of each run.
            log_losses: what the law predicts for them, shape (runs,).
        """
        return self.evidence.interval(log_losses)

    def predict_runs(self, runs: Runs) -> Floats:
        """The predicted loss of every run of a table [nats], shape (runs,)."""
        return np.exp(self.log_losses(runs.schedules, runs.budgets))

    def rank(self, schedules: Sequence[Schedule], budget: Budget, *, after: Earlier | None = None) -> Ranking:
        """Order schedules by predicted loss on one budget, best first.

        Args:
            schedules: the candidates.
            budget: the new data; every candidate's steps must agree with it to .5 %.
            after: earlier training (continual training, fine-tuning): (schedule, budget), or a list of them.

        Raises:
            ThalwegError: steps and tokens disagree, or the law has no form for a schedule or for earlier training.
        """
        for schedule in schedules:
            check_steps(schedule, budget)
        log_losses = self.log_losses(schedules, [budget] * len(schedules), after=earlier(after))
        order = np.argsort(log_losses, kind="stable")
        return Ranking(order, log_losses[order] - log_losses[order[0]])


def earlier(after: Earlier | None) -> Sequence[tuple[Schedule, Budget]]:
    """Earlier training as a list of (schedule, budget), from one pair, a list of them, or nothing."""
    if after is None:
        return ()
    if isinstance(after, tuple) and len(after) == 2 and isinstance(after[0], Schedule):
        return (after,)
    return tuple(after)


def blindness(law: str, blind_to: str) -> str:
    """A sentence on what a law does not see, of `Law.blind_to`."""
    return f"{law} does not see {blind_to}: schedules that differ only there are equal to it."


def refuse_earlier(after: Sequence[tuple[Schedule, Budget]], law: str) -> None:
    """What a law without a form for continual training says when it is asked for one.

    Raises:
        ThalwegError: earlier training was given.
    """
    if after:
        raise ThalwegError(f"after: {law} has no form for earlier training. Rank with OptLaw instead.")
