"""The byte-pair encoding: exact round trips, and equal to the one in books."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from tests.reference import text as reference
from thalweg.experiments.tokens import decode, encode, learn_merges


@given(st.text(alphabet="ab", min_size=2, max_size=60).map(str.encode), st.binary(max_size=60))
@settings(max_examples=100)
def test_equals_the_slow_twin_and_round_trips(text: bytes, other: bytes) -> None:
    merges = learn_merges(text, 260)
    pairs = [(int(left), int(right)) for left, right in merges]
    assert pairs == reference.learn(text, 260)
    for words in (text, other):
        assert encode(words, merges).tolist() == reference.encode(words, pairs)
        assert decode(encode(words, merges), merges) == words


@pytest.mark.parametrize("count", range(2, 9))
def test_a_run_of_one_letter_is_merged_from_the_left(count: int) -> None:
    merges = np.array([[97, 97]], dtype=np.uint16)
    assert encode(b"a" * count + b"b", merges).tolist() == [256] * (count // 2) + [97] * (count % 2) + [98]


def test_frequent_strings_become_one_token() -> None:
    line = b"self.x = self.y\n"
    merges = learn_merges(line * 100, 280)
    assert len(encode(line * 100, merges)) < 100  # tokens span words, spaces and lines
