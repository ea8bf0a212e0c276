"""A small byte-pair encoding: 256 bytes and the most frequent pairs, learned and applied with vectorised NumPy."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

__all__ = ["decode", "encode", "learn_merges"]

Tokens = NDArray[np.uint16]
Merges = NDArray[np.uint16]

_BYTES = 256


def learn_merges(text: bytes, vocabulary: int) -> Merges:
    """The merges of a byte-pair encoding: repeatedly the most frequent pair of neighbours, the lowest pair on a tie.

    There is no split into words first: a merge may span spaces and line ends, which suits indented code.

    Args:
        text: what to learn from; where no pair is left to merge, the merges that follow are (0, 0).
        vocabulary: number of tokens [count], at least 256.

    Returns:
        Pairs of tokens, shape (vocabulary − 256, 2); row i becomes token 256 + i.

    Example:
        >>> learn_merges(b"abababcab", 258).tolist()  # a b, then ab ab
        [[97, 98], [256, 256]]
    """
    tokens = np.frombuffer(text, dtype=np.uint8).astype(np.uint16)
    merges = np.zeros((vocabulary - _BYTES, 2), dtype=np.uint16)
    for row in range(len(merges)):
        pairs = tokens[:-1].astype(np.int64) * vocabulary + tokens[1:]
        best = int(np.argmax(np.bincount(pairs, minlength=1)))
        merges[row] = divmod(best, vocabulary)
        tokens = _merge(tokens, merges[row], _BYTES + row)
    return merges


def encode(text: bytes, merges: Merges) -> Tokens:
    """Tokens of a text: every merge in the order it was learned, each from left to right.

    Example:
        >>> encode(b"abc", np.array([[97, 98]], dtype=np.uint16)).tolist()
        [256, 99]
    """
    tokens = np.frombuffer(text, dtype=np.uint8).astype(np.uint16)
    for row, pair in enumerate(merges):
        tokens = _merge(tokens, pair, _BYTES + row)
    return tokens


def decode(tokens: Tokens, merges: Merges) -> bytes:
    """The text of some tokens, the inverse of `encode`.

    Example:
        >>> decode(np.array([256, 99], dtype=np.uint16), np.array([[97, 98]], dtype=np.uint16))
        b'abc'
    """
    pieces = [bytes([byte]) for byte in range(_BYTES)]
    for left, right in merges.tolist():
        pieces.append(pieces[left] + pieces[right])
    return b"".join(pieces[token] for token in tokens.tolist())


def _merge(tokens: Tokens, pair: NDArray[np.uint16], merged: int) -> Tokens:
    """Replace each occurrence of the pair, from left to right without overlap."""
    left, right = pair
    at = np.flatnonzero((tokens[:-1] == left) & (tokens[1:] == right))
    if not at.size:
        return tokens
    if left == right:
        # in a run of matches at consecutive places (aaaa) every second one overlaps the one before it
        index = np.arange(at.size)
        opens = np.concatenate([[True], np.diff(at) > 1])
        at = at[(index - np.maximum.accumulate(np.where(opens, index, 0))) % 2 == 0]
    result = tokens.copy()
    result[at] = merged
    keep = np.ones(tokens.size, dtype=bool)
    keep[at + 1] = False
    return result[keep]
