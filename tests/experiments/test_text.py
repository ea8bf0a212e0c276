"""Text on board: what counts as code, what as English, and who is held out."""

from __future__ import annotations

import sysconfig
from pathlib import Path

import pytest

from tests.reference.text import code_by_tokenize
from thalweg.experiments.text import documents, held_out, split_source

SOURCE = b'''"""Module.

Second paragraph.
"""
# a comment
import os  # why

VALUE = "# not a comment"   # a comment with a "string"
URL = f"{VALUE}#anchor"

class A:
    "One line." ; x = 1
    def f(self):  # twice
        \'\'\'Lambda \xce\xbb.\'\'\'
        return """# inside
# a long string"""
    async def g(self):
        "Nothing else."
    def h(self):
        b"bytes are no docstring"
'''


def test_code_keeps_strings_and_loses_comments_and_docstrings() -> None:
    code, english = split_source(SOURCE)
    assert code.decode() == (
        "import os\n"
        'VALUE = "# not a comment"\n'
        'URL = f"{VALUE}#anchor"\n'
        "class A:\n"
        "     ; x = 1\n"
        "    def f(self):\n"
        '        return """# inside\n'
        '# a long string"""\n'
        "    async def g(self):\n"
        "    def h(self):\n"
        '        b"bytes are no docstring"\n'
    )
    assert english.decode() == "Module.\n\nSecond paragraph.\nOne line.\nLambda λ.\nNothing else.\n"


@pytest.mark.parametrize(
    "name", ["json/decoder.py", "argparse.py", "heapq.py", "shlex.py", "configparser.py", "re/_parser.py"]
)
def test_code_is_what_the_tokenizer_of_python_says(name: str) -> None:
    source = (Path(sysconfig.get_paths()["stdlib"]) / name).read_bytes()
    assert split_source(source)[0].decode() == code_by_tokenize(source.decode())


@pytest.mark.parametrize("source", [b"def (", b"x = '\xff'", b"a\0b"])
def test_what_does_not_parse_gives_nothing(source: bytes) -> None:
    assert split_source(source) == (b"", b"")


def test_windows_line_ends_and_a_byte_order_mark() -> None:
    assert split_source(b"\xef\xbb\xbfx = 1  # one\r\n") == (b"x = 1\n", b"")


def test_documents_of_the_running_python() -> None:
    by_name: dict[str, set[str]] = {"code": set(), "english": set()}
    size = {"code": 0, "english": 0}
    for domain, name, text in documents():
        assert name not in by_name[domain]
        by_name[domain].add(name)
        size[domain] += len(text)
        if name == "argparse.py" and domain == "code":
            assert b'"""' not in text
    assert {"argparse.py", "asyncio/base_events.py"} <= by_name["code"] & by_name["english"]
    assert "topic assert" in by_name["english"]
    assert not any(
        part in name.split("/") for name in by_name["code"] for part in ("test", "site-packages", "encodings")
    )
    assert size["code"] > 3e6 and size["english"] > 1e6
    for domain, names in by_name.items():
        share = sum(held_out(name) for name in names) / len(names)
        assert 0.05 < share < 0.16, domain


def test_the_split_is_by_name_alone() -> None:
    # the bundled table of small runs was measured with this split
    assert [name for name in ("argparse.py", "asynchat.py", "heapq.py", "typing.py") if held_out(name)] == [
        "asynchat.py"
    ]
