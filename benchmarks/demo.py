"""What `make demo` says and takes: python benchmarks/demo.py

Targets: at most 5 CPU-minutes and 2 GB after set-up, on two cores.
"""

from __future__ import annotations

import json
import sys
import tempfile

from common import timed, write


def main() -> None:
    """Run the demo in a new folder and write results/demo.json."""
    with tempfile.TemporaryDirectory() as folder:
        cost, answer = timed([sys.executable, "-m", "thalweg", "demo", "--out", f"{folder}/demo", "--json"])
    target = {"cpu_seconds": 300, "peak_bytes": 2e9}
    print(
        write(
            "demo",
            "python benchmarks/demo.py",
            {"summary": json.loads(answer), "cost": cost._asdict(), "target": target},
        )
    )


if __name__ == "__main__":
    main()
