from __future__ import annotations

import math
from fractions import Fraction

import numpy as np
import pytest

from thalweg.outcomes import ThalwegError
from thalweg.schedules.arguments import as_lr, as_peak, as_positive, as_steps


def test_numbers_of_every_kind_become_plain_floats_and_ints() -> None:
    for given in (0.5, np.float32(0.5), np.float64(0.5), Fraction(1, 2)):
        assert type(as_lr("lr", given)) is float and as_lr("lr", given) == 0.5
    for given in (5, np.int32(5), np.uint8(5)):
        assert type(as_steps("steps", given)) is int and as_steps("steps", given) == 5
    assert math.copysign(1, as_lr("lr", -0.0)) == 1


@pytest.mark.parametrize("given", [None, "1", b"1", True, math.nan, math.inf, -1.0, 1j, [1.0]])
def test_what_is_not_a_learning_rate(given: object) -> None:
    for check in (as_lr, as_peak, as_positive):
        with pytest.raises(ThalwegError, match="lr: got"):
            check("lr", given)


@pytest.mark.parametrize("given", [None, "5", True, 5.0, 4.5, math.nan, 0, -1, 11, np.float64(5)])
def test_what_is_not_a_step_count(given: object) -> None:
    with pytest.raises(ThalwegError, match=r"steps: got .* at least 1 and at most 10 \(the run\)"):
        as_steps("steps", given, most=10, limit="the run")
