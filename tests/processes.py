"""The `lepton` command in processes of its own, forked from one that has the imports: they take seconds of a core.

Each is a real process with its own environment, folder, output and exit status. Only what it imports is there already,
and a public constant, such as a time that it waits for, can have another value.
"""

from __future__ import annotations

import importlib
import multiprocessing
import os
import signal
import subprocess
import sys
from collections.abc import Callable, Mapping
from multiprocessing import forkserver
from pathlib import Path
from typing import Any

import pytest

FORKS = multiprocessing.get_context("forkserver")
FORKS.set_forkserver_preload(["preloaded"])


def start_server() -> None:
    """Start the process that all are forked from, which finds what stands beside this file."""
    with pytest.MonkeyPatch.context() as here:
        here.setenv("PYTHONPATH", str(Path(__file__).parent))
        here.setenv("PRELOADED_PATH", os.pathsep.join(sys.path))
        forkserver.ensure_running()


class Lepton:
    """A process of the `lepton` command, with the methods of `subprocess.Popen`; what it prints goes to files."""

    def __init__(
        self,
        *words: str,
        project: Path,
        environment: Mapping[str, str],
        out: Path,
        errors: Path | None = None,
        constants: Mapping[str, float] | None = None,
    ) -> None:
        self.args = ["lepton", *words]
        files, haste = (out, errors or out), dict(constants or {})
        start_server()
        self._process = FORKS.Process(target=_lepton, args=(self.args, project, dict(environment), files, haste))
        self._process.start()

    @property
    def pid(self) -> int:
        assert self._process.pid is not None
        return self._process.pid

    def poll(self) -> int | None:
        return self._process.exitcode

    def wait(self, timeout: float | None = None) -> int:
        self._process.join(timeout)
        if self._process.exitcode is None:
            raise subprocess.TimeoutExpired(self.args, timeout or 0)
        return self._process.exitcode

    def send_signal(self, number: int) -> None:
        if self.poll() is None:
            os.kill(self.pid, number)

    def kill(self) -> None:
        self.send_signal(signal.SIGKILL)


class Forked:
    """A process that does something with the environment and in the folder of this one, and tells of it.

    `work` is a function of a test module. It gets `say`, which sends something to `receive`, and the arguments.
    """

    def __init__(self, work: Callable[..., object], *arguments: object) -> None:
        start_server()
        self._told, sender = FORKS.Pipe(duplex=False)
        arguments = (work, arguments, dict(os.environ), Path.cwd(), sender)
        self._process = FORKS.Process(target=_forked, args=arguments, daemon=True)
        self._process.start()
        sender.close()  # so that `receive` ends with the process

    def __enter__(self) -> Forked:
        return self

    def __exit__(self, *_: object) -> None:
        self.kill()
        self._told.close()

    def receive(self) -> Any:
        """Return the next thing that the process says; EOFError where it ended without."""
        return self._told.recv()

    def wait(self, timeout: float) -> int | None:
        """Return how the process ended; None where it has not in time."""
        self._process.join(timeout)
        return self._process.exitcode

    def kill(self) -> None:
        """Kill the process, and wait until it has ended."""
        self._process.kill()
        self._process.join()


def _forked(
    work: Callable[..., object], arguments: tuple[object, ...], environment: dict[str, str], folder: Path, told: Any
) -> None:
    os.chdir(folder)
    os.environ.clear()
    os.environ.update(environment)
    work(told.send, *arguments)


def _lepton(
    words: list[str],
    project: Path,
    environment: dict[str, str],
    files: tuple[Path, Path],
    constants: dict[str, float],
) -> None:
    """Become the command: take its environment, folder, files and waiting times, and do what it says."""
    for place, value in constants.items():
        module, _, name = place.rpartition(".")
        assert isinstance(getattr(importlib.import_module(module), name), float)
        setattr(sys.modules[module], name, value)
    os.chdir(project)
    os.environ.clear()
    os.environ.update(environment)
    for number, path in zip((1, 2), files, strict=True):
        opened = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.dup2(opened, number)
        os.close(opened)
    sys.argv = words
    from lepton_kit import cli

    cli.main()
