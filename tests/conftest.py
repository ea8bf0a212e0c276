"""Shared fixtures. Tables that may not be shipped are read from ../shared/data or THALWEG_DATA."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from hypothesis import settings

# Property tests are not timed: on a busy machine the first call of torch or numba outlasts hypothesis's 200 ms.
settings.register_profile("thalweg", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "thalweg"))

REPOSITORY = Path(__file__).resolve().parent.parent


@pytest.fixture(scope="session")
def data_dir() -> Path:
    """The folder of benchmark tables; skips where it is absent, fails where THALWEG_REQUIRE_DATA=1 asks for it."""
    folder = Path(os.environ.get("THALWEG_DATA", REPOSITORY.parent / "shared" / "data"))
    if not (folder / "opt_laws_tables.csv").is_file():
        message = f"benchmark tables not found in {folder}; set THALWEG_DATA to their folder"
        if os.environ.get("THALWEG_REQUIRE_DATA") == "1":
            pytest.fail(message)
        pytest.skip(message)
    return folder
