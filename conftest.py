"""Examples in docstrings, README and docs are tests (sybil)."""

from __future__ import annotations

import os
from typing import Any

# One thread a process: two busy threads on two busy cores are many times slower than one, and xdist uses both cores.
for variable in ("OMP_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS"):
    os.environ.setdefault(variable, "1")
os.environ.setdefault("MPLBACKEND", "Agg")

from sybil import Sybil
from sybil.parsers.markdown import PythonCodeBlockParser
from sybil.parsers.rest import DocTestParser


def _in_tmp(namespace: dict[str, Any]) -> None:
    """Examples may write files: each document works in a folder of its own."""
    import tempfile

    namespace["_folder"] = tempfile.TemporaryDirectory()
    namespace["_before"] = os.getcwd()
    os.chdir(namespace["_folder"].name)


def _back(namespace: dict[str, Any]) -> None:
    os.chdir(namespace["_before"])
    namespace["_folder"].cleanup()


_docstrings = Sybil(
    parsers=[DocTestParser()], patterns=["src/thalweg/*.py", "src/thalweg/*/*.py"], setup=_in_tmp, teardown=_back
)
_documents = Sybil(
    parsers=[PythonCodeBlockParser()], patterns=["README.md", "docs/*.md"], setup=_in_tmp, teardown=_back
)

pytest_collect_file = (_docstrings + _documents).pytest()
