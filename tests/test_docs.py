"""What README and docs say is what the code does."""

from __future__ import annotations

import json
import re
import subprocess
import sys

import pytest

import thalweg
from tests.conftest import REPOSITORY
from thalweg.curvature.probes.history import UNITS

EXAMPLES = sorted((REPOSITORY / "examples").glob("*.py"))


@pytest.mark.parametrize("example", EXAMPLES, ids=lambda path: path.name)
def test_every_example_runs_and_prints(example, tmp_path) -> None:
    done = subprocess.run([sys.executable, str(example)], capture_output=True, text=True, cwd=tmp_path, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stdout.strip()


def test_every_link_in_the_readme_has_its_file() -> None:
    links = re.findall(r"\]\(([^)#]+)\)", (REPOSITORY / "README.md").read_text())
    assert links
    for link in links:
        assert (REPOSITORY / link).exists(), link


def test_every_key_is_documented_with_its_unit() -> None:
    rows = dict(re.findall(r"^\| `([^`]+)` \| ([^|]+) \|", (REPOSITORY / "docs" / "keys.md").read_text(), re.MULTILINE))
    assert rows == dict(UNITS)


def test_the_version_is_one() -> None:
    assert f"version: {thalweg.__version__}" in (REPOSITORY / "CITATION.cff").read_text()
    assert f"## {thalweg.__version__}" in (REPOSITORY / "CHANGELOG.md").read_text()


@pytest.mark.parametrize("name", thalweg.__all__)
def test_every_public_name_is_there_and_documented(name: str) -> None:
    assert getattr(thalweg, name).__doc__


def test_the_demo_in_the_readme_is_the_measured_one() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    measured = json.loads((REPOSITORY / "benchmarks" / "results" / "demo.json").read_text())
    for name, words in measured["summary"].items():
        assert f"{name:<11}{words}\n" in readme


def test_the_tables_of_before_are_the_measured_ones() -> None:
    """docs/before.md holds what `python benchmarks/laws_page.py` prints from results/laws.json, line by line."""
    folder = REPOSITORY / "benchmarks"
    done = subprocess.run([sys.executable, "laws_page.py"], capture_output=True, text=True, cwd=folder, check=True)
    page = (REPOSITORY / "docs" / "before.md").read_text()
    lines = done.stdout.splitlines()
    assert len(lines) > 20
    for line in lines:
        assert line in page
