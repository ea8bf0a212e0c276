"""Saving and loading, citation, and the one-line error."""

from __future__ import annotations

import json
import math
from dataclasses import dataclass
from pathlib import Path

import numpy as np
import pytest

from thalweg.figures import Figure, Line
from thalweg.outcomes import Outcome, ThalwegError, bad_input
from thalweg.results import CITATIONS, Result, cite, write_atomically


@dataclass(frozen=True, slots=True)
class Inner(Result):
    value: float


@dataclass(frozen=True, slots=True)
class Sample(Result):
    number: float
    count: int
    name: str | None
    outcome: Outcome
    table: np.ndarray
    parts: tuple[Inner, ...]
    options: dict[str, float]

    sources = ("opt-laws",)

    def figures(self) -> tuple[Figure, ...]:
        return (Figure("A line", marks=(Line([0, 1], self.table[:2]),)),)


SAMPLE = Sample(
    number=math.nan,
    count=3,
    name=None,
    outcome=Outcome.NOT_DESCENT,
    table=np.arange(4.0),
    parts=(Inner(math.inf), Inner(-0.1)),
    options={"a": 1.5},
)


def test_a_saved_result_comes_back_with_every_type(tmp_path: Path) -> None:
    back = Result.load(SAMPLE.save(tmp_path / "sample.json"))
    assert isinstance(back, Sample)
    assert math.isnan(back.number) and back.count == 3 and back.name is None
    assert back.outcome is Outcome.NOT_DESCENT
    np.testing.assert_array_equal(back.table, SAMPLE.table)
    assert back.table.dtype == SAMPLE.table.dtype
    assert back.parts == SAMPLE.parts and back.options == SAMPLE.options


def test_the_file_is_strict_json_and_holds_no_pickle(tmp_path: Path) -> None:
    path = SAMPLE.save(tmp_path / "sample.json")
    json.loads(path.read_text(), parse_constant=lambda name: pytest.fail(f"{name} is not JSON"))
    with np.load(path.with_suffix(".npz"), allow_pickle=False) as arrays:
        assert len(arrays.files) == 1


def test_load_refuses_by_name(tmp_path: Path) -> None:
    path = SAMPLE.save(tmp_path / "sample.json")
    with pytest.raises(ThalwegError, match="It holds a Sample"):
        Inner.load(path)
    newer = json.loads(path.read_text()) | {"$version": 99}
    path.write_text(json.dumps(newer))
    with pytest.raises(ThalwegError, match="Upgrade thalweg"):
        Sample.load(path)
    with pytest.raises(ThalwegError, match=r"nowhere\.json"):
        Sample.load(tmp_path / "nowhere.json")
    (tmp_path / "broken.json").write_text("{")
    with pytest.raises(ThalwegError, match="not JSON"):
        Sample.load(tmp_path / "broken.json")
    with pytest.raises(ThalwegError, match=r"ends in \.json"):
        SAMPLE.save(tmp_path / "sample.pkl")


def test_a_failed_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = write_atomically(tmp_path / "file.txt", "old")
    monkeypatch.setattr(Path, "replace", lambda *_: (_ for _ in ()).throw(OSError("disk full")))
    with pytest.raises(OSError, match="disk full"):
        write_atomically(path, "new")
    assert path.read_text() == "old"


def test_every_citation_is_one_bibtex_entry() -> None:
    for key in CITATIONS:
        assert cite(key).startswith("@article{") and cite(key).count("{") == cite(key).count("}")
    assert SAMPLE.cite() == cite("opt-laws")
    with pytest.raises(ThalwegError, match="one of opt-laws"):
        cite("nobody")


def test_an_error_is_one_line_and_shows_what_was_given() -> None:
    message = str(bad_input("lr", "x\ny" * 200, "a number"))
    assert "\n" not in message and len(message) < 200 and message.startswith("lr: got 'x")


def test_a_result_without_figures_says_so() -> None:
    with pytest.raises(ThalwegError, match="no figures"):
        Inner(1.0).plot()
