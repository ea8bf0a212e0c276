"""The support matrix claims nothing that no test shows."""

from __future__ import annotations

import ast
import json
from pathlib import Path

import pytest

from tests.conftest import REPOSITORY
from thalweg.cli import main
from thalweg.cli.doctor import SUPPORT


def _tests_in(file: Path) -> set[str]:
    return {node.name for node in ast.walk(ast.parse(file.read_text())) if isinstance(node, ast.FunctionDef)}


@pytest.mark.parametrize("row", [row for row in SUPPORT if row.state == "tested"], ids=lambda row: row.what)
def test_every_tested_row_names_a_test_that_exists(row) -> None:
    file, _, name = row.where.partition("::")
    assert name in _tests_in(REPOSITORY / file)


def test_the_readme_has_the_same_matrix() -> None:
    readme = (REPOSITORY / "README.md").read_text()
    for row in SUPPORT:
        assert f"| {row.what} | {row.state} |" in readme


def test_doctor_prints_the_matrix_first(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as end:
        main(["doctor"])
    out = capsys.readouterr().out
    assert end.value.code == 0
    assert out.startswith("The probe") and out.index("tested") < out.index("This machine")
    with pytest.raises(SystemExit):
        main(["doctor", "--json"])
    answer = json.loads(capsys.readouterr().out)
    assert answer["versions"]["torch"] != "absent" and len(answer["support"]) == len(SUPPORT)
