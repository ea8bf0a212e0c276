"""Runs on the processes of this machine: none outlives its sweep, and the death of one is the failure of one run."""

from __future__ import annotations

import multiprocessing
import os
import signal
import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from multiprocessing import connection
from multiprocessing.connection import Connection
from multiprocessing.context import SpawnProcess
from pathlib import Path
from typing import NoReturn

from thalweg.outcomes import ThalwegError
from thalweg.rundir import RunDir
from thalweg.sweeps.running import Config, Train, run_one

__all__ = ["run_in_processes"]

_GRACE = 60.0  # seconds [s] that interrupted runs get to write their state


@dataclass(slots=True)
class _Worker:
    process: SpawnProcess
    pipe: Connection
    path: Path | None = None  # of the run under way


def run_in_processes(
    train: Train, todo: Mapping[Path, Config], workers: int, done: Callable[[str | None], None]
) -> None:
    waiting = deque(todo.items())
    team: list[_Worker] = []
    try:
        while waiting or team:
            while waiting and len(team) < workers:
                team.append(_start(train, *waiting.popleft()))
            ready = connection.wait([worker.pipe for worker in team])
            for worker in [worker for worker in team if worker.pipe in ready]:
                try:
                    done(worker.pipe.recv())
                except (EOFError, ConnectionResetError):  # killed, or out of memory: the others go on
                    worker.process.join()
                    done(_died(worker))
                    team.remove(worker)
                    continue
                item = waiting.popleft() if waiting else None
                worker.pipe.send(item)
                if item is None:
                    worker.process.join()
                    team.remove(worker)
                else:
                    worker.path = item[0]
    except KeyboardInterrupt:
        for worker in team:
            _signal(worker, signal.SIGINT)
        deadline = time.monotonic() + _GRACE
        for worker in team:
            worker.process.join(max(0.0, deadline - time.monotonic()))
        raise
    finally:
        for worker in team:
            if worker.process.is_alive():
                _signal(worker, getattr(signal, "SIGKILL", signal.SIGTERM))


def _start(train: Train, path: Path, config: Config) -> _Worker:
    context = multiprocessing.get_context("spawn")
    mine, theirs = context.Pipe()
    process = context.Process(target=_work, args=(theirs,))
    with _one_thread_each():
        process.start()
    theirs.close()  # so that the death of the worker is the end of the pipe
    mine.send(train)
    mine.send((path, config))
    return _Worker(process, mine, path)


def _work(pipe: Connection) -> None:
    """A worker process: run what comes through the pipe until None comes."""
    # a session of its own: Ctrl-C in the terminal goes to the sweep alone, which passes it on once
    if hasattr(os, "setsid"):
        os.setsid()
    threading.Thread(target=_end_with_parent, daemon=True).start()
    try:
        train = _received(pipe)
        while (item := pipe.recv()) is not None:
            pipe.send(run_one(train, *item))
    except (KeyboardInterrupt, EOFError):
        pass


def _received(pipe: Connection) -> Train:
    """The training from the pipe; if it cannot be imported here, one that says so for every run."""
    try:
        train: Train = pipe.recv()
    except (AttributeError, ImportError) as error:
        reason = (
            f"the training cannot be imported in another process ({error}); define it in a module, or write workers=1"
        )

        def train(config: Config, rundir: RunDir) -> NoReturn:
            raise ThalwegError(reason)

    return train


def _end_with_parent() -> NoReturn:
    """End this process and its commands when the sweep is gone, even by SIGKILL: else a resumed sweep would train twice."""
    parent = multiprocessing.parent_process()
    assert parent is not None
    connection.wait([parent.sentinel])
    if hasattr(os, "killpg"):
        os.killpg(os.getpgid(0), signal.SIGKILL)
    os._exit(1)


def _signal(worker: _Worker, number: int) -> None:
    """Signal a worker and the command it runs."""
    assert worker.process.pid is not None
    try:
        if hasattr(os, "killpg") and os.getpgid(worker.process.pid) == worker.process.pid:
            os.killpg(worker.process.pid, number)
        else:  # not yet in its own session, or a system without sessions
            worker.process.terminate()
    except ProcessLookupError:
        pass


def _died(worker: _Worker) -> str:
    assert worker.path is not None
    message = f"the process of this run died (exit code {worker.process.exitcode}); was it killed, or out of memory?"
    if (worker.path / "run.json").is_file():
        RunDir.open(worker.path).fail(message)
    return f"{worker.path}: {message}"


@contextmanager
def _one_thread_each() -> Iterator[None]:
    """Processes started inside use one thread: two threads on two busy cores are an order of magnitude slower."""
    if "OMP_NUM_THREADS" in os.environ:
        yield
        return
    os.environ["OMP_NUM_THREADS"] = "1"
    try:
        yield
    finally:
        del os.environ["OMP_NUM_THREADS"]
