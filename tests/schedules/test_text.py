from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from tests.schedules.strategies import schedules
from thalweg import schedules as S
from thalweg.outcomes import ThalwegError
from thalweg.results import Result


@given(schedules)
def test_text_round_trips(s: S.Schedule) -> None:
    again = S.parse(str(s))
    assert again == s
    assert str(again) == str(s)
    assert "\n" not in str(s)


@pytest.mark.parametrize(
    "text",
    [
        "cosine(0.003, 10000, warmup=500, final_lr=1e-05)",
        "constant(1.0, 7)",
        "wsd(0.003, 10000, warmup=500, decay=0.2, shape='sqrt', ramp=10)",
        "wsd(0.003, 10000, decay=2000)",
        "four_phase(0.006, 0.003, 100, warmup=5, decay_until=40, cooldown_from=80)",
        "from_values([0.0, 0.1, 0.30000000000000004], phases=(1, 2, 2))",
        "from_segments([('linear', 5, 0.0, 0.1), ('polynomial', 9, 0.1, 0.0, 2.0)])",
        "rewarmed(cosine(0.1, 10), rewarmed(linear(0.2, 10, warmup=1), constant(0.1, 5)), ramp=1)",
    ],
)
def test_texts_are_canonical(text: str) -> None:
    assert str(S.parse(text)) == text


def test_other_spellings_are_read() -> None:
    expected = S.cosine(0.003, 10000, warmup=500)
    for text in (
        "cosine(3e-3, 10_000, warmup=500, final_lr=0)",
        "  cosine( steps=10000, peak_lr=.003, warmup=500 )\n",
    ):
        assert S.parse(text) == expected
        assert str(S.parse(text)) == "cosine(0.003, 10000, warmup=500)"


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", "expected a factory call in Python syntax. Write for example cosine"),
        ("cosine", "expected a factory call"),
        ("cosine(0.003, 10000", "expected a factory call"),
        ("cosine(0.003, 100); print(1)", "expected a factory call"),
        ("tw.cosine(0.003, 100)", "expected a factory call"),
        ("(cosine)(0.003, 100)(1)", "expected a factory call"),
        ("cosin(0.003, 100)", r"schedule: got 'cosin', expected one of constant, cosine, .* Write cosine\(…\)"),
        ("__import__('os')", "got '__import__', expected one of"),
        ("parse('cosine(1, 2)')", "got 'parse', expected one of"),
        ("cosine(0.003, 100, warm=5)", r"expected cosine\(peak_lr, steps, warmup=0, final_lr=0.0\). .*'warm'"),
        ("cosine(0.003)", r"expected cosine\(peak_lr, steps, .*'steps'"),
        ("cosine(0.003, 100, 5)", r"expected cosine\(peak_lr, steps, .*too many positional"),
        ("four_phase(1, 1, 5, warmup=1)", r"decay_until=…"),
        ("cosine(0.003, **{'steps': 5})", r"expected cosine\(peak_lr, steps"),
        ("cosine(*[0.003, 100])", r"got '\*\[0.003, 100\]', expected numbers"),
        ("cosine(peak, 100)", "got 'peak', expected numbers"),
        ("cosine(0.003, 10**4)", r"got '10\*\*4', expected numbers"),
        ("cosine(0.003, [x for x in (1,)])", "expected numbers"),
        ("cosine(cosine(0.1, 10), 100)", "peak_lr: got cosine"),
        ("cosine(1e999, 100)", "peak_lr: got inf"),
        ("cosine(nan, 100)", "got 'nan', expected numbers"),
        ("cosine(-0.003, 100)", "peak_lr: got -0.003, expected a learning rate of at least 0"),
        ("cosine(0.003, 100, warmup=200)", "warmup: got 200"),
        ("from_values([])", "lrs: got"),
        ("from_values([0.1, None])", "lrs"),
        ("cosine(" * 300 + ")" * 300, "expected a factory call"),
        ("cosine(" + "-" * 3000 + "1, 100)", "schedule: got"),
        ("cosine(0.003, 100)\0", "expected a factory call"),
    ],
)
def test_bad_texts_are_told_in_one_line(text: str, message: str) -> None:
    with pytest.raises(ThalwegError, match=message) as caught:
        S.parse(text)
    assert "\n" not in str(caught.value)


@given(st.text(max_size=40) | st.text("cosine(0.1, )[]*'=wd-", max_size=40))
def test_any_text_is_a_schedule_or_a_clear_error(text: str) -> None:
    try:
        S.parse(text)
    except ThalwegError as error:
        assert "expected" in str(error)


def test_only_text_is_parsed() -> None:
    with pytest.raises(ThalwegError, match="schedule: got 3, expected a text"):
        S.parse(3)  # type: ignore[arg-type]


@dataclass(frozen=True, slots=True)
class Holder(Result):
    schedule: S.Schedule


def test_results_save_schedules_as_text(tmp_path: Path) -> None:
    holder = Holder(S.wsd(0.003, 100, warmup=5, decay=0.2, shape="sqrt"))
    path = holder.save(tmp_path / "holder.json")
    assert '"$schedule": "wsd(0.003, 100, warmup=5, decay=0.2, shape=\'sqrt\')"' in path.read_text()
    assert Holder.load(path) == holder
