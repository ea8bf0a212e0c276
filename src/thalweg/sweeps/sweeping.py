"""Run a training for every config of a list, once."""

from __future__ import annotations

import itertools
import json
import os
import pickle
import sys
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from thalweg.outcomes import bad_input
from thalweg.results import write_atomically
from thalweg.rundir import RunDir, config_hash, locked
from thalweg.sweeps.command import Command
from thalweg.sweeps.processes import run_in_processes
from thalweg.sweeps.running import Config, Train, run_one

if TYPE_CHECKING:
    import pandas as pd

__all__ = ["grid", "status", "sweep"]


def grid(**values: Iterable[Any]) -> list[Config]:
    """All combinations of some values, the last key varying fastest.

    Example:
        >>> grid(peak_lr=[0.001, 0.002], seed=[0, 1])[1]
        {'peak_lr': 0.001, 'seed': 1}
    """
    return [dict(zip(values, combination, strict=True)) for combination in itertools.product(*values.values())]


def sweep(
    configs: Sequence[Mapping[str, Any]],
    *,
    out: str | os.PathLike[str],
    train: Train | None = None,
    command: str | None = None,
    workers: int = 1,
    progress: bool = True,
) -> pd.DataFrame:
    """Run a training once for each config; runs that are complete in `out` are skipped.

    Args:
        configs: one mapping a run, as JSON can hold it; equal ones are one run.
        out: folder of the sweep; one folder a run is made in it.
        train: `train(config, rundir)`, giving the run's result as a mapping, or None. With `workers` > 1 an importable
            function: fresh processes are spawned, with one thread each unless OMP_NUM_THREADS says otherwise.
        command: a command line instead of `train`; see `Command`. Always runs in processes of its own.
        workers: processes [count]; 1 trains in this process.
        progress: show a bar on stderr.

    Returns:
        One row a run, in the order of `configs`: run, status, error, then the keys of config and result (where both have
        a key, the result's value).

    Raises:
        ThalwegError: neither or both of train and command; a folder of another sweep, or one where a sweep is running;
            no configs.
        KeyboardInterrupt: on Ctrl-C, when the runs under way have written their state or 60 s are over.

    Example:
        >>> import tempfile
        >>> def train(config, rundir):
        ...     return {"loss": (config["x"] - 3) ** 2}
        >>> table = sweep(grid(x=[1, 2, 3]), train=train, out=tempfile.mkdtemp(), progress=False)
        >>> table["loss"].tolist()
        [4, 1, 0]
    """
    if (train is None) == (command is None):
        raise bad_input(
            "train, command", (train, command), "exactly one of the two", "Write train=my_function or command='...'"
        )
    if workers < 1:
        raise bad_input("workers", workers, "at least 1 process", "Write workers=1")
    if not configs:
        raise bad_input("configs", configs, "at least one config", "Write for example grid(peak_lr=[1e-3, 2e-3])")
    folder = Path(out)
    unique = {folder / config_hash(config): dict(config) for config in configs}
    if command is not None:
        for path, config in unique.items():
            Command(command).arguments(config, path)
    chosen: Train = train if train is not None else Command(command or "")
    separate = workers > 1 or command is not None
    if separate:
        _check_importable(chosen)
    _claim(folder, f"command {command}" if command is not None else f"train {_name_of(chosen)}")
    with locked(folder) as lock:
        if lock is None:
            raise bad_input(
                "out", str(folder), "a folder where no sweep is running", "Wait for it, or choose another folder"
            )
        todo = {path: config for path, config in unique.items() if _status_of(path) != "complete"}
        with _bar(len(unique), len(unique) - len(todo), progress) as done:
            if separate:
                run_in_processes(chosen, todo, workers, done)
            else:
                for path, config in todo.items():
                    done(run_one(chosen, path, config))
    return _frame(unique)


def status(out: str | os.PathLike[str]) -> pd.DataFrame:
    """All runs of a sweep's folder as they stand: the table that `sweep` gives, while it runs or afterwards.

    Raises:
        ThalwegError: no sweep in the folder.
    """
    folder = Path(out)
    if not (folder / "sweep.json").is_file():
        raise bad_input(
            "out", str(folder), "a sweep's folder, with a sweep.json in it", "Check the name and the working directory"
        )
    return _frame(sorted(path.parent for path in folder.glob("*/run.json")))


@contextmanager
def _bar(total: int, complete: int, progress: bool) -> Iterator[Callable[[str | None], None]]:
    """A progress bar; its function is called after each run, with what went wrong if something did."""
    from tqdm import tqdm

    failed = 0
    with tqdm(total=total, initial=complete, unit="run", disable=not progress) as bar:

        def done(error: str | None) -> None:
            nonlocal failed
            if error is not None:
                failed += 1
                tqdm.write(f"failed: {error}", file=sys.stderr)
                bar.set_postfix_str(f"{failed} failed")
            bar.update()

        yield done


def _claim(folder: Path, what: str) -> None:
    """Note in the folder what it is a sweep of, or refuse one that is of something else."""
    record = folder / "sweep.json"
    if record.is_file():
        have = json.loads(record.read_text()).get("of")
        if have != what:
            raise bad_input(
                "out", str(folder), f"a folder of this sweep ({what}), but it is of {have}", "Choose another folder"
            )
        return
    if folder.is_file() or (folder.is_dir() and any(not entry.name.startswith(".") for entry in folder.iterdir())):
        raise bad_input("out", str(folder), "a new or empty folder, or one of this sweep", "Choose another folder")
    write_atomically(record, json.dumps({"of": what}) + "\n")


def _check_importable(train: Train) -> None:
    try:
        pickle.dumps(train)
    except (pickle.PicklingError, AttributeError, TypeError):
        raise bad_input(
            "train", _name_of(train), "a function that other processes can import",
            "Define it at the top of a module, or write workers=1",
        ) from None  # fmt: skip


def _name_of(train: Train) -> str:
    """Module and name of a training, the same whether its module is imported or run as the program."""
    module = getattr(train, "__module__", "")
    if module == "__main__":
        main = sys.modules["__main__"]
        module = (
            main.__spec__.name if main.__spec__ is not None else Path(getattr(main, "__file__", None) or module).stem
        )
    return f"{module}.{getattr(train, '__qualname__', type(train).__qualname__)}"


def _status_of(path: Path) -> str | None:
    return RunDir.open(path).status if (path / "run.json").is_file() else None


def _frame(paths: Iterable[Path]) -> pd.DataFrame:
    import pandas as pd

    rows = []
    for path in paths:
        if (path / "run.json").is_file():
            run = RunDir.open(path)
            row = {"run": path.name, "status": run.status, "error": run.record.get("error")}
            rows.append(row | run.config | (run.result or {}))
    return pd.DataFrame(rows)
