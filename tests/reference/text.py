"""Slow twins of `thalweg.experiments.text` and `.tokens`: the tokenizer of Python, and byte pairs one at a time."""

from __future__ import annotations

import ast
import io
import tokenize
from collections import Counter
from itertools import pairwise


def code_by_tokenize(source: str) -> str:
    """Source without docstrings, comments and blank lines: comments are what `tokenize` calls so."""
    lines = source.splitlines()
    for token in reversed(list(tokenize.generate_tokens(io.StringIO(source).readline))):
        if token.type == tokenize.COMMENT:
            row, column = token.start
            lines[row - 1] = lines[row - 1][:column].rstrip(" \t")
    nodes = [
        node
        for node in ast.walk(ast.parse(source))
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef)
    ]
    for node in nodes:
        if ast.get_docstring(node) is not None:
            text = node.body[0]
            assert text.end_lineno is not None and text.end_col_offset is not None
            first, last = text.lineno - 1, text.end_lineno - 1
            head, tail = (
                lines[first].encode()[: text.col_offset].decode(),
                lines[last].encode()[text.end_col_offset :].decode(),
            )
            lines[first] = head + tail
            for row in range(first + 1, last + 1):
                lines[row] = ""
    return "".join(line + "\n" for line in lines if line.strip())


def merge_once(tokens: list[int], pair: tuple[int, int], merged: int) -> list[int]:
    """Replace a pair from left to right."""
    out, at = [], 0
    while at < len(tokens):
        if tuple(tokens[at : at + 2]) == pair:
            out.append(merged)
            at += 2
        else:
            out.append(tokens[at])
            at += 1
    return out


def learn(text: bytes, vocabulary: int) -> list[tuple[int, int]]:
    """Byte-pair encoding as it is written in books; ties go to the lowest pair."""
    tokens, merges = list(text), []
    for merged in range(256, vocabulary):
        counts = Counter(pairwise(tokens))
        pair = min(counts, key=lambda pair: (-counts[pair], pair), default=(0, 0))
        merges.append(pair)
        tokens = merge_once(tokens, pair, merged)
    return merges


def encode(text: bytes, merges: list[tuple[int, int]]) -> list[int]:
    """Every merge in the order it was learned."""
    tokens = list(text)
    for row, pair in enumerate(merges):
        tokens = merge_once(tokens, pair, 256 + row)
    return tokens
