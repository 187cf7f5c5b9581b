"""Kernels under their watchdogs and from the fork server, with real processes."""

from __future__ import annotations

import os
import resource
import shutil
import signal
import socket
import struct
import sys
import tempfile
import time
from collections.abc import Callable, Iterator
from functools import partial
from pathlib import Path
from typing import Any

import nbformat
import psutil
import pytest
from helpers import KERNEL, PATIENCE_S
from jupyter_core.utils import run_sync
from nbclient import NotebookClient
from processes import Forked
from services import wait_for

from lepton_kit.runs.client import LocalClient
from lepton_kit.runs.warm import lease
from lepton_kit.runs.warm.lease import limits, send_request, socket_path, start_server
from lepton_kit.runs.warm.watchdog import Lines, say

pytestmark = pytest.mark.skipif(not sys.platform.startswith("linux"), reason="watchdogs need Linux")

ORPHANS = """
import os, subprocess, sys, time
pids = [subprocess.Popen(["sleep", "300"]).pid]
readable, writable = os.pipe()
if os.fork() == 0:
    os.setsid()
    daemon = os.fork()
    if daemon == 0:
        time.sleep(600)
    os.write(writable, str(daemon).encode())
    os._exit(0)
os.wait()
pids.append(int(os.read(readable, 20)))
print(os.getpid(), *pids)
"""


@pytest.fixture(scope="module")
def place() -> Iterator[Path]:
    """A short runtime folder, with a fork server for these tests alone, which loads little."""
    folder = Path(tempfile.mkdtemp(prefix="lk-", dir="/tmp"))
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("JUPYTER_RUNTIME_DIR", str(folder))
        patch.setenv("LEPTON_PRELOAD", "numpy,pandas,matplotlib.pyplot,torch")
        patch.setenv("LEPTON_FORKSERVER_IDLE", "120")
        patch.delenv("LEPTON_WARM", raising=False)
        patch.setattr(lease, "PATIENCE_S", 30.0)  # a busy machine is no reason for an ordinary kernel here
        patch.delenv("OMP_NUM_THREADS", raising=False)
        yield folder
        stop_server()
    shutil.rmtree(folder)


LOADED: set[int] = set()
"""The pids of fork servers from which a kernel with torch has come."""


@pytest.fixture
def server(place: Path) -> int:
    """The pid of a fork server that serves and has loaded all it should."""
    pid = server_pid()
    return pid if pid in LOADED else wait_for_server()


def server_pid() -> int | None:
    try:
        with socket.socket(socket.AF_UNIX) as connection:
            connection.connect(str(socket_path(os.environ)))
            return int(struct.unpack("3i", connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, 12))[0])
    except OSError:
        return None


def stop_server() -> None:
    if pid := server_pid():
        os.kill(pid, signal.SIGKILL)
        assert gone([pid])


def wait_for_server(seconds: float = PATIENCE_S) -> int:
    """Wait until kernels come out of the server with torch loaded."""
    deadline = time.monotonic() + seconds
    while time.monotonic() < deadline:
        if server_pid() is None:
            start_server(os.environ)
        else:
            with Kernel() as kernel:
                if kernel.is_warm and kernel.run("import sys; print('torch' in sys.modules)") == "True":
                    pid = server_pid()
                    assert pid
                    LOADED.add(pid)
                    return pid
        time.sleep(0.2)
    raise AssertionError("no fork server serves")


def gone(pids: list[int], seconds: float = PATIENCE_S) -> bool:
    """Wait until none of the processes runs; a zombie does not."""
    deadline = time.monotonic() + seconds
    while alive := [pid for pid in pids if runs(pid)]:
        if time.monotonic() > deadline:
            print("still there:", alive)
            return False
        time.sleep(0.01)
    return True


def runs(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


class Kernel:
    """A kernel started as the kit starts it, to run sources in."""

    def __init__(self, warm: bool = True, **options: Any) -> None:
        notebook = nbformat.v4.new_notebook(metadata=KERNEL)
        self.runner = LocalClient(notebook, warm=warm)
        self.manager = self.runner.km = self.runner.create_kernel_manager()
        self.runner.start_new_kernel(**options)
        self.process = self.manager.provisioner.process
        self.client = self.manager.blocking_client()
        self.client.start_channels(stdin=False, hb=False)
        self.client.wait_for_ready(timeout=PATIENCE_S)

    @property
    def is_warm(self) -> bool:
        ancestors = [process.pid for process in psutil.Process(self.process.pid).parents()]
        return server_pid() in ancestors

    def run(self, source: str) -> str:
        """Run a source; return what it printed."""
        printed: list[str] = []

        def take(message: dict[str, Any]) -> None:
            printed.append(message["content"].get("text") or str(message["content"].get("traceback", "")))

        self.client.execute_interactive(source, output_hook=take, timeout=PATIENCE_S)
        return "".join(printed).strip()

    def __enter__(self) -> Kernel:
        return self

    def __exit__(self, *_: object) -> None:
        self.client.stop_channels()
        run_sync(self.manager.shutdown_kernel)(now=True)


@pytest.mark.parametrize("warm", [True, False])
def test_nothing_that_a_kernel_started_outlives_it(server, warm):
    with Kernel(warm) as kernel:
        assert kernel.is_warm == warm
        pids = [int(pid) for pid in kernel.run(ORPHANS).split()]
        assert all(map(runs, pids)) and len(pids) == 3
    assert gone(pids)


@pytest.mark.parametrize("warm", [True, False])
def test_a_kernel_killed_from_outside_takes_its_descendants_along_and_says_by_which_signal(server, warm):
    with Kernel(warm) as kernel:
        pids = [int(pid) for pid in kernel.run(ORPHANS).split()]
        os.kill(pids[0], signal.SIGKILL)
        assert gone(pids)
        assert run_sync(kernel.manager.provisioner.wait)() == -signal.SIGKILL
        assert not kernel.manager.has_kernel


@pytest.mark.parametrize("warm", [True, False])
@pytest.mark.parametrize("generation", [1, 2])
def test_a_killed_watchdog_leaves_neither_the_kernel_nor_what_it_started(server, warm, generation):
    with Kernel(warm) as kernel:
        assert kernel.is_warm == warm
        pids = [int(pid) for pid in kernel.run(ORPHANS).split()]
        watchdogs = [each.pid for each in psutil.Process(pids[0]).parents() if each.name() == "lepton-watchdog"]
        assert len(watchdogs) == 2
        os.kill(watchdogs[generation - 1], signal.SIGKILL)
        assert gone([*pids, *watchdogs])


def held_to(say: Callable[[object], None], limit: Callable[[], object]) -> None:
    """Say whether a kernel is warm whose starter is held to a limit, and what that kernel is held to."""
    lease.PATIENCE_S = 30.0
    limit()
    with Kernel() as kernel:
        source = "import os, resource; print(os.getpriority(0, 0), sorted(os.sched_getaffinity(0)), "
        say((kernel.is_warm, kernel.run(source + "resource.getrlimit(resource.RLIMIT_FSIZE))")))


def no_limit() -> None:
    pass


def one_core() -> None:
    os.sched_setaffinity(0, {min(os.sched_getaffinity(0))})


def small_files() -> None:
    resource.setrlimit(resource.RLIMIT_FSIZE, (2**30, 2**31))


def less_urgent() -> None:
    os.nice(5)


@pytest.mark.parametrize("limit", [no_limit, less_urgent, one_core, small_files])
def test_a_kernel_is_held_to_what_its_starter_is_held_to(server, limit):
    with Forked(held_to, limit) as starter:
        made = starter.receive()
    cores = sorted(os.sched_getaffinity(0))
    expected = [
        os.getpriority(os.PRIO_PROCESS, 0) + 5 * (limit is less_urgent),
        cores[:1] if limit is one_core else cores,
        (2**30, 2**31) if limit is small_files else resource.getrlimit(resource.RLIMIT_FSIZE),
    ]
    assert made == (limit is no_limit, " ".join(map(str, expected)))


def enter(group: Path) -> None:
    (group / "cgroup.procs").write_text(str(os.getpid()))


def test_a_kernel_stays_in_the_control_group_of_its_starter(server):
    group = Path("/sys/fs/cgroup/memory" if Path("/sys/fs/cgroup/memory").is_dir() else "/sys/fs/cgroup")
    group /= f"lepton-test-{os.getpid()}"
    try:
        group.mkdir()
        limit = next(group / name for name in ("memory.max", "memory.limit_in_bytes") if (group / name).exists())
        limit.write_text(str(2**34))
    except (OSError, StopIteration) as error:
        pytest.skip(f"no control group can be made here: {error}")
    try:
        with Forked(held_to, partial(enter, group)) as starter:
            assert starter.receive()[0] is False
    finally:
        wait_for(lambda: not (group / "cgroup.procs").read_text())
        group.rmdir()


def start_kernel(say: Callable[[object], None], warm: bool, keep: float | None = None) -> None:
    """Start a kernel with descendants, say their pids, and do nothing more."""
    lease.PATIENCE_S = 30.0
    kernel = Kernel(warm)
    pids = [int(pid) for pid in kernel.run(ORPHANS).split()]
    if keep is not None:
        kernel.manager.provisioner.keep(keep)
    say(pids)
    time.sleep(600)


def killed_runner(warm: bool, keep: float | None = None) -> list[int]:
    """Start a kernel in a process of its own, kill that, and return the kernel's and its descendants' pids."""
    with Forked(start_kernel, warm, keep) as runner:
        return runner.receive()


@pytest.mark.parametrize("warm", [True, False])
def test_a_killed_runner_leaves_no_kernel_no_descendant_no_socket_and_no_connection_file(server, place, warm):
    pids = killed_runner(warm)
    assert len(pids) == 3 and gone(pids)
    wait_for(lambda: not list(place.glob("kernel-*")))


@pytest.mark.parametrize("warm", [True, False])
def test_a_kernel_that_only_starts_ends_with_a_runner_that_was_killed(server, tmp_path, monkeypatch, warm):
    startup, begun = tmp_path / "profile_default" / "startup", tmp_path / "begun"
    startup.mkdir(parents=True)
    slow = f"import os, time; open({str(begun)!r}, 'w').write(str(os.getpid())); time.sleep(600)"
    (startup / "slow.py").write_text(slow)
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with Forked(start_kernel, warm):
        pid = int(wait_for(lambda: begun.exists() and begun.read_text()))
    assert gone([pid])


def test_a_kept_kernel_outlives_its_runner_for_the_time_asked_for_and_no_longer(server):
    pids = killed_runner(True, 3)
    assert runs(pids[0])
    assert gone(pids)


def test_a_killed_fork_server_leaves_its_kernels_alone_and_a_new_one_comes(place):
    server = wait_for_server()
    with Kernel() as kernel:
        assert kernel.is_warm
        os.kill(server, signal.SIGKILL)
        assert gone([server])
        assert kernel.run("print(6 * 7)") == "42"
        assert wait_for_server() != server
        assert kernel.run("print(6 * 7)") == "42"


def test_each_kernel_has_its_own_group_folder_environment_and_randomness(server, tmp_path):
    source = """
import os, random, numpy, torch
print(os.getpgid(0), os.getcwd(), os.environ["WHO"], "ONLY_FIRST" in os.environ,
      random.random(), numpy.random.rand(), torch.rand(1).item())
"""
    told = []
    for who in ("first", "second"):
        (tmp_path / who).mkdir()
        environment = {**os.environ, "WHO": who} | ({"ONLY_FIRST": "1"} if who == "first" else {})
        with Kernel(cwd=str(tmp_path / who), env=environment) as kernel:
            assert kernel.is_warm
            told.append(kernel.run(source).split())
            assert told[-1][:4] == [
                str(kernel.process.pid), str(tmp_path / who), who, str(who == "first"),
            ]  # fmt: skip
    assert all(one != other for one, other in zip(told[0][4:], told[1][4:], strict=True)), told


def test_what_a_kernels_process_writes_goes_where_its_starter_said(server, tmp_path):
    with (tmp_path / "log").open("wb") as log, Kernel(stdout=log, stderr=log) as kernel:
        assert kernel.is_warm
        kernel.run("import os; _ = os.write(2, b'from below')")
        kernel.run("import os; os.system('echo from a child >/proc/%d/fd/1' % os.getpid())")
    # ipykernel itself takes what is written to the descriptors; only what bypasses it reaches the log
    assert b"Ctrl-C" not in (tmp_path / "log").read_bytes()


def test_a_plot_shows_as_a_picture_in_a_warm_kernel(server):
    source = "import matplotlib.pyplot as plt\nplt.plot([1, 2]);"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=KERNEL)
    warm = LocalClient(notebook)
    warm.execute()
    assert ["image/png" in output.get("data", {}) for output in notebook.cells[0].outputs] == [True]


def test_a_table_reads_as_in_an_ordinary_kernel(server):
    names = "display.max_columns", "display.max_rows", "display.width"
    said = {}
    for is_warm in (True, False):
        with Kernel(warm=is_warm) as kernel:
            assert kernel.is_warm == is_warm
            said[is_warm] = kernel.run(f"import pandas as pd; print([pd.get_option(name) for name in {names}])")
    assert said[True] == said[False]


def test_the_servers_folder_is_for_its_owner_alone(server):
    path = socket_path(os.environ)
    assert path.parent.stat().st_mode & 0o077 == 0
    path.parent.chmod(0o755)
    try:
        with pytest.raises(PermissionError, match="alone"):
            socket_path(os.environ)
    finally:
        path.parent.chmod(0o700)


def test_warm_kernels_can_be_switched_off(server, monkeypatch):
    monkeypatch.setenv("LEPTON_WARM", "0")
    with Kernel() as kernel:
        monkeypatch.delenv("LEPTON_WARM")
        assert not kernel.is_warm


def test_a_server_whose_files_changed_is_replaced_and_never_serves_what_it_had(place, tmp_path, monkeypatch):
    (tmp_path / "answers.py").write_text("ANSWER = 41\n")
    monkeypatch.setenv("PYTHONPATH", str(tmp_path))
    monkeypatch.setenv("LEPTON_PRELOAD", "answers,torch")
    try:
        old = wait_for_server()
        with Kernel() as kernel:
            assert kernel.run("import answers; print(answers.ANSWER)") == "41"
        (tmp_path / "answers.py").write_text("ANSWER = 42  # now right\n")
        for _ in range(3):
            with Kernel() as kernel:
                assert kernel.run("import answers; print(answers.ANSWER)") == "42"
        assert wait_for_server() != old
        assert gone([old])
    finally:
        stop_server()


def test_a_server_serves_whatever_its_interpreter_is_called(place, monkeypatch):
    served = socket_path(os.environ)
    executable = Path(sys.executable)
    other = next(
        each for each in executable.parent.glob("python*") if each.name != executable.name and each.is_symlink()
    )
    monkeypatch.setattr(sys, "executable", str(other))
    assert socket_path(os.environ) == served
    monkeypatch.setattr(sys, "prefix", "/somewhere/else")
    assert socket_path(os.environ) != served


def test_an_idle_server_ends(place, monkeypatch):
    monkeypatch.setenv("LEPTON_PRELOAD", "bisect")
    monkeypatch.setenv("LEPTON_FORKSERVER_IDLE", "1")
    start_server(os.environ)
    pid = wait_for(server_pid)
    assert gone([pid])
    assert server_pid() is None


def test_a_server_carries_nothing_of_the_run_that_started_it(place, monkeypatch):
    monkeypatch.setenv("LEPTON_PRELOAD", "bisect")
    monkeypatch.setenv("LEPTON_RUN_DIR", "/here")
    start_server(os.environ)
    pid = wait_for(server_pid)
    own = Path(f"/proc/{pid}/environ").read_bytes()
    assert b"LEPTON_PRELOAD=bisect" in own and b"LEPTON_RUN_DIR" not in own
    stop_server()


def test_ten_kernels_leave_no_process_and_no_open_file(server):
    this = psutil.Process()
    for number in range(11):
        with Kernel() as kernel:
            kernel.run("1")
        if number == 0:  # what is opened once, such as zmq's context, is open now
            files, children = this.num_fds(), len(this.children(recursive=True))
    assert this.num_fds() <= files + 2
    wait_for(lambda: len(this.children(recursive=True)) <= children)  # the last watchdogs are ending


def test_plain_nbclient_gets_the_kernels_of_the_kernelspec(server):
    source = "import os; print(os.getpid(), os.getppid())"
    metadata = {"kernelspec": {"name": "lepton", "display_name": "Lepton", "language": "python"}}
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=metadata)
    NotebookClient(notebook).execute()
    pid, watchdog = map(int, notebook.cells[0].outputs[0].text.split())
    assert gone([pid, watchdog])


def test_a_warm_kernel_is_in_its_own_place(server, tmp_path, monkeypatch):
    monkeypatch.setenv("LEPTON_RUN_DIR", "here")
    with Kernel(cwd=str(tmp_path), env=dict(os.environ)) as kernel:
        pid = kernel.process.pid
        assert kernel.run("import os; print(os.getcwd(), os.environ['LEPTON_RUN_DIR'])") == f"{tmp_path} here"
        assert kernel.run("%pwd\nprint(_dh)") == f"[{tmp_path!r}]"
        assert kernel.run("import sys; print(sys.argv[1:2], '_' in dir())") == "['-f'] True"
    assert gone([pid])


def test_a_figure_of_a_warm_kernel_is_shown_once_and_is_the_first(server):
    source = "import matplotlib.pyplot as plt\nprint(plt.get_fignums())\nplt.plot([1, 2]); print(plt.gcf().number)"
    notebook = nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell(source)], metadata=KERNEL)
    LocalClient(notebook).execute()
    *printed, shown = notebook.cells[0].outputs  # how many messages bring what is printed hangs on their time
    assert "".join(output.text for output in printed) == "[]\n1\n"
    assert "image/png" in shown.data


def test_start_up_files_run_in_the_folder_of_who_takes_the_kernel(server, tmp_path, monkeypatch):
    startup = tmp_path / "profile_default" / "startup"
    startup.mkdir(parents=True)
    (startup / "first.py").write_text("import os; begun = [*globals().get('begun', []), os.getcwd()]")
    monkeypatch.setenv("IPYTHONDIR", str(tmp_path))
    with Kernel(cwd="/usr") as kernel:
        assert kernel.run("print(begun)") == "['/usr']"


def test_a_restarted_kernel_answers_at_the_same_place(server):
    with Kernel() as kernel:
        before = kernel.manager.get_connection_info()
        run_sync(kernel.manager.restart_kernel)(now=True)
        kernel.client.wait_for_ready(timeout=PATIENCE_S)
        assert kernel.run("print(1)") == "1"
        assert kernel.manager.get_connection_info() == before


def test_a_kernel_ends_by_itself_though_its_answer_to_the_shutdown_takes_a_while(server):
    slow = """
def slow_down():  # in a function, as the names of a notebook are taken away before its kernel ends
    import atexit, sys, threading, time
    thread, main = sys.stdout.pub_thread, threading.main_thread()
    schedule, current = thread.schedule, threading.current_thread
    def slowly(event):
        if getattr(event, "__name__", "") == "set" and current() is not main:
            for _ in range(50):  # the end of a flush: a thread that was stopped before it got there never handles it
                if thread._stopped:
                    return
                time.sleep(0.01)
        schedule(event)
    thread.schedule = slowly
    atexit.register(time.sleep, 0.2)  # the flush has begun by then
slow_down()
"""
    with Kernel() as kernel:
        assert kernel.is_warm
        kernel.run(slow)
        run_sync(kernel.manager.request_shutdown)()
        assert kernel.process.wait(PATIENCE_S) == 0


def test_output_waits_in_the_kernel_for_a_client_that_reads_it_late(server):
    source = "from IPython.display import display\nfor n in range(6000): display(n)"
    with Kernel() as kernel:
        asked = kernel.client.execute(source)
        while kernel.client.get_shell_msg(timeout=PATIENCE_S)["parent_header"].get("msg_id") != asked:
            continue
        seen = 0
        is_idle = False
        while not is_idle:
            message = kernel.client.get_iopub_msg(timeout=PATIENCE_S)
            is_mine = message["parent_header"].get("msg_id") == asked
            is_idle = is_mine and message["content"].get("execution_state") == "idle"
            seen += message["msg_type"] == "display_data"
    assert seen == 6000


@pytest.mark.parametrize("accepts", [True, False])
def test_what_was_asked_for_is_started_only_when_who_asked_accepts_the_offer(server, tmp_path, accepts):
    ready = tmp_path / "ran"
    words = ["lepton", "run", str(ready)]  # no such notebook: the command says so, once it runs
    request = {"kind": "command", "argv": words, "env": dict(os.environ), "cwd": str(tmp_path), "umask": 0o22}
    request["limits"] = limits()
    with socket.socket(socket.AF_UNIX) as connection, ready.open("wb") as said:
        connection.connect(str(socket_path(os.environ)))
        send_request(connection, request, [said.fileno()] * 3)
        assert Lines(connection).receive() == [{"offer": 1}]
        if accepts:
            say(connection, go=1)
            told = Lines(connection)
            while not told.ended:
                told.receive()
    time.sleep(0 if accepts else 0.5)
    assert bool(ready.read_bytes()) == accepts
