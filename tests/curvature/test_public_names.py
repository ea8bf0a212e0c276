from __future__ import annotations

import subprocess
import sys

import pytest

from thalweg import curvature


def test_every_public_name_is_there_and_documented():
    for name in curvature.__all__:
        assert getattr(curvature, name).__doc__, name
    assert set(curvature.__all__) <= set(dir(curvature))
    with pytest.raises(AttributeError, match="no attribute 'sharpness'"):
        curvature.sharpness  # noqa: B018


def test_nothing_is_imported_before_it_is_used():
    code = "import sys, thalweg.curvature as c; c.paper_search(lambda m: m - 3.0, guess=1.0); print('torch' in sys.modules)"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "False"
