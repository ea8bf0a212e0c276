"""Many runs of one training: any Python callable or any command, over a list of configs, on the processes of this machine.

    table = sweep(grid(peak_lr=[1e-3, 3e-3], seed=[0, 1]), train=train, out="sweep", workers=2)
    table = sweep(configs, command="python train.py --lr {peak_lr} --out {rundir}", out="sweep")

Every run has a folder named by its config (`rundir.config_hash`). Complete runs are skipped, so a sweep that was killed or
interrupted continues when it is called again; a run that fails is reported and tried again then. `train(config, rundir)`
resumes its own run if it knows how to, from what it left in the folder.
"""

from __future__ import annotations

from thalweg.sweeps.command import Command
from thalweg.sweeps.sweeping import grid, status, sweep

__all__ = ["Command", "grid", "status", "sweep"]
