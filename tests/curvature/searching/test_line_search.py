from __future__ import annotations

import ast
import inspect
import math

import numpy as np
import pytest
from hypothesis import example, given

from tests.curvature.changes import Counted, assert_certified, crossings, shapes, tolerances
from tests.reference import paper_line_search as printed
from thalweg.curvature import paper_search, search
from thalweg.curvature.searching import belief, certified, line_search, scanning, search_memory
from thalweg.outcomes import Outcome, ThalwegError


@given(shape=shapes, crossing=crossings, guess=crossings, tolerance=tolerances)
@example(shape=lambda u: u * (u - 1), crossing=1.0, guess=1.0, tolerance=1 / 16)  # a tie at the guess
@example(shape=lambda u: u * (u - 1), crossing=4.0, guess=1.0, tolerance=1 / 16)  # a tie at a doubling
@example(shape=lambda u: u, crossing=1.0, guess=1.0, tolerance=1 / 16)  # climbs
@example(shape=lambda u: -u, crossing=1.0, guess=1.0, tolerance=1 / 16)  # never rises
def test_paper_search_is_the_printed_algorithm(shape, crossing, guess, tolerance):
    start = 2.0  # a loss before the step: a power of two, so that comparing losses is comparing changes
    f = Counted(lambda m: np.float64(start + shape(m / crossing)) - start)
    bracket = paper_search(f, guess=guess, tolerance=tolerance)
    asked = []

    def compute_loss(m):
        asked.append(m)
        return f.f(m) + start

    interval = printed.exponential_search(compute_loss, start, guess)
    assert (bracket.lower, bracket.upper) == printed.binary_search(compute_loss, start, interval, tolerance)
    assert f.asked == asked
    assert bracket.evaluations == len(asked)
    if bracket.outcome is Outcome.OK:
        assert_certified(bracket, f, tolerance)


def test_outcomes_without_a_crossing():
    assert paper_search(lambda m: m, guess=1.0).outcome is Outcome.NOT_DESCENT
    assert paper_search(lambda m: -m, guess=1.0).outcome is Outcome.NOT_BRACKETED
    assert paper_search(lambda m: 0.0, guess=1.0).outcome is Outcome.NOT_BRACKETED
    assert paper_search(lambda m: math.nan, guess=1.0).outcome is Outcome.NOT_DESCENT


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
def test_a_loss_that_is_not_finite_is_a_wall(value):
    bracket = paper_search(lambda m: -m if m < 3 else value, guess=1.0)
    assert bracket.outcome is Outcome.OK
    assert bracket.wall
    assert bracket.lower < 3 <= bracket.upper


@pytest.mark.parametrize("method", [paper_search, search])
@pytest.mark.parametrize("options", [{"guess": 0.0}, {"guess": math.inf}, {"guess": 1.0, "tolerance": 1.0}])
def test_bad_input(method, options):
    with pytest.raises(ThalwegError, match="Write"):
        method(lambda m: m, **options)


@pytest.mark.parametrize("file", [line_search, certified, belief, search_memory, scanning])
def test_no_torch_inside(file):
    tree = list(ast.walk(ast.parse(inspect.getsource(file))))
    modules = {node.module for node in tree if isinstance(node, ast.ImportFrom)}
    names = {alias.name for node in tree if isinstance(node, ast.Import) for alias in node.names}
    standard = {"__future__", "collections.abc", "dataclasses", "math", "typing"}
    own = {f"thalweg.curvature.searching.{name}" for name in ("line_search", "belief", "search_memory")} | {
        "thalweg.outcomes"
    }
    assert modules | names <= standard | own | {"numpy", "numpy.typing"}
