"""Simulate many runs in the two-valley landscape, on all cores and reproducibly."""

from __future__ import annotations

import threading
from collections.abc import Sequence
from concurrent.futures import ThreadPoolExecutor
from typing import TYPE_CHECKING, Any, NamedTuple, get_args

import numpy as np
from numpy.typing import NDArray

from thalweg.outcomes import bad_input
from thalweg.sde.arguments import as_whole
from thalweg.sde.simulation import LATE, Covariance, Simulation
from thalweg.sde.two_valley import TwoValley

if TYPE_CHECKING:
    from thalweg.sde.kernel import Runs

__all__ = ["simulate"]

Floats = NDArray[np.float64]
Integers = NDArray[np.int64]

BLOCK = 512  # runs a task: their state stays in the first-level cache
SLICE = 1 << 15  # updates between two looks at Ctrl-C, about .1 s; even, as the kernel wants it
TRACED = 60  # places of the trace, evenly spaced on a log scale


class _Cell(NamedTuple):
    """One learning rate and one noise."""

    lr: float
    noise: float
    key: NDArray[np.uint64]  # of the random numbers


def simulate(
    valleys: TwoValley,
    *,
    lr: float | Sequence[float] | Floats,
    noise: float | Sequence[float] | Floats,
    runs: int = 2000,
    steps: int = 20_000,
    covariance: Covariance = "hessian",
    seed: int = 0,
    threads: int | None = None,
    progress: bool = False,
) -> Simulation:
    """Simulate discrete Langevin dynamics in the two-valley landscape (transient dynamics, Eqs. 13–15).

    θ ← θ − η(∇L(θ) + ξ), ξ ~ N(0, Σ(θ)), Σ at the old point. Runs start at (−x_start, y_start) and (+x_start, y_start) in
    turn. `lr` and `noise` are always crossed. With the Hessian H:

    - "hessian": Σ = 2σH + 1e-8·I, H's eigenvalues clipped at 0;
    - "hessian_squared": Σ = 2σH² + 1e-8·I;
    - "isotropic": Σ = 2T·I, the equilibrium control.

    noise=0 is gradient descent, without the 1e-8 too. The landscape means something for y ≥ 0: noise so strong that runs
    fall far below throws them out, and they may come to rest at an absurd, finite y.

    A cell's numbers follow from (seed, lr, noise) alone, and its first n runs are the same however many follow: threads,
    order and the rest of the grid change nothing.

    Args:
        valleys: the landscape and the starting point.
        lr: learning rates η > 0 [1], a number or a sequence.
        noise: noise strengths σ ≥ 0 (isotropic: temperatures T) [1], a number or a sequence.
        runs: runs a cell [count].
        steps: updates a run [count].
        covariance: the form of Σ, one of the three above.
        seed: a whole number ≥ 0.
        threads: by default Numba's number (NUMBA_NUM_THREADS, else the usable cores) [count].
        progress: show a bar on stderr.

    Raises:
        ThalwegError: a learning rate that is not positive, a negative noise, no runs or steps, an unknown covariance.

    Example:
        Without noise every run stays where it starts; with noise most end in the flat valley:

        >>> sim = simulate(TwoValley(), lr=0.05, noise=[0.0, 0.05], runs=200, steps=5000)
        >>> sim.p_flat.tolist()
        [[0.5, 0.96]]
    """
    lrs = _axis("lr", lr, zero=False)
    noises = _axis("noise", noise, zero=True)
    as_whole("runs", runs, least=1)
    as_whole("steps", steps, least=1)
    as_whole("seed", seed, least=0)
    if threads is not None:
        as_whole("threads", threads, least=1)
    if covariance not in get_args(Covariance):
        raise bad_input("covariance", covariance, "one of " + ", ".join(get_args(Covariance)))

    cells = [_Cell(lr, noise, _key(seed, lr, noise)) for lr in lrs.tolist() for noise in noises.tolist()]
    trace_steps = np.unique(np.rint(np.geomspace(1, steps, TRACED)).astype(np.int64))
    measured = _measure(valleys, cells, runs, steps, covariance, trace_steps, threads, progress)
    shape = lrs.size, noises.size
    return Simulation(
        valleys=valleys,
        lr=lrs,
        noise=noises,
        runs=int(runs),
        steps=int(steps),
        covariance=covariance,
        seed=int(seed),
        trace_steps=trace_steps,
        **{
            name: np.array([cell[name] for cell in measured]).reshape(*shape, *np.shape(measured[0][name]))
            for name in measured[0]
        },
    )


def _axis(name: str, values: float | Sequence[float] | Floats, *, zero: bool) -> Floats:
    """One axis of the grid, shape (n,)."""
    kind = f"a number {'≥' if zero else '>'} 0, or a sequence of such numbers"
    instead = f"Write for example {name}=0.05 or {name}=[0.02, 0.05]"
    try:
        axis = np.atleast_1d(np.asarray(values, dtype=np.float64))
    except (TypeError, ValueError):
        raise bad_input(name, values, kind, instead) from None
    if (
        axis.ndim != 1
        or not axis.size
        or not np.isfinite(axis).all()
        or (axis < 0).any()
        or (not zero and not axis.all())
    ):
        raise bad_input(name, values, kind, instead)
    return axis


def _key(seed: int, lr: float, noise: float) -> NDArray[np.uint64]:
    """The 64-bit key of a cell's random numbers, as two words; it does not depend on the rest of the grid."""
    bits = np.array([lr, noise]).view(np.uint64).tolist()
    return np.random.SeedSequence([int(seed), *bits]).generate_state(2, np.uint32).astype(np.uint64)


class _Block(NamedTuple):
    """Consecutive runs of one cell, at their last step."""

    runs: Runs
    on_flat_side: Integers  # runs at x ≥ 0 [count], shape (n_trace,)
    finite: Integers  # of so many finite ones [count], shape (n_trace,)


def _measure(
    valleys: TwoValley,
    cells: Sequence[_Cell],
    runs: int,
    steps: int,
    covariance: Covariance,
    trace_steps: Integers,
    threads: int | None,
    progress: bool,
) -> list[dict[str, Any]]:
    """Run every cell, block after block, and measure it as soon as its last block is there."""
    # here, not above: Numba takes a third of a second to import, and `import thalweg.sde` is to be free
    import numba
    from tqdm import tqdm

    from thalweg.sde import kernel

    landscape = kernel.Landscape.of(valleys)
    stopped = threading.Event()

    def run(cell: _Cell, first: int) -> _Block:
        state = kernel.Runs.started(valleys, first, min(BLOCK, runs - first))
        block = _Block(state, np.zeros_like(trace_steps), np.zeros_like(trace_steps))
        for done in range(0, steps, SLICE):
            if stopped.is_set():
                break
            kernel.advance(
                state,
                first,
                done,
                min(done + SLICE, steps),
                cell.lr,
                cell.noise,
                kernel.COVARIANCES.index(covariance),
                landscape,
                cell.key,
                trace_steps,
                block.on_flat_side,
                block.finite,
            )
        return block

    measured = []
    # threads, since the kernel releases the interpreter; it sleeps in `result()`, so Ctrl-C is heard at once
    executor = ThreadPoolExecutor(threads or numba.config.NUMBA_NUM_THREADS)  # type: ignore[attr-defined, unused-ignore]
    bar = tqdm(total=len(cells) * runs * steps, unit="step", unit_scale=True, disable=not progress)
    try:
        pending = [[executor.submit(run, cell, first) for first in range(0, runs, BLOCK)] for cell in cells]
        for cell_blocks in pending:
            blocks = []
            for future in cell_blocks:
                blocks.append(future.result())
                bar.update(blocks[-1].runs.x.size * steps)
            measured.append(_statistics(blocks, steps))
            cell_blocks.clear()  # a finished cell's runs are not needed any more
    finally:
        stopped.set()
        executor.shutdown(cancel_futures=True)
        bar.close()
    return measured


def _statistics(blocks: Sequence[_Block], steps: int) -> dict[str, Any]:
    """The fields of one cell: means over finite runs with their standard errors, the count of the others, the trace."""
    x, y, crossed_at, crossed_y, crossings = (
        np.concatenate(column) for column in zip(*(b.runs for b in blocks), strict=True)
    )
    finite = np.isfinite(x) & np.isfinite(y)
    kept = np.count_nonzero(finite)
    cell: dict[str, Any] = {"non_finite": finite.size - kept}
    per_run = {
        "p_flat": x > 0,
        "freezing_step": crossed_at + 1,
        "y_freeze": crossed_y,
        "crossings": crossings,
        "censored": crossed_at > (1 - LATE) * steps,
    }
    for name, values in per_run.items():
        values = values[finite].astype(np.float64)
        with np.errstate(over="ignore"):  # runs thrown to y = 1e160 are still finite; their mean has an infinite error
            cell[name] = values.mean() if kept else np.nan
            cell[f"{name}_se"] = values.std(ddof=1) / np.sqrt(kept) if kept > 1 else np.nan
    counted = sum(block.finite for block in blocks)
    cell["trace_p_flat"] = sum(block.on_flat_side for block in blocks) / np.where(counted, counted, np.nan)
    return cell
