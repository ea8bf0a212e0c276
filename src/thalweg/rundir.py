"""One run's folder: what was asked, what came out, and every row between.

    run.json        config, status, result, versions and machine, when it started and finished
    metrics.jsonl   one strict JSON object a line, flushed; NaN and infinities are the strings "NaN", "Infinity", "-Infinity"
    checkpoints/    weights by step

Whatever moment the process dies, the folder can be read, and a resumed run continues it: `run.json` is replaced whole, a
torn last line of `metrics.jsonl` is dropped, and so are the lines past the step that was restored.
"""

from __future__ import annotations

import hashlib
import importlib.metadata
import json
import math
import os
import platform
import re
import sys
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import UTC, datetime
from numbers import Integral, Real
from pathlib import Path
from typing import IO, Any

from thalweg.outcomes import ThalwegError, bad_input
from thalweg.results import write_atomically

if sys.platform != "win32":
    import fcntl

__all__ = ["RunDir", "canonical", "config_hash", "machine_facts", "versions"]

_NON_FINITE = {"NaN": math.nan, "Infinity": math.inf, "-Infinity": -math.inf}
_STATUSES = ("running", "interrupted", "failed", "complete")


def to_strict(value: Any) -> Any:
    """A value as strict JSON holds it: mappings, sequences, numbers (NumPy's too), text; non-finite floats as strings."""
    if value is None or isinstance(value, bool | str):
        return value
    if isinstance(value, Integral):
        return int(value)
    if isinstance(value, Real):
        number = float(value)
        if math.isfinite(number):
            return number
        return "NaN" if math.isnan(number) else "Infinity" if number > 0 else "-Infinity"
    if isinstance(value, Mapping):
        return {str(key): to_strict(item) for key, item in value.items()}
    if isinstance(value, list | tuple):
        return [to_strict(item) for item in value]
    raise bad_input(
        "row or config",
        value,
        "numbers, text, lists and mappings of them",
        "Write a schedule as str(schedule), an array as a list",
    )


def from_strict(value: Any) -> Any:
    """The inverse of `to_strict`."""
    if isinstance(value, str):
        return _NON_FINITE.get(value, value)
    if isinstance(value, dict):
        return {key: from_strict(item) for key, item in value.items()}
    if isinstance(value, list):
        return [from_strict(item) for item in value]
    return value


def canonical(config: Mapping[str, Any]) -> str:
    """The one JSON text of a config: keys sorted, no spaces, floats by repr.

    Example:
        >>> canonical({"steps": 300, "peak_lr": 4e-3})
        '{"peak_lr":0.004,"steps":300}'
    """
    return json.dumps(to_strict(config), sort_keys=True, separators=(",", ":"), allow_nan=False)


def config_hash(config: Mapping[str, Any]) -> str:
    """Twelve hexadecimal digits that name a config: the start of the SHA-256 of its canonical JSON.

    Example:
        >>> config_hash({"a": 1, "b": 2}) == config_hash({"b": 2, "a": 1})
        True
    """
    return hashlib.sha256(canonical(config).encode()).hexdigest()[:12]


def versions() -> dict[str, str]:
    """Versions of Python and of the packages a number may depend on; none of them is imported for it."""
    found = {"python": platform.python_version()}
    for package in ("thalweg", "torch", "numpy"):
        try:
            found[package] = importlib.metadata.version(package)
        except importlib.metadata.PackageNotFoundError:
            continue
    return found


def machine_facts() -> dict[str, Any]:
    """What ran it: system, processor and how many of its logical cores."""
    processor = platform.processor() or platform.machine()
    cpuinfo = Path("/proc/cpuinfo")
    if cpuinfo.is_file():
        named = re.search(r"^model name\s*:\s*(.+)$", cpuinfo.read_text(), re.MULTILINE)
        processor = named[1] if named else processor
    return {"system": platform.platform(), "processor": processor, "cores": os.cpu_count()}


class RunDir:
    """The folder of one run, made by `RunDir.create` or opened by `RunDir.open`.

    Attributes:
        path: the folder.
        record: what `run.json` holds.

    Example:
        >>> import tempfile
        >>> folder = tempfile.mkdtemp()
        >>> run = RunDir.create(folder, {"peak_lr": 4e-3})
        >>> run.log({"loss": 6.2}, step=1)
        >>> run.log({"loss": float("inf")}, step=2)
        >>> run.finish({"loss": 3.1})
        >>> again = RunDir.open(folder)
        >>> again.status, again.result, again.metrics()
        ('complete', {'loss': 3.1}, [{'step': 1, 'loss': 6.2}, {'step': 2, 'loss': inf}])
    """

    def __init__(self, path: Path, record: dict[str, Any]) -> None:
        self.path = path
        self.record = record
        self._rows: IO[bytes] | None = None

    @classmethod
    def create(cls, path: str | os.PathLike[str], config: Mapping[str, Any]) -> RunDir:
        """Make a run's folder, or open it to resume the run; its status becomes "running", unless it is complete.

        Args:
            path: the folder; made with its parents.
            config: what the run is, as JSON can hold it.

        Raises:
            ThalwegError: the folder holds a run of another config, or other things.
        """
        folder = Path(path)
        if (folder / "run.json").is_file():
            run = cls.open(folder)
            if canonical(run.config) != canonical(config):
                raise bad_input(
                    "path", str(folder), f"a run of config {config_hash(config)}, but it holds {_difference(run.config, from_strict(to_strict(config)))}",
                    "Choose another folder, or remove this one",
                )  # fmt: skip
        else:
            if folder.is_file() or (
                folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())
            ):
                raise bad_input(
                    "path", str(folder), "a new or empty folder, or one of this run", "Choose another folder"
                )
            run = cls(folder, {"config": to_strict(config), "started": _now()})
        if run.status != "complete":
            run._update(status="running", versions=versions(), machine=machine_facts(), finished=None, result=None)
        return run

    @classmethod
    def open(cls, path: str | os.PathLike[str]) -> RunDir:
        """Open a run's folder to read it; nothing is written.

        Raises:
            ThalwegError: no run there, or a `run.json` that cannot be read.
        """
        file = Path(path) / "run.json"
        if not file.is_file():
            raise bad_input(
                "path", str(path), "a run's folder, with a run.json in it", "Check the name and the working directory"
            )
        try:
            record = json.loads(file.read_text())
        except json.JSONDecodeError as error:
            raise ThalwegError(
                f"{file}: not JSON ({error.msg}, line {error.lineno}); remove the folder to run it anew."
            ) from None
        if not isinstance(record, dict) or "config" not in record or record.get("status") not in _STATUSES:
            raise ThalwegError(f"{file}: no config and status in it; expected a run.json that thalweg wrote.")
        return cls(Path(path), record)

    @property
    def config(self) -> dict[str, Any]:
        """What was asked."""
        config: dict[str, Any] = from_strict(self.record["config"])
        return config

    @property
    def status(self) -> str | None:
        """ "running", "interrupted", "failed" or "complete". A killed run stays "running" until it is resumed."""
        return self.record.get("status")

    @property
    def result(self) -> dict[str, Any] | None:
        """What came out of a complete run."""
        result: dict[str, Any] | None = from_strict(self.record.get("result"))
        return result

    def log(self, row: Mapping[str, Any], *, step: int) -> None:
        """Append one row, flushed to the system; fits wherever `callable(dict, step=)` does.

        Args:
            row: what was measured, by name.
            step: steps completed [count], the one that is measured included.
        """
        if self._rows is None:
            self._rows = self._reopened()
        line = json.dumps({"step": int(step), **to_strict(row)}, allow_nan=False)
        self._rows.write(line.encode() + b"\n")
        self._rows.flush()

    def metrics(self) -> list[dict[str, Any]]:
        """All rows in the order they were written, without a torn last one.

        Raises:
            ThalwegError: a line before the last is not JSON.
        """
        if not self._metrics.is_file():
            return []
        rows = []
        for number, line in enumerate(self._metrics.read_bytes().split(b"\n")[:-1], start=1):
            try:
                rows.append(from_strict(json.loads(line)))
            except ValueError:
                raise ThalwegError(f"{self._metrics}, line {number}: not a JSON object; remove the line.") from None
        return rows

    def rewind(self, step: int) -> None:
        """Drop the rows past `step`, the steps completed where the run continues: it will write them again."""
        self.close()
        if self._metrics.is_file():
            kept = [row for row in self.metrics() if row["step"] <= step]
            text = "".join(json.dumps(to_strict(row), allow_nan=False) + "\n" for row in kept)
            write_atomically(self._metrics, text)

    def checkpoint(self, step: int) -> Path:
        """Where the weights after `step` updates are, or belong."""
        return self.path / "checkpoints" / f"step_{step:08d}.safetensors"

    def checkpoints(self) -> dict[int, Path]:
        """The checkpoints that are there, by step, in order."""
        found = sorted((self.path / "checkpoints").glob("step_*.safetensors"))
        return {int(path.stem.removeprefix("step_")): path for path in found}

    def finish(self, result: Mapping[str, Any]) -> None:
        """The run is complete, with this result."""
        self.close()
        self._update(status="complete", finished=_now(), result=to_strict(result), error=None)

    def interrupt(self) -> None:
        """The run was stopped and can be resumed."""
        self.close()
        self._update(status="interrupted", finished=_now())

    def fail(self, error: str) -> None:
        """The run raised; `error` says what, in one line."""
        self.close()
        self._update(status="failed", finished=_now(), error=error)

    def close(self) -> None:
        """Close `metrics.jsonl`; logging opens it again."""
        if self._rows is not None:
            self._rows.close()
            self._rows = None

    @property
    def _metrics(self) -> Path:
        return self.path / "metrics.jsonl"

    def _reopened(self) -> IO[bytes]:
        """`metrics.jsonl` ready for the next line: a last line without its end, from a killed process, is cut off."""
        self.path.mkdir(parents=True, exist_ok=True)
        if self._metrics.is_file():
            data = self._metrics.read_bytes()
            whole = data.rfind(b"\n") + 1
            if whole < len(data):
                os.truncate(self._metrics, whole)
        return self._metrics.open("ab")

    def _update(self, **changes: Any) -> None:
        record = {**self.record, **changes}
        write_atomically(self.path / "run.json", json.dumps(record, indent=1, allow_nan=False) + "\n")
        self.record = record  # never ahead of the file


@contextmanager
def locked(folder: str | os.PathLike[str]) -> Iterator[IO[bytes] | None]:
    """Hold a folder for this process; gives the lock's file, or None where another living process holds it.

    The system lets go of the lock when the process ends, however it ends. On Windows there is no lock.
    """
    target = Path(folder)
    target.mkdir(parents=True, exist_ok=True)
    with (target / ".lock").open("ab") as file:
        if sys.platform != "win32":
            try:
                fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            except BlockingIOError:
                yield None
                return
        yield file


def _difference(have: Mapping[str, Any], want: Mapping[str, Any]) -> str:
    """The first key in which two configs differ, in words."""
    for key in sorted({*have, *want}):
        if key not in have or key not in want or have[key] != want[key]:
            return f"{key}={have.get(key)!r} instead of {want.get(key)!r}"
    return "another"


def _now() -> str:
    return datetime.now(UTC).isoformat(timespec="seconds")
