"""What the stochastic models ask of matrices: rounding is let pass, anything more is told in one line."""

from __future__ import annotations

import numpy as np
import pytest

from thalweg.outcomes import ThalwegError
from thalweg.sde.arguments import as_choice, as_covariance, as_symmetric, as_whole, square_root


def test_rounding_is_let_pass():
    matrix = np.array([[1.0, 0.5], [0.5 + 1e-10, 1.0]])
    assert np.array_equal(as_symmetric("h", matrix), as_symmetric("h", matrix).T)
    almost = np.ones((2, 2)) - 1e-10 * np.eye(2)  # lowest eigenvalue −1e-10
    assert np.array_equal(as_covariance("h", almost), almost)
    root = square_root("h", almost)
    assert root @ root == pytest.approx(almost, abs=1e-9)
    assert as_covariance("h", np.zeros((3, 3))).shape == (3, 3)


def test_what_was_given_is_not_changed():
    matrix = np.eye(2)
    as_symmetric("h", matrix)[0, 0] = 5.0
    assert matrix[0, 0] == 1.0


def test_roots_of_a_stack():
    drawn = np.random.default_rng(0).normal(size=(5, 3, 3))
    stack = drawn @ np.swapaxes(drawn, 1, 2)
    roots = square_root("noise", stack)
    assert roots @ roots == pytest.approx(stack)
    assert roots == pytest.approx(np.swapaxes(roots, 1, 2))
    assert square_root("noise", stack[3]) == pytest.approx(roots[3])


@pytest.mark.parametrize(
    ("call", "told"),
    [
        (lambda: as_symmetric("h", [[1.0, 2.0]]), "h: got [[1.0, 2.0]], expected a symmetric matrix of shape (dim, dim), not (1, 2)."),
        (lambda: as_symmetric("h", np.zeros((0, 0))), "h: got array([]"),
        (lambda: as_symmetric("h", [[1.0], [2.0, 3.0]]), "h: got [[1.0], [2.0, 3.0]], expected a symmetric matrix"),
        (lambda: as_covariance("h", np.diag([1.0, -1e-3])), "h: got array([[ 1.   ,  0.   ],"),
        (lambda: square_root("h", np.stack([np.eye(2), -np.eye(2)])), "h: got [[-1.0, -0.0], [-0.0, -1.0]], expected a covariance"),
        (lambda: as_whole("runs", 2.0, least=1), "runs: got 2.0, expected a whole number of at least 1."),
        (lambda: as_whole("runs", True, least=1), "runs: got True"),
        (lambda: as_choice("form", "x", ("a", "b")), "form: got 'x', expected one of a, b."),
    ],
)  # fmt: skip
def test_bad_input(call, told):
    with pytest.raises(ThalwegError) as error:
        call()
    assert str(error.value).startswith(told)
    assert "\n" not in str(error.value)
