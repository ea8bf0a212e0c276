"""Closed forms against quadrature of independent integrands."""

from __future__ import annotations

import math

import numpy as np
import pytest
from hypothesis import assume, given
from hypothesis import strategies as st
from scipy.integrate import tanhsinh

from tests.schedules.strategies import rows
from thalweg.schedules import from_segments
from thalweg.schedules.segments import Constant, Cosine, Exponential, Linear, Polynomial, Segment, Sqrt

fractions = st.floats(0.0, 1.0)


def segment_of(row: tuple) -> Segment:
    piece = from_segments([row]).pieces[0]
    assert isinstance(piece, Segment)
    return piece


def textbook(segment: Segment, u: np.ndarray) -> np.ndarray:
    """η(u) as it stands in papers, written independently of the library."""
    h0, h1, x = segment.start_lr, segment.end_lr, u / segment.steps
    match segment:
        case Constant():
            return h0 + 0 * x
        case Linear():
            return h0 + (h1 - h0) * x
        case Cosine():
            return h1 + 0.5 * (h0 - h1) * (1 + np.cos(np.pi * x))
        case Sqrt():
            return h1 + (h0 - h1) * (1 - np.sqrt(x))
        case Exponential():
            return h0 * np.exp(x * np.log(h1 / h0))
        case Polynomial():
            return h1 + (h0 - h1) * (1 - x) ** segment.power
    raise AssertionError(segment)


def slope(segment: Segment, u: np.ndarray) -> np.ndarray:
    """η'(u), differentiated by hand."""
    h0, h1, L = segment.start_lr, segment.end_lr, segment.steps
    x = u / L
    match segment:
        case Constant():
            return 0 * x
        case Linear():
            return (h1 - h0) / L + 0 * x
        case Cosine():
            return (h1 - h0) * np.pi / (2 * L) * np.sin(np.pi * x)
        case Sqrt():
            return (h1 - h0) / (2 * L * np.sqrt(x))
        case Exponential():
            return textbook(segment, u) * np.log(h1 / h0) / L
        case Polynomial():
            return (h1 - h0) * segment.power / L * (1 - x) ** (segment.power - 1)
    raise AssertionError(segment)


def interval(segment: Segment, f: float, g: float) -> tuple[float, float]:
    u0, u1 = sorted((f * segment.steps, g * segment.steps))
    assume(u1 - u0 > 1e-3 * segment.steps)
    return u0, u1


def quadrature(f, u0: float, u1: float) -> float:
    # from a fine level on: just beside the infinite slope of √x the error estimate of the coarse ones is too hopeful
    return float(tanhsinh(f, u0, u1, rtol=1e-13, minlevel=6, maxlevel=12).integral)


@given(rows(), fractions, fractions)
def test_integrals_equal_quadrature(row: tuple, f: float, g: float) -> None:
    segment = segment_of(row)
    u0, u1 = interval(segment, f, g)
    scale = max(segment.start_lr, segment.end_lr)
    once = quadrature(lambda u: textbook(segment, u), u0, u1)
    twice = quadrature(lambda u: textbook(segment, u) ** 2, u0, u1)
    assert segment.integral(u0, u1) == pytest.approx(once, rel=1e-10, abs=1e-13 * scale * segment.steps)
    assert segment.square_integral(u0, u1) == pytest.approx(twice, rel=1e-10, abs=1e-13 * scale**2 * segment.steps)


@given(rows(), st.floats(0.01, 0.99), st.floats(0.01, 0.99))
def test_roughness_equals_quadrature(row: tuple, f: float, g: float) -> None:
    segment = segment_of(row)
    u0, u1 = interval(segment, f, g)
    expected = quadrature(lambda u: slope(segment, u) ** 2, u0, u1)
    scale = (segment.start_lr - segment.end_lr) ** 2 / segment.steps
    assert segment.roughness(u0, u1) == pytest.approx(expected, rel=1e-10, abs=1e-13 * scale)


@given(rows())
def test_slopes_of_this_test_are_the_slopes_of_the_curve(row: tuple) -> None:
    segment = segment_of(row)
    u = np.linspace(0.1, 0.9, 9) * segment.steps
    h = 1e-6 * segment.steps
    measured = (segment.lr(u + h) - segment.lr(u - h)) / (2 * h)
    scale = max(segment.start_lr, segment.end_lr) / segment.steps
    np.testing.assert_allclose(measured, slope(segment, u), rtol=1e-6, atol=1e-8 * scale)


@given(rows())
def test_both_ends_are_hit_exactly_and_the_curve_stays_between(row: tuple) -> None:
    segment = segment_of(row)
    u = np.linspace(0.0, segment.steps, 101)
    lrs = segment.lr(u)
    assert (lrs[0], lrs[-1]) == (segment.start_lr, segment.end_lr) == (segment.first_lr, segment.last_lr)
    low, high = sorted((segment.start_lr, segment.end_lr))
    assert low * (1 - 1e-12) <= lrs.min() and lrs.max() <= high * (1 + 1e-12)
    np.testing.assert_allclose(lrs, textbook(segment, u), rtol=1e-10, atol=1e-15 * high)


@given(rows(), st.integers(0, 100), st.integers(0, 100))
def test_a_trimmed_segment_is_the_same_curve(row: tuple, front: int, back: int) -> None:
    segment = segment_of(row)
    assume(front + back < segment.steps)
    part = segment.trimmed(front, back)
    assert part.length == segment.steps - front - back
    assert part.first_lr == segment.lr_at(front) and part.last_lr == segment.lr_at(segment.steps - back)
    assert part.integral(part.first, part.last) == segment.integral(front, segment.steps - back)


def test_where_the_squared_slope_has_no_integral() -> None:
    assert Sqrt(10, 1.0, 0.0).rough_start and Sqrt(10, 1.0, 0.0).roughness(0, 10) == math.inf
    assert not Sqrt(10, 1.0, 1.0).rough_start and Sqrt(10, 1.0, 1.0).roughness(0, 10) == 0
    assert not Sqrt(10, 1.0, 0.0).trimmed(1, 0).rough_start
    assert (
        Polynomial(10, 1.0, 0.0, power=0.5).rough_end
        and Polynomial(10, 1.0, 0.0, power=0.5).roughness(0, 10) == math.inf
    )
    assert Polynomial(10, 1.0, 0.0, power=0.3).roughness(0, 10) == math.inf
    assert not Polynomial(10, 1.0, 0.0, power=0.5).trimmed(0, 1).rough_end
    assert not Polynomial(10, 1.0, 0.0, power=0.75).rough_end
    # p = 3/4: (p/L)² L / (2p − 1)
    assert Polynomial(10, 1.0, 0.0, power=0.75).roughness(0, 10) == pytest.approx(0.75**2 / 10 / 0.5)
