"""Runs a notebook in a process of its own, which tells its events and ends when its starter stops it, or dies.

JupyterLab's scheduler kills the process of a job that is stopped, which can then write nothing. The run is in a further
process: it sees its input end, and cancels the run in good order.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
from dataclasses import replace
from functools import partial
from pathlib import Path

from pydantic import TypeAdapter

from lepton_kit.errors import InputError, LeptonError
from lepton_kit.runs.ending import repair
from lepton_kit.runs.manifest import Manifest, find_run
from lepton_kit.runs.progress import print_json
from lepton_kit.runs.repeat import unfinished
from lepton_kit.runs.runner import DEFAULTS, Event, Options, Request, execute, prepare

ORDER = TypeAdapter(tuple[Request, Path, Options, bool])
"""What the process is asked to do, in which project, how, and whether it resumes: a line of JSON."""


class BackgroundRun:
    """A run in a process of its own.

    Parameters
    ----------
    request
        What is to be run; its parameters are JSON values, or text as `-p` takes it.
    resumes
        Whether checkpoints are taken of the newest run of the same notebook, values, inputs and code, where that did
        not succeed.

    Attributes
    ----------
    newest
        The last event; None before the first.
    run_id
        The run that it has come to; a retry is a run of its own.
    refused
        Why it did not begin; None when it did.
    """

    def __init__(self, request: Request, project: Path, options: Options = DEFAULTS, resumes: bool = False) -> None:
        self.name, self._project = request.notebook.stem, project
        self.newest: Event | None = None
        self.run_id: str | None = None
        self.refused: str | None = None
        command = [sys.executable, "-P", "-m", __name__]  # -P: a module of the project shadows none of the kit's
        pipe = subprocess.PIPE
        self._process = subprocess.Popen(  # Ctrl-C in the starter's terminal is the starter's to answer
            command, stdin=pipe, stdout=pipe, cwd=project, encoding="utf-8", start_new_session=True
        )
        assert self._process.stdin is not None
        self._process.stdin.write(ORDER.dump_json((request, project, options, resumes)).decode() + "\n")
        self._process.stdin.flush()
        self._listener = threading.Thread(target=self._listen, daemon=True)
        self._listener.start()

    @property
    def is_running(self) -> bool:
        """Whether it has not ended yet."""
        return self._listener.is_alive()

    def wait(self) -> Manifest:
        """Wait for its end and return its manifest.

        Raises InputError when it was refused before it began, and LeptonError when its process died without a run.
        """
        self._listener.join()
        if self.refused is not None:
            raise InputError(self.refused)
        if self.run_id is None:
            raise LeptonError(f"{self.name}: its process ended with {self._process.returncode} before the run began")
        run = find_run(self.run_id, self._project)
        if run.ended is None:  # its process was killed
            repair(self._project)
            run = find_run(self.run_id, self._project)
        return run

    def stop(self) -> None:
        """Cancel the run, where it still goes on; its manifest says so."""
        if self._process.stdin is not None:
            self._process.stdin.close()

    def _listen(self) -> None:
        assert self._process.stdout is not None
        for line in self._process.stdout:
            told = json.loads(line)
            told.pop("time")
            event = Event(**told)
            if event.kind == "run_refused":
                self.refused = event.text
            self.run_id = event.run_id or self.run_id
            self.newest = event
        self._process.wait()


def main() -> int:
    """Run what the first line of the input says, until the input ends."""
    signal.signal(signal.SIGINT, signal.default_int_handler)
    signal.signal(signal.SIGTERM, signal.default_int_handler)
    request, project, options, resumes = ORDER.validate_json(_first_line())
    threading.Thread(target=_interrupt_at_the_end, daemon=True).start()
    events = os.fdopen(os.dup(1), "w", encoding="utf-8")
    os.dup2(2, 1)  # what code of the project prints is no event
    tell = partial(print_json, events)
    try:
        plan = prepare(request, project)
        if resumes:
            plan = replace(plan, resumed_from=unfinished(plan, project))
        execute(plan, project, tell, options)
    except LeptonError as error:
        tell(Event("run_refused", "", request.notebook.stem, status="refused", text=str(error)))
        return error.exit_code
    except KeyboardInterrupt:
        return 130
    return 0


def _first_line() -> bytes:
    """Return the first line of the input, and read nothing after it: a buffer would be locked at this process' end."""
    line = b""
    while not line.endswith(b"\n") and (part := os.read(0, 1)):
        line += part
    return line


def _interrupt_at_the_end() -> None:
    while os.read(0, 1):
        pass
    os.kill(os.getpid(), signal.SIGINT)


if __name__ == "__main__":
    sys.exit(main())
