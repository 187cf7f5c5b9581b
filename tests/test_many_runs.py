import contextlib
import os

import psutil
from helpers import write_notebook
from services import wait_for

from lepton_kit.runs.runner import Request, execute, prepare


def sockets():
    me, opened = psutil.Process(), []
    for process in (me, *me.children(recursive=True)):
        with contextlib.suppress(psutil.NoSuchProcess):  # it ends meanwhile
            opened += process.net_connections("inet")
    return {connection.laddr for connection in opened if connection.status == "LISTEN"}


def test_twenty_runs_in_a_row_leak_no_process_no_file_and_no_port(project):
    cell = "import subprocess; lk.record('pid', subprocess.Popen(['sleep', '600'], start_new_session=True).pid)"
    path = write_notebook(project / "notebooks/n.ipynb", [cell])
    plan = prepare(Request(path), project)
    execute(plan, project)  # what the first run brings stays: a fork server, caches
    me = psutil.Process()
    files, ports, children = me.num_fds(), sockets(), len(me.children(recursive=True))
    pids = [execute(plan, project).results["pid"].value for _ in range(20)]
    wait_for(lambda: not [pid for pid in pids if psutil.pid_exists(pid)])
    assert me.num_fds() <= files
    wait_for(lambda: len(me.children(recursive=True)) <= children)  # a watchdog ends right after its kernel
    assert len(sockets()) <= len(ports)
    assert not [name for name in os.environ if name.startswith("LEPTON_RUN")]
