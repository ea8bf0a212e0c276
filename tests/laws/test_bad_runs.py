"""Tables no law can be fitted on: each law says so in one line, and none answers with a number."""

from __future__ import annotations

import numpy as np
import pandas as pd
import pytest

from tests.laws.tables import grid_of_runs
from thalweg import laws
from thalweg.outcomes import ThalwegError, ThalwegWarning
from thalweg.runs import Runs
from thalweg.schedules import cyclic

NAMES = ("BrokenPowerLaw", "Chinchilla", "Kaplan", "OptLaw", "OptLawFixedSize")
pytestmark = pytest.mark.parametrize("name", NAMES)


def frame(name: str) -> pd.DataFrame:
    table = grid_of_runs().frame
    return table[table.params == 3e8] if name == "OptLawFixedSize" else table


def refused(name: str, table: pd.DataFrame, words: str) -> None:
    with pytest.raises(ThalwegError, match=words) as error:
        laws.find(name).fit(Runs.from_frame(table))
    assert "\n" not in str(error.value)


def test_all_runs_diverged(name):
    table = frame(name).assign(diverged=True, loss=np.nan)
    refused(name, table, rf"got {len(table)} runs \({len(table)} diverged\) of 0 configurations, expected at least")


@pytest.mark.parametrize("loss", [0.0, -2.0, np.nan])
def test_losses_that_are_not_positive(name, loss):
    refused(name, frame(name).assign(loss=loss), "loss")


def test_one_configuration_in_many_seeds(name):
    table = pd.concat([frame(name).iloc[:1]] * 30)
    refused(name, table.assign(loss=np.linspace(3, 3.1, 30)), "30 runs .*1 configurations, expected at least")


def test_mixed_loss_kinds_warn(name):
    table = frame(name)
    kinds = np.where(np.arange(len(table)) % 2, "train", "validation")
    with pytest.warns(ThalwegWarning, match="loss_kind"):
        laws.find(name).fit(Runs.from_frame(table.assign(loss_kind=kinds)))


def test_jumps_of_the_learning_rate(name):
    runs = Runs.from_frame(frame(name))
    jumping = runs.frame.assign(
        schedule=[str(cyclic(s.peak_lr, s.steps, warmup=s.phases[0], cycles=2)) for s in runs.schedules]
    )
    if name.startswith("OptLaw"):
        refused(name, jumping, "ramp=")
    else:  # blind to the schedule: a jump is nothing to it
        assert laws.find(name).fit(Runs.from_frame(jumping)).evidence.error < 0.1
