"""What a comparison of laws found: a leaderboard for each split."""

from __future__ import annotations

from dataclasses import asdict, dataclass
from typing import TYPE_CHECKING, ClassVar

import numpy as np

from thalweg.figures import Bars, Figure
from thalweg.results import Result

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["Comparison", "Score"]


@dataclass(frozen=True, slots=True)
class Score(Result):
    """How well a law predicted the runs that a split kept from it.

    Attributes:
        law: its name, with the options of its fit.
        split: what was kept from it.
        runs: predictions that were judged [count].
        error: mean of |predicted/measured − 1| [1]; None where the law could not be fitted.
        error_interval: central 90 % of that mean when cells are resampled; None below 3 cells.
        largest: largest relative error [1].
        rank_correlation: Spearman's, within the cells of a fold, their mean [1]; None where the law ranks nothing.
        regret: loss of the run that is ranked first over the best measured one − 1, mean over cells [1].
        regret_interval: central 90 % of that mean when cells are resampled.
        coverage: share of losses inside their 90 % interval [1]; None where the law knows no interval.
        width: mean width of that interval over the loss [1].
        seconds: CPU time of one fit [s], the mean over folds.
        warnings: what the fits warned of, each once.
        problem: why there are no numbers; empty where there are.
    """

    law: str
    split: str
    runs: int = 0
    error: float | None = None
    error_interval: tuple[float, float] | None = None
    largest: float | None = None
    rank_correlation: float | None = None
    regret: float | None = None
    regret_interval: tuple[float, float] | None = None
    coverage: float | None = None
    width: float | None = None
    seconds: float | None = None
    warnings: tuple[str, ...] = ()
    problem: str = ""

    def summary(self) -> str:
        """The numbers under their names."""
        if self.problem:
            return f"{self.law}: {self.problem}"
        return f"{Comparison.columns}\n{_row(self)}"


@dataclass(frozen=True, slots=True)
class Comparison(Result):
    """Scores of laws over splits.

    Attributes:
        scores: one for each split and law.
        runs: runs of the table that did not diverge [count].
        cells: their (params, tokens) cells [count].

    Example:
        >>> scores = (Score("A", "few_runs", 10, 0.02, seconds=0.1), Score("B", "few_runs", 10, 0.01, seconds=0.1))
        >>> [score.law for score in Comparison(scores, 10, 2).leaderboard("few_runs")]
        ['B', 'A']
    """

    scores: tuple[Score, ...]
    runs: int
    cells: int
    columns: ClassVar[str] = "error (90 % interval)     largest  rank   regret  covered  width    CPU s/fit"

    @property
    def splits(self) -> tuple[str, ...]:
        """Names of the splits, in the order they were asked for."""
        return tuple(dict.fromkeys(score.split for score in self.scores))

    def leaderboard(self, split: str) -> tuple[Score, ...]:
        """The scores on a split, smallest mean error first; laws that could not be fitted last."""
        inside = [score for score in self.scores if score.split == split]
        return tuple(sorted(inside, key=lambda score: np.inf if score.error is None else score.error))

    def to_frame(self) -> pd.DataFrame:
        """One row a score; intervals in two columns, `…_low` and `…_high`."""
        import pandas as pd

        rows = []
        for score in self.scores:
            row = asdict(score)
            for name in ("error", "regret"):
                row[f"{name}_low"], row[f"{name}_high"] = row.pop(f"{name}_interval") or (None, None)
            rows.append({**row, "warnings": "; ".join(score.warnings)})
        return pd.DataFrame(rows)

    def summary(self) -> str:
        """A leaderboard for each split, and what the fits warned of."""
        wide = max(len(score.law) for score in self.scores)
        lines = [f"{self.runs} runs in {self.cells} (params, tokens) cells; each law predicts runs kept from its fit"]
        for split in self.splits:
            board = self.leaderboard(split)
            lines += ["", f"{split}: {board[0].runs} predictions", f"{'':{wide}}  {self.columns}"]
            lines += [f"{score.law:{wide}}  {score.problem or _row(score)}" for score in board]
        told = dict.fromkeys(text for score in self.scores for text in score.warnings)
        return "\n".join([*lines, *([""] if told else []), *(f"warning: {text}" for text in told)])

    def figures(self) -> tuple[Figure, ...]:
        """One a split: the mean error of every law that could be fitted, with its interval, best first."""
        return tuple(self._errors(split) for split in self.splits if self.leaderboard(split)[0].error is not None)

    def _errors(self, split: str) -> Figure:
        known = [score for score in self.leaderboard(split) if score.error is not None]
        error = np.array([score.error for score in known])
        ends = [score.error_interval or (score.error, score.error) for score in known]
        low, high = np.array(ends, dtype=np.float64).T
        return Figure(
            f"Mean error: {split}",
            (Bars([score.law for score in known], 100 * error, lower=100 * low, upper=100 * high),),
            x_label="mean relative error of runs kept from the fit [%]",
            caption=f"{known[0].runs} predictions. 90 % intervals: (params, tokens) cells resampled.",
            name=f"laws_{split}",
        )


def _row(score: Score) -> str:
    interval = f" ({score.error_interval[0]:.2%}–{score.error_interval[1]:.2%})" if score.error_interval else ""
    return (
        f"{_percent(score.error)}{interval:<17}  {_percent(score.largest):>7}  {_number(score.rank_correlation):>5}  "
        f"{_percent(score.regret):>6}  {_percent(score.coverage, 0):>7}  {_percent(score.width):>6}  "
        f"{_number(score.seconds):>8}"
    )


def _percent(value: float | None, digits: int = 2) -> str:
    return "–" if value is None else f"{value:.{digits}%}"


def _number(value: float | None) -> str:
    return "–" if value is None else f"{value:.2f}"
