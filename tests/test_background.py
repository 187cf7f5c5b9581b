"""Runs in a process of their own: what becomes of them when it is killed, interrupted, or prints."""

from __future__ import annotations

import os
import signal
from pathlib import Path

import psutil
import pytest
from helpers import write_notebook
from services import wait_for

from lepton_kit.runs.background import BackgroundRun
from lepton_kit.runs.runner import Request

OWN = """print('this is no event')
from lepton_kit.runs.trackers import tracker

@tracker('mine')
def write(run, target):
    raise ValueError('not today')
"""


@pytest.fixture
def project(tmp_path):
    (tmp_path / "lepton.toml").touch()
    return tmp_path


def test_a_run_whose_process_is_killed_has_failed(project):
    notebook = write_notebook(project / "endless.ipynb", ["import time\ntime.sleep(900)"])
    run = BackgroundRun(Request(notebook), project)
    process = process_of(run, project)
    assert os.getsid(process.pid) != os.getsid(0)  # Ctrl-C in the terminal does not reach it
    process.send_signal(signal.SIGKILL)
    manifest = run.wait()
    assert (manifest.status, manifest.error.name) == ("failed", "RunnerDied")
    assert manifest.ended is not None


def process_of(run: BackgroundRun, project: Path) -> psutil.Process:
    """Return the process of a run that has begun to execute cells."""
    wait_for(lambda: run.newest and run.newest.kind == "cell_started")
    return next(one for one in psutil.Process().children() if "lepton_kit.runs.background" in one.cmdline())


def test_what_code_of_the_project_prints_is_no_event(project):
    (project / "mine.py").write_text(OWN)
    (project / "lepton.toml").write_text("[track]\nmine = { to = 'x', file = 'mine.py' }\n")
    notebook = write_notebook(project / "short.ipynb", ["1"])
    run = BackgroundRun(Request(notebook), project)
    assert run.wait().status == "succeeded"
    assert run.newest.kind == "not_tracked" and "not today" in run.newest.text
