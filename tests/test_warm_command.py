"""The command `lepton` in a process forked from the fork server."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from helpers import PATIENCE_S, write_notebook
from test_kernels import gone, place, wait_for_server

__all__ = ["place"]  # the fixture that gives these tests a fork server of their own
pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="the fork server needs Linux")
LEPTON = [sys.executable, "-m", "lepton_kit"]
SLOW = "import os, time\nprint('cell runs in', os.getpid(), flush=True)\ntime.sleep(600)"


@pytest.fixture
def warm(place: Path) -> int:
    return wait_for_server()


def test_a_warm_command_prints_and_ends_as_an_ordinary_one(warm, project):
    write_notebook(project / "notebooks" / "good.ipynb", ["lk.record('x', 1, '1')"])
    write_notebook(project / "notebooks" / "bad.ipynb", ["1 / 0"])
    for words, code in ((["list"], 0), (["run", "good"], 0), (["run", "bad"], 1), (["run", "none"], 2)):
        warm_one, cold = dict(os.environ), {**os.environ, "LEPTON_WARM": "0"}  # without readline's own COLUMNS
        ended, as_ever = (
            subprocess.run([*LEPTON, *words], capture_output=True, text=True, timeout=PATIENCE_S, env=environment)
            for environment in (warm_one, cold)
        )
        assert ended.returncode == as_ever.returncode == code, ended.stdout + ended.stderr
        assert len(ended.stdout.splitlines()) == len(as_ever.stdout.splitlines())


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_a_signal_ends_the_run_as_it_ends_an_ordinary_commands(warm, project, number):
    write_notebook(project / "notebooks" / "slow.ipynb", [SLOW])
    with subprocess.Popen([*LEPTON, "run", "slow", "--events"], stdout=subprocess.PIPE, text=True) as command:
        kernel = _kernel_of_running_cell(command)
        command.send_signal(number)
        assert command.wait(PATIENCE_S) == 130
    assert gone([kernel])


def test_a_run_ends_when_its_command_is_killed(warm, project):
    write_notebook(project / "notebooks" / "slow.ipynb", [SLOW])
    with subprocess.Popen([*LEPTON, "run", "slow", "--events"], stdout=subprocess.PIPE, text=True) as command:
        kernel = _kernel_of_running_cell(command)
        command.kill()
    assert gone([kernel], 15)


def _kernel_of_running_cell(command: subprocess.Popen[str]) -> int:
    assert command.stdout
    for line in command.stdout:
        if "cell runs in" in line:
            return int("".join(c for c in line.split("cell runs in")[1].split('"')[0] if c.isdigit()))
    raise AssertionError("the cell did not start")
