"""Survey the solutions of independent runs: who is in the same valley, behind what barrier, how flat it is there."""

from __future__ import annotations

import itertools
import os
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from scipy.sparse.csgraph import connected_components
from torch import Tensor, nn
from tqdm import tqdm

from thalweg.checkpoints import load_into, read
from thalweg.curvature.steps.replay import default_loss
from thalweg.landscape.barriers import barrier
from thalweg.landscape.borrowing import borrowed
from thalweg.landscape.evaluation import LossFn, check_data, mean_loss
from thalweg.landscape.flatness import flatness, select_parameters
from thalweg.landscape.similarity import Predictions, agreement, jaccard_matrix, predict
from thalweg.landscape.survey_result import Survey
from thalweg.outcomes import Outcome, ThalwegError, bad_input

__all__ = ["survey", "valley_labels"]

Checkpoint = str | os.PathLike[str] | Mapping[str, Tensor]


def survey(
    model: nn.Module | Callable[[], nn.Module],
    checkpoints: Sequence[Checkpoint],
    *,
    train: Any,
    test: Any,
    loss_fn: LossFn | None = None,
    top: int = 10,
    parameters: str | Iterable[str] | None = None,
    points: int = 25,
    max_barrier: float = 0.05,
    min_similarity: float = 0.8,
    seed: int = 0,
) -> Survey:
    """Compare the end points of independent runs: similarity, barriers, valleys, flatness, losses.

    Similarity of errors is measured on `test` (transient dynamics Eq. 4), barriers (Eq. 5) and flatness (Eq. 6) on `train`.
    Two checkpoints are in the same valley when a chain of pairs joins them, each pair with a barrier under `max_barrier` and
    a similarity over `min_similarity`. Everything is evaluated in eval mode; the model comes back bit-identical. Paths are
    read when their turn comes, two at a time at most. Flatness keeps the graph of all of `train` in memory.

    Args:
        model: the network of the checkpoints, or a callable without arguments that makes it.
        checkpoints: two or more paths (see `thalweg.checkpoints.read`) or state dicts.
        train: a batch, (x, y) or a dict with `input_ids` and `labels`, or a re-iterable of batches.
        test: the same, in a fixed order.
        loss_fn: (model, batch) → scalar mean; by default cross-entropy (integer labels).
        top: Hessian eigenvalues in the flatness [count]; the number of classes is the paper's choice.
        parameters: names of layers that the flatness is taken of, for example "hidden.2.weight"; all by default.
        points: on each line between two checkpoints [count].
        max_barrier: under it two checkpoints may share a valley [loss units, nats for cross-entropy].
        min_similarity: over it two checkpoints may share a valley [1].
        seed: of the random vectors in flatness and trace.

    Raises:
        ThalwegError: fewer than two checkpoints, a mapping of runs, a checkpoint of another model, a layer that is not there,
            one-shot data, data in another order each time, labels that are not classes.

    Example:
        >>> x = torch.randn(1000, 2, generator=torch.Generator().manual_seed(0))
        >>> data = (x, (x[:, 0] > 0.1).long())
        >>> make = lambda: nn.Linear(2, 2)
        >>> weight = torch.tensor([[-1.0, 0.0], [1.0, 0.0]])
        >>> states = [{"weight": s * weight, "bias": torch.zeros(2)} for s in (1.0, 1.1, -1.0)]
        >>> result = survey(make, states, train=data, test=data, top=2)
        >>> result.valley.tolist(), result.similarity[0].round(2).tolist()
        ([0, 0, 1], [1.0, 1.0, 0.0])
    """
    _check_checkpoints(checkpoints)
    check_data(train, "train")
    check_data(test, "test")
    loss_fn = loss_fn or default_loss
    net = model if isinstance(model, nn.Module) else model()
    names = _names(checkpoints)
    pairs = list(itertools.combinations(range(len(names)), 2))
    layers = None if parameters is None else [parameters] if isinstance(parameters, str) else list(parameters)

    def train_loss() -> Tensor:
        return mean_loss(net, train, loss_fn)

    losses, predictions, spectra, lines = [], [], [], []
    with borrowed(net), tqdm(total=len(names) + len(pairs), desc="survey", unit="measurement", disable=None) as bar:
        for name, checkpoint in zip(names, checkpoints, strict=True):
            _load(net, name, _state(checkpoint))
            predictions.append(predict(net, test))
            with torch.no_grad():
                losses.append((float(train_loss()), float(mean_loss(net, test, loss_fn))))
            spectra.append(flatness(train_loss, select_parameters(net, layers), top=top, seed=seed))
            bar.update()
        _check_same_samples(predictions)
        for i, group in itertools.groupby(pairs, key=lambda pair: pair[0]):
            start = _state(checkpoints[i])
            for _, j in group:
                lines.append(barrier(net, start, _state(checkpoints[j]), train_loss, points=points))
                bar.update()

    errors = np.stack([prediction.errors for prediction in predictions])
    similarity = jaccard_matrix(errors)
    heights = np.zeros_like(similarity)
    for (i, j), line in zip(pairs, lines, strict=True):
        heights[i, j] = heights[j, i] = line.height
    wrong = errors.sum(axis=1)
    return Survey(
        names=names,
        valley=valley_labels(heights, similarity, max_barrier=max_barrier, min_similarity=min_similarity),
        train_loss=np.array([loss for loss, _ in losses]),
        test_loss=np.array([loss for _, loss in losses]),
        errors=wrong,
        samples=errors.shape[1],
        similarity=similarity,
        agreement=np.array([[agreement(a.classes, b.classes) for a in predictions] for b in predictions]),
        lines=tuple(lines),
        spectra=tuple(spectra),
        layers=tuple(layers or ()),
        max_barrier=max_barrier,
        min_similarity=min_similarity,
        outcome=Outcome.NO_ERRORS if (wrong == 0).sum() > 1 else Outcome.OK,
    )


def valley_labels(
    barriers: NDArray[np.float64],
    similarity: NDArray[np.float64],
    *,
    max_barrier: float = 0.05,
    min_similarity: float = 0.8,
) -> NDArray[np.int64]:
    """Label valleys: connected components of pairs with barrier < `max_barrier` and similarity > `min_similarity`.

    Args:
        barriers: ΔL of every pair [loss units], symmetric; shape (solutions, solutions). NaN joins nothing.
        similarity: Jaccard similarity of every pair [1]; the same shape.
        max_barrier: a pair has to stay under it [loss units].
        min_similarity: a pair has to be over it [1].

    Returns:
        Labels 0, 1, … in order of first appearance; shape (solutions,).

    Example:
        The first and the last are joined through the second, though their own barrier is high:

        >>> height = np.array([[0, 0.01, 0.2], [0.01, 0, 0.01], [0.2, 0.01, 0]])
        >>> valley_labels(height, np.full((3, 3), 0.9)).tolist()
        [0, 0, 0]
        >>> valley_labels(height, np.full((3, 3), 0.8)).tolist()
        [0, 1, 2]
    """
    joined = ((barriers < max_barrier) & (similarity > min_similarity)).astype(np.int8)
    _, labels = connected_components(joined, directed=False)
    return cast("NDArray[np.int64]", labels.astype(np.int64))


def _state(checkpoint: Checkpoint) -> Mapping[str, Tensor]:
    return checkpoint if isinstance(checkpoint, Mapping) else read(checkpoint)


def _load(model: nn.Module, name: str, state: Mapping[str, Tensor]) -> None:
    try:
        load_into(model, state)
    except ThalwegError as error:
        raise ThalwegError(f"{name}: {error}") from None  # one of many: say which


def _check_checkpoints(checkpoints: Any) -> None:
    if isinstance(checkpoints, Mapping):
        if any(isinstance(value, Tensor) for value in checkpoints.values()):
            raise bad_input(
                "checkpoints",
                "one state dict",
                "a sequence of two or more",
                "Measure one with thalweg.landscape.flatness",
            )
        raise bad_input(
            "checkpoints",
            f"a mapping of {len(checkpoints)} runs",
            "a sequence of end points; trajectories of runs are not surveyed by this version",
            "Write [last checkpoint of each run]",
        )
    if isinstance(checkpoints, str | os.PathLike) or not isinstance(checkpoints, Sequence) or len(checkpoints) < 2:
        given = f"{len(checkpoints)} checkpoint(s)" if isinstance(checkpoints, list | tuple) else checkpoints
        raise bad_input(
            "checkpoints",
            given,
            "a sequence of two or more paths or state dicts",
            "Measure one with thalweg.landscape.flatness",
        )


def _check_same_samples(predictions: list[Predictions]) -> None:
    if any(not np.array_equal(prediction.labels, predictions[0].labels) for prediction in predictions):
        raise ThalwegError(
            "test: its samples come in another order each time, expected a fixed order so that errors can be compared. "
            "Write DataLoader(..., shuffle=False)."
        )


def _names(checkpoints: Sequence[Checkpoint]) -> tuple[str, ...]:
    """Short names that tell the checkpoints apart: file stems, else paths from the common folder; numbers for state dicts."""
    paths = [os.path.abspath(c) for c in checkpoints if not isinstance(c, Mapping)]
    root = os.path.commonpath([os.path.dirname(path) for path in paths]) if paths else ""

    def named(short: bool) -> list[str]:
        return [
            f"#{i}" if isinstance(c, Mapping) else Path(c).stem if short else os.path.relpath(c, root)
            for i, c in enumerate(checkpoints)
        ]

    for names in (named(short=True), named(short=False)):
        if len(set(names)) == len(names):
            return tuple(names)
    return tuple(f"#{i} {name}" for i, name in enumerate(named(short=True)))
