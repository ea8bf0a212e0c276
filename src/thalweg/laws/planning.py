"""`plan`: rank candidate schedules on one budget by the loss a law predicts, and say how far to believe it."""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
from numpy.typing import NDArray

from thalweg.figures import Bars, Figure, Line
from thalweg.laws.evidence import inputs
from thalweg.laws.law import Earlier, Law, Prediction, earlier
from thalweg.outcomes import bad_input
from thalweg.results import Result
from thalweg.schedules import Budget, Schedule, check_steps, cosine, linear, parse, wsd
from thalweg.units import format_count

if TYPE_CHECKING:
    import pandas as pd

    from thalweg.laws.divergence import DivergenceCriterion

__all__ = ["Plan", "default_candidates", "plan"]

Floats = NDArray[np.float64]

SHOWN_DIVERGING = 3
SHOWN = 10  # rows of the summary and of the figures
FIT_YOUR_OWN = "fit a law on your own runs: thalweg plan --runs runs.csv, or OptLaw.fit(runs.read(...))"


@dataclass(frozen=True, slots=True, eq=False)
class Plan(Result):
    """Candidate schedules in the order of their predicted loss, best first; those likely to diverge come last.

    Attributes:
        law: the law's name.
        setup: whose runs the law was fitted on, where they are not the user's own.
        params, tokens, batch_tokens: the budget [count].
        schedules: best first; all arrays below follow this order.
        order: numbers of the candidates as they were given, shape (schedules,).
        gaps: predicted log(loss) minus that of the first, shape (schedules,).
        losses: predicted losses [nats], shape (schedules,); None after earlier training, where levels mean nothing.
        lower, upper: central 90 % interval for one new run [nats]; None where the law knows no residuals.
        probability_best: probability that a schedule is the best of all candidates; None where the law knows no spread.
        divergence: divergence ratio R of each schedule, above 1 likely to diverge; None where no criterion was asked.
        extrapolates: for each schedule, a phrase for every input outside the range the law was fitted on.
        seed_noise: standard deviation of log(loss) between seeds; None where the law's table repeats no configuration.
        candidates: how many were ranked (`top` may have kept fewer).
        diverging: all candidates that are likely to diverge, the least so first, also those that `top` left out; None where
            no criterion was asked.
    """

    law: str
    setup: str
    params: float
    tokens: float
    batch_tokens: float
    schedules: tuple[Schedule, ...]
    order: NDArray[np.intp]
    gaps: Floats
    losses: Floats | None
    lower: Floats | None
    upper: Floats | None
    probability_best: Floats | None
    divergence: Floats | None
    extrapolates: tuple[tuple[str, ...], ...]
    seed_noise: float | None
    candidates: int
    diverging: tuple[Schedule, ...] | None

    @property
    def best(self) -> Schedule:
        """The schedule with the lowest predicted loss among those not likely to diverge."""
        return self.schedules[0]

    @property
    def budget(self) -> Budget:
        """The budget that was planned for."""
        return Budget(params=self.params, tokens=self.tokens, batch_tokens=self.batch_tokens)

    @property
    def predictions(self) -> tuple[Prediction, ...]:
        """A prediction for each schedule; empty after earlier training, where levels mean nothing."""
        if self.losses is None:
            return ()
        bounds = None if self.lower is None or self.upper is None else list(zip(self.lower, self.upper, strict=True))
        return tuple(
            Prediction(
                loss=float(loss),
                interval=None if bounds is None else (float(bounds[row][0]), float(bounds[row][1])),
                diverges=None if self.divergence is None else bool(self.divergence[row] > 1),
                extrapolates=self.extrapolates[row],
            )
            for row, loss in enumerate(self.losses)
        )

    @property
    def tied(self) -> NDArray[np.bool_] | None:
        """Whether a schedule's gap to the best is below the seed noise, shape (schedules,); None where that is unknown."""
        return None if self.seed_noise is None else np.abs(self.gaps) < self.seed_noise

    def to_frame(self) -> pd.DataFrame:
        """A row a schedule, best first."""
        import pandas as pd

        columns = {
            "schedule": [str(schedule) for schedule in self.schedules],
            "candidate": self.order,
            "loss": self.losses,
            "lower": self.lower,
            "upper": self.upper,
            "gap": self.gaps,
            "tied": self.tied,
            "probability_best": self.probability_best,
            "divergence": self.divergence,
            "extrapolates": ["; ".join(phrases) for phrases in self.extrapolates],
        }
        return pd.DataFrame({name: values for name, values in columns.items() if values is not None})

    def summary(self) -> str:
        """What to believe first, then who would diverge, what is extrapolated, and the best ten."""
        budget = self.budget
        lines = [f"This ranking is untested outside {self.setup}; {FIT_YOUR_OWN}."] if self.setup else []
        lines.append(
            f"{self.law} ranks {self.candidates} schedules for {format_count(self.params)} params, "
            f"{format_count(self.tokens)} tokens, {format_count(self.batch_tokens)} tokens a batch ({budget.steps} steps)."
        )
        if self.losses is None:
            lines.append("After earlier training the levels mean nothing: gaps in log(loss) give the order only.")
        lines += [self._divergence_line(), *self._extrapolation_lines(), self._noise_line(), ""]
        return "\n".join([*lines, *self._table()])

    def figures(self) -> tuple[Figure, ...]:
        """The best schedules as bars of predicted loss, and as learning rates over the run."""
        best = self.schedules[:SHOWN]
        values, label = (
            (self.gaps, "gap in log(loss) to the best [1]") if self.losses is None else (self.losses, "loss [nats]")
        )
        bars = Bars(
            [str(schedule) for schedule in best],
            values[: len(best)],
            lower=None if self.lower is None else self.lower[: len(best)],
            upper=None if self.upper is None else self.upper[: len(best)],
        )
        steps = np.linspace(0, self.best.steps, 400)
        lines = [Line(steps, schedule(steps), str(schedule), series=row) for row, schedule in enumerate(best[:5])]
        return (
            Figure(
                "Predicted final loss",
                (bars,),
                x_label=label,
                caption=f"The best {len(best)} of {self.candidates} schedules. {self._noise_line()}",
                name="plan_ranking",
            ),
            Figure(
                "The best schedules",
                tuple(lines),
                x_label="step",
                y_label="learning rate [1]",
                caption="Schedules of different form may reach the same predicted loss.",
                name="plan_schedules",
            ),
        )

    def _divergence_line(self) -> str:
        if self.diverging is None:
            return "Divergence: not assessed; pass divergence= a criterion that holds for your runs."
        if not self.diverging:
            return "Likely to diverge: none."
        more = len(self.diverging) - SHOWN_DIVERGING
        shown = ", ".join(map(str, self.diverging[:SHOWN_DIVERGING])) + (f" and {more} more" if more > 0 else "")
        return f"Likely to diverge, hence ranked last: {len(self.diverging)} of {self.candidates}, {shown}."

    def _extrapolation_lines(self) -> list[str]:
        counts = Counter(phrase for phrases in self.extrapolates for phrase in phrases)
        everywhere = [phrase for phrase, count in counts.items() if count == len(self.schedules)]
        somewhere = [f"{phrase} ({count} schedules)" for phrase, count in counts.items() if count < len(self.schedules)]
        lines = [f"Extrapolated in every schedule: {'; '.join(everywhere)}."] if everywhere else []
        lines += [f"Extrapolated in some: {'; '.join(somewhere)}."] if somewhere else []
        return lines or ["Extrapolated: nothing."]

    def _noise_line(self) -> str:
        if self.seed_noise is None:
            return "Seed noise: unknown (no configuration was repeated), so small gaps may mean nothing."
        return f"Seed noise: {self.seed_noise:.2%}; schedules closer than that to the best are tied with it (=)."

    def _table(self) -> list[str]:
        tied = np.zeros(len(self.schedules), bool) if self.tied is None else self.tied
        rows = []
        for row, schedule in enumerate(self.schedules[:SHOWN]):
            rank = f"{'=' if row and tied[row] else ''}{1 if tied[row] else row + 1}"
            cells = [f"{rank:>4}", f"{self.gaps[row]:+.4f}"]
            if self.losses is not None:
                cells.append(f"{self.losses[row]:.4f}")
            if self.lower is not None and self.upper is not None:
                cells.append(f"[{self.lower[row]:.4f}, {self.upper[row]:.4f}]")
            if self.probability_best is not None:
                cells.append(f"{self.probability_best[row]:6.1%}")
            rows.append("  ".join([*cells, str(schedule)]))
        heads = ["rank", "gap    "]
        heads += ["loss  "] if self.losses is not None else []
        heads += ["90 % interval   "] if self.lower is not None else []
        heads += ["P(best)"] if self.probability_best is not None else []
        return ["  ".join([*heads, "schedule"]), *rows]


def plan(
    law: Law,
    budget: Budget,
    candidates: Sequence[Schedule | str],
    *,
    after: Earlier | None = None,
    divergence: DivergenceCriterion | None = None,
    top: int | None = None,
) -> Plan:
    """Rank schedules on a budget by the loss that a law predicts.

    Args:
        law: published or fitted.
        budget: what the run may cost; every candidate's steps must agree with it to .5 %.
        candidates: schedules, or their text forms.
        after: earlier training (continual training, fine-tuning): (schedule, budget), or a list of them.
        divergence: criterion that sends candidates to the end; by default the one that belongs to the law, if there is one.
        top: keep only the best so many.

    Raises:
        ThalwegError: no candidates, something that is no schedule, steps and tokens that disagree, a schedule that the law
            has no form for.

    Example:
        >>> from thalweg.laws import OptLaw
        >>> budget = Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048)
        >>> found = plan(
        ...     OptLaw.published(), budget, ["linear(1e-3, 23842, warmup=2000)", "cosine(1.5e-2, 23842, warmup=128)"]
        ... )
        >>> print(found.best)
        linear(0.001, 23842, warmup=2000)
        >>> [prediction.diverges for prediction in found.predictions]
        [False, True]
    """
    if not isinstance(law, Law):
        raise bad_input("law", law, "a law", "Write for example thalweg.laws.OptLaw.published()")
    if top is not None and not top >= 1:
        raise bad_input("top", top, "a number of schedules to keep, at least 1")
    schedules = _schedules(candidates)
    for schedule in schedules:
        check_steps(schedule, budget)
    budgets = [budget] * len(schedules)
    before = earlier(after)
    log_losses = law.log_losses(schedules, budgets, after=before)
    columns = inputs(schedules, budgets, ("params", "tokens", "batch_tokens", "peak_lr", "warmup", "final_lr"))

    criterion = divergence or law.criterion
    ratios = None
    doomed = np.zeros(len(schedules), dtype=np.bool_)
    if criterion is not None:
        steps = np.array([schedule.steps for schedule in schedules])
        ratios = criterion.ratios(budget, columns["peak_lr"], columns["warmup"], steps)
        # where every candidate is likely to diverge, the criterion does not tell them apart
        doomed = ratios > 1
    interval = None if before else law.evidence.interval(log_losses)
    chances = None if before else probability_best(log_losses, law.evidence.spread, doomed)

    order = np.lexsort((log_losses, doomed))
    kept = order[:top]
    outside = law.evidence.outside({name: values[kept] for name, values in columns.items()})
    return Plan(
        law=type(law).__name__,
        setup=law.evidence.setup,
        params=budget.params,
        tokens=budget.tokens,
        batch_tokens=budget.batch_tokens,
        schedules=tuple(schedules[row] for row in kept),
        order=kept,
        gaps=log_losses[kept] - log_losses[order[0]],
        losses=None if before else np.exp(log_losses[kept]),
        lower=None if interval is None else interval[0][kept],
        upper=None if interval is None else interval[1][kept],
        probability_best=None if chances is None else chances[kept],
        divergence=None if ratios is None else ratios[kept],
        extrapolates=outside,
        seed_noise=law.evidence.seed_noise,
        candidates=len(schedules),
        diverging=None if ratios is None else tuple(schedules[row] for row in np.argsort(ratios) if doomed[row]),
    )


def default_candidates(budget: Budget, *, law: Law | None = None) -> tuple[Schedule, ...]:
    """The grid that is ranked when nobody names candidates: cosine, linear and wsd × 6 peaks × up to 4 warmups.

    Peaks and warmups span the range the law was fitted on (by default that of the published Opt-Law: 1e-3 to 1.5e-2 and 128
    to 6000 steps) in equal ratios; warmups over a quarter of the run are left out, and where none remains they are 1, 2, 5
    and 10 % of it. wsd decays over the last 15 %.

    Example:
        >>> grid = default_candidates(Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048))
        >>> len(grid), str(grid[0])
        (54, 'cosine(0.001, 23842, warmup=128)')
    """
    ranges = _default_ranges() if law is None or "peak_lr" not in law.evidence.ranges else law.evidence.ranges
    steps = budget.steps
    peaks = sorted({float(f"{peak:.2e}") for peak in np.geomspace(*ranges["peak_lr"], 6)})
    low, high = (max(1.0, end) for end in ranges["warmup"])
    warmups = sorted({round(warmup) for warmup in np.geomspace(low, high, 4) if warmup <= steps / 4})
    if not warmups:
        warmups = sorted({max(1, round(share * steps)) for share in (0.01, 0.02, 0.05, 0.1)})
    final_lr = ranges["final_lr"][0]
    return tuple(
        shape(peak, steps, warmup=warmup, final_lr=final_lr)
        for shape in (cosine, linear, wsd)
        for peak in peaks
        for warmup in warmups
    )


def probability_best(log_losses: Floats, spread: float | None, doomed: NDArray[np.bool_]) -> Floats | None:
    """Probability that each run has the lowest loss when all miss their prediction independently; None without a spread.

    P(i) = ∫ φ(z − μ_i) Π_{j≠i} [1 − Φ(z − μ_j)] dz with μ = log_losses/spread. Runs that diverge are never the best. Very
    similar schedules in truth miss together, so they share what is given here to one.

    Args:
        log_losses: predicted log(loss), shape (runs,).
        spread: standard deviation of its error within one budget.
        doomed: which runs diverge, shape (runs,).

    Example:
        >>> probability_best(np.array([0.0, 0.0, 1.0]), 0.01, np.zeros(3, bool)).round(6)
        array([0.5, 0.5, 0. ])
    """
    if spread is None:
        return None
    from scipy.special import log_ndtr

    alive = np.flatnonzero(~doomed) if not doomed.all() else np.arange(len(doomed))
    lowest = log_losses[alive].min()
    # noise-free tables have a spread of rounding errors: whatever is not the best then has no chance
    mean = (log_losses[alive] - lowest) / max(spread, 1e-12)
    near = mean < 12  # a run further behind wins with a probability below 1e-16
    mean = mean[near]
    z, step = np.linspace(-8 - np.sqrt(2 * np.log(len(mean))), 20, 561, retstep=True)
    survival = log_ndtr(mean[:, None] - z)  # log of the probability that run j stays above z
    density = np.exp(survival.sum(axis=0) - survival - (z - mean[:, None]) ** 2 / 2) / np.sqrt(2 * np.pi)
    chances = density.sum(axis=1) * step
    result = np.zeros(len(log_losses))
    result[alive[near]] = chances / chances.sum()
    return result


def _schedules(candidates: Sequence[Schedule | str]) -> list[Schedule]:
    if isinstance(candidates, str | Schedule) or len(candidates) == 0:
        raise bad_input(
            "candidates",
            candidates,
            "a list of schedules or texts",
            'Write for example ["cosine(1e-3, 10000, warmup=500)"]',
        )
    wrong = [candidate for candidate in candidates if not isinstance(candidate, str | Schedule)]
    if wrong:
        raise bad_input("candidates", wrong[0], "schedules or texts")
    return [parse(candidate) if isinstance(candidate, str) else candidate for candidate in candidates]


def _default_ranges() -> dict[str, tuple[float, float]]:
    from thalweg.laws.opt_law import OptLaw

    return dict(OptLaw.published().evidence.ranges)
