"""The data on board: the same for everyone with one Python, split by file, cached, and refused by name."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest

from thalweg.experiments import data, text
from thalweg.experiments.data import DOMAINS, VOCABULARY, corpus, digits
from thalweg.outcomes import ThalwegError


@pytest.mark.parametrize("domain", DOMAINS)
def test_corpora_round_trip_and_fit_the_vocabulary(domain: str) -> None:
    found = corpus(domain)
    assert found.train.size > (2_000_000 if domain == "code" else 500_000)
    assert found.test.size > 33_000  # 512 sequences of 64 tokens do not overlap
    assert max(found.train.max(), found.test.max()) < VOCABULARY
    words = "    def λ(self):\n        return [x for x in self]\n"
    assert found.decode(found.encode(words)) == words
    assert len(found.encode(words)) < 0.7 * len(words)
    assert corpus(domain) is found
    with pytest.raises(ValueError, match="read-only"):
        found.train[0] = 1


def test_both_domains_share_their_tokens_and_have_their_own_fingerprints() -> None:
    code, english = corpus("code"), corpus("english")
    assert np.array_equal(code.merges, english.merges)
    assert len(code.fingerprint) == 64 and code.fingerprint != english.fingerprint


def small_documents() -> Iterator[tuple[str, str, bytes]]:
    for number in range(40):
        yield "code", f"file_{number}.py", f"value_{number} = {number}\n".encode() * 10
        yield "english", f"file_{number}.py", f"The number {number}.\n".encode() * 10


@pytest.fixture
def cache(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    monkeypatch.setattr(text, "documents", small_documents)
    return tmp_path / "cache" / "thalweg"


def test_a_file_is_on_one_side(cache: Path) -> None:
    code = data._all_domains.__wrapped__()["code"]
    train, test = code.decode(code.train), code.decode(code.test)
    for number in range(40):
        line = f"value_{number} = "
        held = text.held_out(f"file_{number}.py")
        assert (line in test, line in train) == (held, not held)
    assert test


def test_the_cache_is_read_and_a_broken_one_is_made_again(cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    first = data._all_domains.__wrapped__()
    (file,) = cache.iterdir()
    monkeypatch.setattr(text, "documents", lambda: pytest.fail("the cache was not read"))
    again = data._all_domains.__wrapped__()
    assert all(again[domain].fingerprint == first[domain].fingerprint for domain in DOMAINS)
    monkeypatch.setattr(text, "documents", small_documents)
    for broken in (b"", file.read_bytes()[:3000], b"hello"):
        file.write_bytes(broken)
        assert data._all_domains.__wrapped__()["code"].fingerprint == first["code"].fingerprint
        assert len(file.read_bytes()) > 3000


def test_a_home_that_cannot_be_written_is_no_error(cache: Path) -> None:
    cache.parent.write_text("a file where the folder would be")
    assert data._all_domains.__wrapped__()["code"].train.size > 0


def test_digits_are_balanced_and_disjoint() -> None:
    found = digits()
    assert found.train_y.bincount().tolist() == [100] * 10
    assert found.train_y.tolist() == sorted(found.train_y.tolist())
    assert len(found.train_x) + len(found.test_x) == 1797
    assert (found.train_x.min().item(), found.train_x.max().item()) == (-1.0, 1.0)


def test_an_unknown_domain_is_refused() -> None:
    with pytest.raises(ThalwegError, match="got 'french', expected one of code, english"):
        corpus("french")
