"""How long a person waits for help and for a plan: python benchmarks/startup.py

Targets: `thalweg --help` < .5 s, `thalweg plan` with published coefficients < 1.5 s, wall time of the whole process (median).
"""

from __future__ import annotations

import statistics
import sys

from common import Cost, timed, write

RUNS = 11
COMMANDS = {
    "--help": ["--help"],
    "plan": ["plan", "--params", "4.05e9", "--tokens", "100e9", "--batch-tokens", "4194304"],
    "import": None,
}
TARGET = {"--help": 0.5, "plan": 1.5}


def main() -> None:
    """Time each command several times after one warm-up, in turn, and write results/startup.json."""
    costs: dict[str, list[Cost]] = {name: [] for name in COMMANDS}
    for turn in range(RUNS + 1):
        for name, arguments in COMMANDS.items():
            command = (
                [sys.executable, "-c", "import thalweg"]
                if arguments is None
                else [sys.executable, "-m", "thalweg", *arguments]
            )
            cost, _ = timed(command)
            if turn:
                costs[name].append(cost)
    results = {
        name: {
            "wall_seconds": {
                "median": statistics.median(c.wall_seconds for c in all_),
                "max": max(c.wall_seconds for c in all_),
            },
            "cpu_seconds": {"median": statistics.median(c.cpu_seconds for c in all_)},
            "target_wall_seconds": TARGET.get(name),
        }
        for name, all_ in costs.items()
    }
    print(write("startup", "python benchmarks/startup.py", {"runs": RUNS, "results": results}))


if __name__ == "__main__":
    main()
