"""Schedules of every factory for property tests."""

from __future__ import annotations

from typing import Any

from hypothesis import strategies as st

from thalweg import schedules as S

lrs = st.floats(1e-6, 1.0)
floors = st.one_of(st.just(0.0), st.floats(1e-8, 1e-2))
decays = st.sampled_from(["linear", "cosine", "sqrt", "exponential"])


@st.composite
def basics(draw: Any) -> tuple[float, int, int]:
    steps = draw(st.integers(2, 3000))
    return draw(lrs), steps, draw(st.integers(0, steps - 1))


def _final(draw: Any, shape: str) -> float:
    return draw(st.floats(1e-8, 1e-2)) if shape == "exponential" else draw(floors)


@st.composite
def decayed(draw: Any) -> S.Schedule:
    peak, steps, warmup = draw(basics())
    factory = draw(st.sampled_from([S.linear, S.cosine]))
    return factory(peak, steps, warmup=warmup, final_lr=draw(floors))


@st.composite
def constants(draw: Any) -> S.Schedule:
    peak, steps, warmup = draw(basics())
    return S.constant(peak, steps, warmup=warmup)


@st.composite
def wsds(draw: Any) -> S.Schedule:
    peak, steps, warmup = draw(basics())
    decay = draw(st.integers(1, steps - warmup))
    shape = draw(decays)
    ramp = draw(st.integers(0, decay))
    return S.wsd(peak, steps, warmup=warmup, decay=decay, shape=shape, final_lr=_final(draw, shape), ramp=ramp)


@st.composite
def shares(draw: Any) -> S.Schedule:
    return S.wsd(
        draw(lrs), draw(st.integers(100, 3000)), warmup=draw(st.integers(0, 40)), decay=draw(st.floats(0.01, 0.6))
    )


@st.composite
def four_phases(draw: Any) -> S.Schedule:
    steps = draw(st.integers(4, 3000))
    a1, a2, a3 = sorted(draw(st.lists(st.integers(0, steps - 1), min_size=3, max_size=3, unique=True)))
    options = {"warmup": a1, "decay_until": a2, "cooldown_from": a3, "final_lr": draw(floors)}
    return S.four_phase(draw(lrs), draw(lrs), steps, **options)


@st.composite
def cycles(draw: Any) -> S.Schedule:
    peak, steps, warmup = draw(basics())
    shape = draw(decays)
    number = draw(st.integers(1, min(5, steps - warmup)))
    shortest = (steps - warmup) // number
    options = {"cycles": number, "warmup": warmup, "shape": shape, "ramp": draw(st.integers(0, shortest))}
    return S.cyclic(peak, steps, final_lr=_final(draw, shape), **options)


@st.composite
def tables(draw: Any) -> S.Schedule:
    values = draw(st.lists(st.floats(0.0, 1.0), min_size=1, max_size=60))
    phases = draw(st.none() | st.lists(st.integers(0, len(values)), min_size=3, max_size=3).map(sorted).map(tuple))
    return S.from_values(values, phases=phases)


@st.composite
def rows(draw: Any) -> tuple[Any, ...]:
    shape = draw(st.sampled_from(["constant", "linear", "cosine", "sqrt", "exponential", "polynomial"]))
    low = lrs if shape == "exponential" else floors
    start = draw(low)
    row = (shape, draw(st.integers(1, 500)), start, start if shape == "constant" else draw(low))
    return (*row, draw(st.floats(0.2, 4.0))) if shape == "polynomial" else row


segmented = st.lists(rows(), min_size=1, max_size=4).map(S.from_segments)

singles = st.one_of(decayed(), constants(), wsds(), shares(), four_phases(), cycles(), tables(), segmented)
schedules = st.one_of(singles, st.builds(S.rewarmed, singles, singles))
