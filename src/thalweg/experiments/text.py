"""Text that is on board: two domains read from the standard library of the Python that runs.

*code* is its source without docstrings and comments; *english* is its docstrings and the topics of `pydoc`. A document is
one source file (its code, or its docstrings) or one topic. Whether a document is for training or for testing follows
from a hash of its name, so no file is on both sides, and a file's docstrings are on the side of its code.
"""

from __future__ import annotations

import ast
import hashlib
import importlib
import sysconfig
from collections.abc import Iterator
from pathlib import Path

__all__ = ["documents", "held_out"]

# not code that a person wrote, or not in every installation of one Python version
_SKIPPED = frozenset(
    {
        "site-packages",
        "dist-packages",
        "__pycache__",
        "test",
        "tests",
        "idle_test",
        "encodings",
        "pydoc_data",
        "lib-dynload",
    }
)
_HELD_OUT = 0.1  # share of the documents that is for testing

_Span = tuple[int, int]


def held_out(name: str) -> bool:
    """Whether the document `name` is for testing: a tenth of all names, by their hash.

    Example:
        >>> round(sum(held_out(f"file_{i}.py") for i in range(1000)) / 1000, 1)
        0.1
    """
    return int.from_bytes(hashlib.sha256(name.encode()).digest()[:8], "big") < _HELD_OUT * 2**64


def documents() -> Iterator[tuple[str, str, bytes]]:
    """All documents as (domain, name, UTF-8 text), the files in the order of their names, then the topics."""
    library = Path(sysconfig.get_paths()["stdlib"])
    for path in sorted(library.rglob("*.py"), key=lambda path: path.relative_to(library).as_posix()):
        name = path.relative_to(library)
        # build-time constants are files of one machine, not of one Python version
        if _SKIPPED.intersection(name.parts) or name.name.startswith("_sysconfigdata"):
            continue
        code, docstrings = split_source(path.read_bytes())
        if code:
            yield "code", name.as_posix(), code
        if docstrings:
            yield "english", name.as_posix(), docstrings
    topics: dict[str, str] = importlib.import_module("pydoc_data.topics").topics
    for topic in sorted(topics):
        yield "english", f"topic {topic}", topics[topic].strip().encode() + b"\n"


def split_source(source: bytes) -> tuple[bytes, bytes]:
    r"""Python source without docstrings, comments and blank lines, and its docstrings, one after another.

    Strings are found by `ast`, so a number sign inside a string is no comment; a comment between two implicitly joined
    strings counts as part of the string. Source in another encoding than UTF-8, or that does not parse, gives nothing.

    Example:
        >>> split_source(b'def f(x):\n    "Double it."\n    return 2 * x  # twice\n')
        (b'def f(x):\n    return 2 * x\n', b'Double it.\n')
    """
    source = source.removeprefix(b"\xef\xbb\xbf").replace(b"\r\n", b"\n")
    try:
        source.decode()
        tree = ast.parse(source)
    except (UnicodeDecodeError, SyntaxError, ValueError):
        return b"", b""
    starts = [0]  # of each line, as offsets into the bytes
    for line in source.split(b"\n"):
        starts.append(starts[-1] + len(line) + 1)
    strings: list[_Span] = []
    docstrings: list[tuple[_Span, str]] = []
    for node in ast.walk(tree):
        if isinstance(node, ast.JoinedStr) or (isinstance(node, ast.Constant) and isinstance(node.value, str | bytes)):
            strings.append(_span(node, starts))
        elif isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            text = ast.get_docstring(node)
            if text is not None:
                docstrings.append((_span(node.body[0], starts), text))
    docstrings.sort()
    cuts = sorted([span for span, _ in docstrings] + _comments(source, sorted(strings)))
    code = b"".join(line + b"\n" for line in _without(source, cuts).split(b"\n") if line.strip())
    return code, "".join(text.strip() + "\n" for _, text in docstrings if text.strip()).encode("utf-8", "replace")


def _span(node: ast.stmt | ast.expr, starts: list[int]) -> _Span:
    assert node.end_lineno is not None and node.end_col_offset is not None
    return starts[node.lineno - 1] + node.col_offset, starts[node.end_lineno - 1] + node.end_col_offset


def _comments(source: bytes, strings: list[_Span]) -> list[_Span]:
    """Spans of the comments, with the white space before them; `strings` are sorted spans that hold none."""
    found, following, covered = [], 0, 0
    at = source.find(b"#")
    while at >= 0:
        while following < len(strings) and strings[following][0] <= at:
            covered = max(covered, strings[following][1])
            following += 1
        if at < covered:
            at = source.find(b"#", covered)
            continue
        end = source.find(b"\n", at)
        end = len(source) if end < 0 else end
        start = at
        while start > 0 and source[start - 1 : start] in (b" ", b"\t"):
            start -= 1
        found.append((start, end))
        at = source.find(b"#", end)
    return found


def _without(source: bytes, cuts: list[_Span]) -> bytes:
    kept, at = [], 0
    for start, end in cuts:
        kept.append(source[at:start])
        at = max(at, end)
    return b"".join([*kept, source[at:]])
