"""The lazy table, and what a published prediction may import."""

from __future__ import annotations

import subprocess
import sys

import pytest

from thalweg import laws
from thalweg.outcomes import ThalwegError
from thalweg.schedules import Budget, linear

HEAVY = ("torch", "pandas", "sklearn", "scipy", "matplotlib", "numba")


def modules_after(code: str) -> set[str]:
    """The heavy modules that a fresh Python holds after running the code."""
    script = f"import sys\n{code}\nprint(*(name for name in {HEAVY!r} if name in sys.modules))"
    done = subprocess.run([sys.executable, "-c", script], capture_output=True, text=True, check=True)
    return set(done.stdout.split())


def test_a_published_prediction_and_plan_import_nothing_heavy():
    code = """
import thalweg as tw
budget = tw.Budget(params=4.05e9, tokens=100e9, batch_tokens=2048 * 2048)
law = tw.laws.OptLaw.published()
assert law.predict(tw.schedules.linear(1e-3, budget.steps, warmup=500), budget).loss > 1
plan = tw.plan(law, budget, tw.laws.default_candidates(budget))
assert "untested" in plan.summary() and plan.figures()
"""
    assert modules_after(code) == set()


def test_the_check_can_fail():
    assert "pandas" in modules_after("import pandas")


def test_a_law_is_imported_when_it_is_used():
    code = "import thalweg.laws\nassert 'thalweg.laws.chinchilla' not in sys.modules\nthalweg.laws.Chinchilla\n"
    assert modules_after(code + "assert 'thalweg.laws.chinchilla' in sys.modules") == set()


def test_every_public_name_is_there():
    for name in laws.__all__:
        assert getattr(laws, name) is not None
    assert set(laws.__all__) <= set(dir(laws))
    with pytest.raises(AttributeError, match="NewtonsLaw"):
        laws.NewtonsLaw  # noqa: B018


def test_an_unknown_law_lists_those_there_are():
    with pytest.raises(ThalwegError, match="law: got 'chinchila', expected one of BowlLaw, BrokenPowerLaw, Chinchilla"):
        laws.find("chinchila")


def test_load_refuses_what_is_no_law(tmp_path):
    with pytest.raises(ThalwegError, match=r"absent\.json"):
        laws.load(tmp_path / "absent.json")
    budget = Budget(params=1e9, tokens=20e9, batch_tokens=4e6)
    prediction = laws.OptLaw.published().predict(linear(1e-3, 5000, warmup=100), budget)
    with pytest.raises(ThalwegError, match=r"expected a saved Law\. It holds a Prediction"):
        laws.load(prediction.save(tmp_path / "prediction.json"))


def test_a_saved_law_loads_in_a_fresh_python(tmp_path):
    path = laws.OptLaw.published(phases="tables").save(tmp_path / "law.json")
    assert modules_after(f"import thalweg as tw\nassert tw.laws.load({str(path)!r}).phases == 'tables'") == set()
