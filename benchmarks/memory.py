"""How much memory a measured step takes: python benchmarks/memory.py

A GPT of 13 million parameters under AdamW, one thread. For each way of keeping the weights, a step is captured and its critical
sharpness searched; bytes by the account of torch's CPU allocator from before the step to the end of the search, less what a
forward pass takes anyway. Gradients and optimizer state are there before. Offloaded copies are on the CPU, and so is this run:
their bytes count here as well, so only the modes without offload are told. CPU time of one evaluation of f, median of nine, in
turn.
"""

from __future__ import annotations

import statistics
import sys
import time
from pathlib import Path
from typing import Any

sys.path.insert(0, str(Path(__file__).parent.parent))  # the tests' account of the allocator

import torch
from common import write
from tests.curvature.memory import parameter_bytes, peak_bytes

from thalweg.curvature import Step, capture, critical_sharpness
from thalweg.experiments.loop import next_token_loss
from thalweg.experiments.models import GPT
from thalweg.units import format_count

MODES = ("in_place", "per_module")
TURNS = 9


def main() -> None:
    """Measure each mode on a training of its own, compare, and write results/memory.json."""
    torch.set_num_threads(1)
    rows: dict[str, dict[str, Any]] = {}
    steps: dict[str, Step] = {}
    for mode in MODES:
        model, batch, optimizer = training()
        whole, largest = parameter_bytes(model)
        with torch.no_grad():
            forward, _ = peak_bytes(lambda model=model, batch=batch: next_token_loss(model, batch))

        def measured(mode: str = mode, model: Any = model, batch: Any = batch, optimizer: Any = optimizer) -> Any:
            with capture(model, optimizer, lambda: next_token_loss(model, batch), mode=mode) as step:
                optimizer.step()
            return step, critical_sharpness(step)

        peak, (step, critical) = peak_bytes(measured)
        steps[mode] = step
        rows[mode] = {
            "measurement_bytes": peak - forward,
            "of_parameter_bytes": round((peak - forward) / whole, 3),
            "multiple": critical.multiple,
            "forward_passes": critical.forward_passes,
            "outcome": critical.outcome.name,
        }
    seconds: dict[str, list[float]] = {mode: [] for mode in MODES}
    for turn in range(TURNS):
        for mode in MODES:
            began = time.process_time()
            steps[mode].at(1.0 + turn)
            seconds[mode].append(time.process_time() - began)
    for mode in MODES:
        rows[mode]["seconds_an_evaluation"] = round(statistics.median(seconds[mode]), 4)
    parameters = sum(p.numel() for p in steps["in_place"].parameters)
    results = {
        "model": f"GPT of {parameters} parameters, width 512, 4 layers, 4 sequences of 128 tokens, AdamW, seed 0",
        "parameter_bytes": whole,
        "largest_tensor_bytes": largest,
        "forward_bytes": forward,
        "modes": rows,
        "same_bits": rows["in_place"]["multiple"] == rows["per_module"]["multiple"],
    }
    print(f"parameters {format_count(whole)} bytes, the largest tensor {format_count(largest)}")
    for mode, row in rows.items():
        print(f"{mode}: {format_count(row['measurement_bytes'])} bytes, {row['of_parameter_bytes']} of the parameters")
    print(write("memory", "python benchmarks/memory.py", results))


def training() -> tuple[GPT, tuple[torch.Tensor, torch.Tensor], torch.optim.Optimizer]:
    """After one step, with the gradients of the next."""
    tokens = torch.randint(0, 512, (4, 129), generator=torch.Generator().manual_seed(0))
    model, batch = GPT(512, length=128, width=512, layers=4, heads=8, seed=0), (tokens[:, :-1], tokens[:, 1:])
    optimizer = torch.optim.AdamW(model.parameters(), lr=1e-4)
    for _ in range(2):
        optimizer.zero_grad()
        next_token_loss(model, batch).backward()
        if not optimizer.state:
            optimizer.step()
    return model, batch, optimizer


if __name__ == "__main__":
    main()
