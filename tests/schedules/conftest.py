"""Property tests are not timed: the machine may be busy."""

from __future__ import annotations

import os

from hypothesis import settings

settings.register_profile("schedules", deadline=None)
settings.register_profile("thorough", deadline=None, max_examples=3000)
settings.load_profile(os.environ.get("HYPOTHESIS_PROFILE", "schedules"))
