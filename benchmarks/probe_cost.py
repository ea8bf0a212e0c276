"""How much the probe slows the demo's run: python benchmarks/probe_cost.py

The demo's GPT and schedule, 1500 steps, without a probe and with ("critical",) at every = 100, in turn, three times; CPU time
of the whole training, each in a process of its own. Target: under 3 %.
"""

from __future__ import annotations

import statistics
import sys

from common import timed, write

TURNS = 3
SCRIPT = """
import sys, tempfile
from contextlib import contextmanager
from pathlib import Path
import thalweg as tw
from thalweg import curvature  # not in the clock
from thalweg.experiments.demo import FULL
from thalweg.experiments.loop import next_token_loss, train
from thalweg.rundir import RunDir

@contextmanager
def watch(model, optimizer, batches):
    with tw.probe(model, optimizer, every=100, loss_fn=next_token_loss) as probe:
        yield probe.watch(batches)
    seconds, passes = (probe.history.column(key)[1].sum() for key in ("probe/seconds", "probe/forward_passes"))
    print(seconds, passes, len(probe.history.rows))

config = {"schedule": FULL.schedule, "seed": 0, "width": FULL.width, "heads": FULL.width // 16}
with tempfile.TemporaryDirectory() as folder:
    result = train(config, RunDir.create(Path(folder) / "run", config), watch=watch if sys.argv[1] == "probed" else None)
print(result["cpu_seconds"], result["loss"])
"""


def main() -> None:
    """Train in turn, compare pair by pair, and write results/probe_cost.json."""
    seconds: dict[str, list[float]] = {"plain": [], "probed": []}
    losses, inside = set(), []
    for _ in range(TURNS):
        for kind, known in seconds.items():
            _, answer = timed([sys.executable, "-c", SCRIPT, kind])
            *probe, last = answer.splitlines()
            known.append(float(last.split()[0]))
            losses.add(last.split()[1])
            inside += [[float(number) for number in line.split()] for line in probe]
    slowed = [probed / plain - 1 for plain, probed in zip(seconds["plain"], seconds["probed"], strict=True)]
    results = {
        "slowdown_by_pairs": slowed,
        "slowdown_median": statistics.median(slowed),
        "seconds_in_probe_over_plain": statistics.median(row[0] for row in inside)
        / statistics.median(seconds["plain"]),
        "forward_passes": inside[0][1],
        "measurements": inside[0][2],
        "cpu_seconds": seconds,
        "same_final_loss": len(losses) == 1,
        "target": 0.03,
    }
    print(write("probe_cost", "python benchmarks/probe_cost.py", results))


if __name__ == "__main__":
    main()
