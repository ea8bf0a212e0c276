"""A command line as a training."""

from __future__ import annotations

import json
import shlex
import string
import subprocess
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from thalweg.outcomes import bad_input
from thalweg.rundir import RunDir, from_strict

__all__ = ["Command"]


@dataclass(frozen=True, slots=True)
class Command:
    """A command line as a training: `{key}` stands for a value of the config, `{rundir}` for the run's folder.

    No shell is involved: the template is split first and filled in afterwards, so values need no quotes. What the command
    prints goes to `output.txt` in the folder. The run's result is what the command writes to `{rundir}/result.json`, else
    the last row of `{rundir}/metrics.jsonl`, else nothing.

    Example:
        >>> Command("python train.py --lr {peak_lr} --out {rundir}").arguments({"peak_lr": 4e-3}, Path("a b"))
        ['python', 'train.py', '--lr', '0.004', '--out', 'a b']
    """

    template: str

    def arguments(self, config: Mapping[str, Any], folder: Path) -> list[str]:
        """The command's arguments for one run.

        Raises:
            ThalwegError: a key in braces that the config does not have.
        """
        values = {**config, "rundir": str(folder)}
        asked = {key for _, key, _, _ in string.Formatter().parse(self.template) if key is not None}
        if not asked <= set(values):
            unknown = ", ".join(sorted(asked - set(values)))
            raise bad_input(
                "command",
                self.template,
                f"keys of the config in braces, but not {unknown}",
                f"Keys: {', '.join(values)}",
            )
        return [piece.format_map(values) for piece in shlex.split(self.template)]

    def __call__(self, config: dict[str, Any], rundir: RunDir) -> Mapping[str, Any] | None:
        with (rundir.path / "output.txt").open("ab") as output:
            # the lock of the folder is inherited: while the command lives, no other sweep starts this run
            process = subprocess.Popen(
                self.arguments(config, rundir.path),
                stdin=subprocess.DEVNULL,
                stdout=output,
                stderr=output,
                close_fds=False,
            )
            try:
                code = process.wait()
            except KeyboardInterrupt:  # the command got the signal too (same group); the sweep limits its time
                process.wait()
                raise
        if code:
            lines = (rundir.path / "output.txt").read_text(errors="replace").strip().splitlines()
            raise RuntimeError(
                f"the command ended with code {code}; last line of output.txt: {lines[-1] if lines else '(empty)'}"
            )
        if (rundir.path / "result.json").is_file():
            result: Mapping[str, Any] = from_strict(json.loads((rundir.path / "result.json").read_text()))
            return result
        rows = rundir.metrics()
        return rows[-1] if rows else None
