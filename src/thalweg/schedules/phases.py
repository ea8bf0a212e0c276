"""Find the phases of a learning-rate curve that no factory named: a log, cycles, a continued run."""

from __future__ import annotations

import math
from typing import TypeAlias

import numpy as np
from numpy.typing import NDArray

from thalweg.schedules.schedule import Phases

__all__ = ["find_phases"]

Floats: TypeAlias = NDArray[np.float64]

# A plateau shorter than this share of the run is a corner, not a phase.
SHORTEST_PLATEAU = 0.02
# Noise below this share of the peak is rounding (float32, many printed digits): phases are then read off exactly.
ROUNDING = 1e-5
# A noisy log is smoothed until differences of this share of the peak mean something, at most over WINDOW medians of
# blocks, of which the run has at least about BLOCKS.
MEANINGFUL, BLOCKS, WINDOW = 0.005, 2000, 51
# A corner is placed in the smallest neighbourhood in which it explains this many times the noise variance.
STANDS_OUT = 200.0


def find_phases(values: NDArray[np.float64]) -> Phases:
    """Phases (a1, a2, a3) of per-step learning rates of shape (steps,), by the conventions of the factories.

    Warmup ends where the rate first reaches its maximum. The cooldown is the last fall: it starts where the last
    plateau ends, or at the top of the last rise when there is none. The decay ends where that plateau begins. A flat
    tail below the top belongs to the cooldown; a run that stays at the top never cools down (a3 = steps).

    Clean values give the factories' phases exactly. In noise of some percent of the peak, or values printed with two
    digits, kinks are found to about 1 % of the run; a cooldown that starts smoothly (cosine) to a few.

    Example:
        >>> from thalweg.schedules import wsd
        >>> find_phases(wsd(0.003, 1000, warmup=50, decay=200).values())
        Phases(warmup_end=50, decay_end=50, cooldown_start=800)
    """
    steps, top = len(values), float(values.max())
    if top == 0:
        return Phases(0, 0, steps)
    noise, quantum = _noise(values), _quantum(values)
    if max(noise, quantum) <= ROUNDING * top:
        return _read_off(values, max(8 * noise, 1e-9 * top))
    return _in_noise(values, noise, quantum)


def _noise(values: Floats) -> float:
    """Standard deviation of the noise: in fourth differences a schedule is smooth, and noise has √70 times its spread.

    The largest of eight blocks, because noise in proportion to the rate is largest at the top, where phases change; of
    those in which neighbours mostly differ in sign, as four of five do in noise and none in a bend of a short run.
    """
    if len(values) < 16:
        return 0.0
    wiggles = np.diff(values, 4)
    blocks = np.array_split(wiggles, min(8, len(wiggles) // 12) or 1)
    noisy = [block for block in blocks if np.mean(block[1:] * block[:-1] < 0) > 0.5]
    return max((float(1.4826 * np.median(np.abs(block)) / math.sqrt(70)) for block in noisy), default=0.0)


def _quantum(values: Floats) -> float:
    """Height of the stairs of a log that was printed with few digits or filled forward; 0 for any other curve."""
    changes = np.diff(values)
    moved = np.flatnonzero(changes)
    if len(moved) < 16:
        return 0.0
    alone = np.diff(moved) > 1
    # two digits of a large number are coarser than two digits of a small one: the stairs near the top count
    return float(np.quantile(np.abs(changes[moved]), 0.9)) if alone.mean() > 0.5 else 0.0


def _in_noise(values: Floats, noise: float, quantum: float) -> Phases:
    """Phases of a smoothed copy, then each corner placed in the raw values."""
    steps, spread = len(values), max(noise, quantum)
    samples = (10 * noise / (MEANINGFUL * values.max())) ** 2
    block = int(min(max(samples // WINDOW, 1), -(-steps // BLOCKS)))
    medians = values
    if block > 1:
        medians = np.array([np.median(values[i : i + block]) for i in range(0, steps, block)])
    window = int(min(max(samples // block, 3), WINDOW, max(3, len(medians) // 20))) | 1
    smooth = _running_median(medians, window)
    # a median of w normal values has standard error 1.25σ/√w; eight of them hold the range of a long plateau
    band = max(10 * noise / math.sqrt(window * block), 1.5 * quantum)
    coarse = _read_off(smooth, band)

    a1 = coarse.warmup_end * block
    if coarse.warmup_end <= window:  # smoothing swallows a warmup this short
        level = smooth[min(coarse.warmup_end + window, len(smooth) - 1)]
        a1 = int(np.argmax(values >= level - 4 * spread))
    # phases that coincide stay one corner
    a2 = a1 if coarse.decay_end == coarse.warmup_end else max(a1, coarse.decay_end * block)
    a3 = a2 if coarse.cooldown_start == coarse.decay_end else min(max(a2, coarse.cooldown_start * block), steps)

    corners = sorted({0, a1, a2, a3, steps})
    placed = {0: 0, steps: steps}
    for before, guess, after in zip(corners, corners[1:], corners[2:], strict=False):
        low = 0 if before == 0 else (before + guess) // 2
        high = steps if after == steps else (guess + after) // 2
        placed[guess] = _place(values, guess, low, high, spread, max(8, window * block // 8))
    return Phases(placed[a1], placed[a2], placed[a3])


def _running_median(values: Floats, window: int) -> Floats:
    padded = np.pad(values, window // 2, mode="reflect")
    return np.asarray(np.median(np.lib.stride_tricks.sliding_window_view(padded, window), axis=1))


def _read_off(values: Floats, band: float) -> Phases:
    """Phases of a curve on which differences up to `band` mean nothing."""
    steps, top = len(values), float(values.max())
    warmup_end = int(np.argmax(values >= top - band))
    # the last hump begins after the last point that something later rises above
    ahead = np.maximum.accumulate(values[::-1])[::-1]
    below = np.flatnonzero(ahead[warmup_end:] - values[warmup_end:] > 2 * band)
    hump = warmup_end
    if below.size:
        last_low = warmup_end + int(below[-1])
        hump = last_low + int(np.argmax(values[last_low:] >= ahead[last_low] - band))
    plateau = _longest_plateau(values[hump:], band, top, steps)
    if plateau is None:
        return Phases(warmup_end, hump, hump)
    begin, end = hump + plateau[0], hump + plateau[1]
    return Phases(warmup_end, begin, steps if end == steps - 1 else end)


def _longest_plateau(values: Floats, band: float, top: float, steps: int) -> tuple[int, int] | None:
    """First and last index of the longest flat stretch of a falling curve, its floor left out; all of it if nothing fell."""
    falling = np.minimum.accumulate(values)
    if falling[-1] >= falling[0] - 2 * band:
        return 0, len(values) - 1
    begins = np.arange(int(np.argmax(falling <= falling[-1] + band)))
    ends = np.searchsorted(-falling, -(falling[begins] - band), side="right") - 1
    longest = int(np.argmax(ends - begins))
    end = int(ends[longest])
    if falling[0] - falling[longest] <= band:
        longest = 0
    # the top of a cosine stays in the band for (2/π)√(band/h) of its length; a plateau must be twice as long to be one
    shortest = steps * max(SHORTEST_PLATEAU, 4 / math.pi * math.sqrt(band / top))
    return (longest, end) if end - longest >= max(2.0, shortest) else None


def _place(values: Floats, guess: int, low: int, high: int, spread: float, reach: int) -> int:
    """The corner near a guess, within [low, high): where a line that then jumps, turns or bends fits best.

    The neighbourhood grows from `reach` steps until the corner stands out of the noise.
    """
    while True:
        begin, end = max(low, guess - reach), min(high, guess + reach)
        if end - begin < 5:
            return guess
        found, gain = _best_break(values[begin:end])
        if gain >= STANDS_OUT * spread**2 or (begin == low and end == high):
            return begin + found
        reach *= 2


def _best_break(y: Floats) -> tuple[int, float]:
    """Index of the best corner in y of shape (n,), n ≥ 5, and how much squared error it explains."""
    # where the neighbourhood had to grow this long, noise blurs the corner by more than a block
    block = -(-len(y) // BLOCKS)
    if block > 1:
        found, gain = _best_break(y[: len(y) // block * block].reshape(-1, block).mean(axis=1))
        return found * block, gain * block
    t = np.linspace(-1.0, 1.0, len(y))

    def without_line(z: Floats) -> Floats:
        return np.asarray(z - z.mean() - t * ((t @ z) / (t @ t)))

    rest = without_line(y)

    def gain_at(index: int, power: int) -> float:
        turn = without_line(np.where(t >= t[index], (t - t[index]) ** power, 0.0))
        return float((turn @ rest) ** 2 / (turn @ turn))

    best, best_gain = len(y) // 2, 0.0
    for power in (0, 1, 2):  # a jump, a kink, a bend
        indices = np.arange(1, len(y) - 1)
        while True:
            tried = indices[:: -(-len(indices) // 65)]
            gains = [gain_at(int(index), power) for index in tried]
            i = int(np.argmax(gains))
            if len(tried) == len(indices):
                break
            indices = np.arange(tried[max(i - 1, 0)], tried[min(i + 1, len(tried) - 1)] + 1)
        if gains[i] > best_gain:
            best, best_gain = int(tried[i]), gains[i]
    return best, best_gain
