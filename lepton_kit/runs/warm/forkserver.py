"""A process that holds the usual imports, and from which kernels and commands are forked.

It never runs a thread or a zmq context, so a fork of it is as good as a new process. It ends when nobody has asked it
for a while, when a file it has loaded is no longer what it was, or when it can no longer fork safely.
"""

from __future__ import annotations

import array
import builtins
import fcntl
import gc
import importlib
import io
import json
import os
import select
import signal
import socket
import struct
import sys
import time
import weakref
from collections.abc import Callable, Mapping
from contextlib import suppress
from functools import cache
from pathlib import Path
from types import SimpleNamespace
from typing import Any, NoReturn

from lepton_kit.runs.warm import lease
from lepton_kit.runs.warm.watchdog import guard, may_start, name_process, remove_connection, say

LOOK_S = 0.1
MOST_FILES = 4
INLINE = "module://matplotlib_inline.backend_inline"  # what ipykernel itself sets, before anybody imports matplotlib
FIRST = (
    "ipykernel.kernelapp", "ipykernel.ipkernel", "ipykernel.debugger", "psutil", "tornado.platform.asyncio",
    "faulthandler", "IPython.core.completerlib", "IPython.core.oinspect", "IPython.utils.wildcard",
    "IPython.core.debugger", "IPython.extensions.storemagic", "nbformat.v4", "nbclient", "papermill", "sqlite3",
    "jupyter_client.asynchronous", "jupyter_client.blocking", "lepton_kit.cli", "lepton_kit.notebook",
    "lepton_kit.runs.pool", "lepton_kit.runs.progress", "lepton_kit.runs.ledger", "sqlalchemy.dialects.sqlite",
    "lepton_kit.runs.warm.provisioner",
    "lepton_kit.runs.warm.kernel", "ipykernel.kernelspec", "encodings.unicode_escape",
)  # fmt: skip


def serve(path: Path, lock: int) -> NoReturn:
    """Answer requests until it is time to end."""
    loaded = _Loaded()
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
    path.unlink(missing_ok=True)
    listener.bind(str(path))
    path.chmod(0o600)
    listener.listen(64)
    os.environ.setdefault("MPLBACKEND", INLINE)
    os.environ["OPENBLAS_NUM_THREADS"] = "1"  # it starts its threads while it is imported
    os.environ["JE_ARROW_MALLOC_CONF"] = "background_thread:false"  # and so does pyarrow's allocator
    signal.signal(signal.SIGCHLD, signal.SIG_IGN)  # nobody waits for the watchdogs
    gc.disable()
    for name in FIRST:
        _preload(name)
    waiting = [name for name in os.environ.get("LEPTON_PRELOAD", lease.DEFAULT_PRELOAD).split(",") if name]
    loaded.add()
    idle_s = float(os.environ.get("LEPTON_FORKSERVER_IDLE", lease.IDLE_S))
    last_asked = time.monotonic()
    gc.freeze()
    while time.monotonic() - last_asked < idle_s:
        if select.select([listener], [], [], 0 if waiting else min(LOOK_S, idle_s))[0]:
            if (asked := _asked(listener)) and not _refused(*asked):
                last_asked = time.monotonic()
                if not path.exists() or not _answer(*asked, loaded):
                    break
        elif waiting:
            _preload(waiting.pop(0))
            if not waiting:
                _exercise()
            loaded.add()
            gc.collect()
            gc.freeze()
        elif not path.exists():
            break
    path.unlink(missing_ok=True)
    fcntl.flock(lock, fcntl.LOCK_UN)  # who asked last sees the connection close, and may start the next one at once
    os._exit(0)


def _preload(name: str) -> None:
    """Import a module as a kernel would; one that checks whether it runs in a notebook, as pandas does, finds so."""
    builtins.get_ipython = lambda: SimpleNamespace(kernel=None)  # type: ignore[attr-defined]  # what a shell adds there
    try:
        importlib.import_module(name)
    except ImportError:
        pass  # a kernel that needs it says so itself
    finally:
        del builtins.get_ipython  # type: ignore[attr-defined]


def _exercise() -> None:
    """Do once what every process from here would do: draw a figure, show a table, list packages, check a notebook."""
    import nbformat
    from typer.main import get_command

    from lepton_kit.cli import app
    from lepton_kit.runs import manifest

    manifest.packages()
    manifest.code_sha256()
    nbformat.validate(nbformat.v4.new_notebook(cells=[nbformat.v4.new_code_cell("")]))
    get_command(app)
    _openblas()
    if "pandas" in sys.modules:
        import pandas

        table = pandas.DataFrame({"a": [1.0, 2.0]}).describe()
        table.to_html()
        str(table)
    if "matplotlib.pyplot" in sys.modules:  # of which nothing is touched: it has state
        from matplotlib.backends.backend_agg import FigureCanvasAgg
        from matplotlib.figure import Figure

        figure = Figure()
        FigureCanvasAgg(figure)
        axes = figure.subplots()
        axes.plot([0.0, 1.0], [0.0, 1e-3], label="a")
        axes.set(title="a", xlabel="a", ylabel="a")
        axes.legend()
        for kind in ("png", "svg"):
            figure.savefig(io.BytesIO(), format=kind, bbox_inches="tight")


class _Loaded:
    """The files of all loaded modules, as they were when they were loaded."""

    def __init__(self) -> None:
        self.began = time.time_ns()  # a file changed later may have been read before or after that
        self.stamps: dict[str, tuple[int, int] | None] = {}

    def add(self) -> None:
        """Note the files of the modules that were loaded since this was last called."""
        for module in list(sys.modules.values()):
            file = getattr(module, "__file__", None)
            if file and file not in self.stamps:
                stamp = _stamp(file)
                self.stamps[file] = (0, 0) if stamp and stamp[0] >= self.began else stamp

    def have_changed(self) -> bool:
        return any(_stamp(file) != stamp for file, stamp in self.stamps.items())


def _stamp(file: str) -> tuple[int, int] | None:
    try:
        found = os.stat(file)  # noqa: PTH116 - of thousands of files, before every answer
    except OSError:
        return None
    return found.st_mtime_ns, found.st_size


def _is_unsafe() -> bool:
    torch = sys.modules.get("torch")
    return len(list(Path("/proc/self/task").iterdir())) > 1 or bool(torch and torch.cuda.is_initialized())


def _asked(listener: socket.socket) -> tuple[socket.socket, dict[str, Any], list[int]] | None:
    """Take in what somebody asks; None where it was nothing, such as a look whether a server is there."""
    connection, _ = listener.accept()
    connection.settimeout(1.0)
    try:
        request, files = _receive(connection)
    except (OSError, ValueError):
        connection.close()
        return None
    connection.settimeout(None)
    return connection, request, files


def _refused(connection: socket.socket, request: Mapping[str, Any], files: list[int]) -> bool:
    """Refuse who is held to other limits than this process, and any fork of it; return whether that was so."""
    asked, ours = request.get("limits", {}), lease.limits()
    if not (differing := [name for name, value in ours.items() if asked.get(name) != value]):
        return False
    name = differing[0]
    say(connection, refused=f"its {name} is {asked.get(name)!r}, and that of the fork server {ours[name]!r}")
    connection.close()
    for file in files:
        os.close(file)
    return True


def _answer(connection: socket.socket, request: dict[str, Any], files: list[int], loaded: _Loaded) -> bool:
    """Have what is asked for done in a fork, under a watchdog; return whether this server may go on."""
    if loaded.have_changed() or _is_unsafe():
        return False
    if os.fork() == 0:
        _close_all_but(connection.fileno(), *files)  # the lock above all: it says whether a server lives
        signal.signal(signal.SIGCHLD, signal.SIG_DFL)
        if not may_start(connection):
            os._exit(0)
        run = {"kernel": _run_kernel, "command": _run_command}[request["kind"]]
        is_command, argv = request["kind"] == "command", request["argv"]
        guard(
            connection, lambda: _in_its_place(request, files, run), ask_first=is_command,
            clean_up=lambda: None if is_command else remove_connection(argv),
        )  # fmt: skip
    connection.close()
    for file in files:
        os.close(file)
    return True


def _close_all_but(*kept: int) -> None:
    """Close what a watchdog does not need; standard streams stay."""
    for entry in list(Path("/proc/self/fd").iterdir()):
        if int(entry.name) > 2 and int(entry.name) not in kept:
            with suppress(OSError):  # the listing's own
                os.close(int(entry.name))


def _receive(connection: socket.socket) -> tuple[dict[str, Any], list[int]]:
    """Receive what `lease.send_request` sent, and the files with it.

    Raises OSError when another user asks, or the other end closed before the message was whole.
    """
    credentials = connection.getsockopt(socket.SOL_SOCKET, socket.SO_PEERCRED, struct.calcsize("3i"))
    if struct.unpack("3i", credentials)[1] != os.getuid():
        raise PermissionError("another user asks")
    files = array.array("i")
    head, ancillary, _, _ = connection.recvmsg(4, socket.CMSG_LEN(MOST_FILES * files.itemsize))
    for _, _, content in ancillary:
        files.frombytes(content[: len(content) - len(content) % files.itemsize])
    size, content = int.from_bytes(head, "big"), b""
    if not head:
        raise ConnectionError("closed without a request")
    while len(content) < size:
        if not (piece := connection.recv(min(65536, size - len(content)))):
            raise ConnectionError("the request breaks off")
        content += piece
    return json.loads(content), list(files)


def _in_its_place(request: dict[str, Any], files: list[int], run: Callable[[list[str]], int]) -> int:
    """Make this forked process what a new one would be, and run."""
    for number, file in enumerate(files):
        os.dup2(file, number)
    _open_standard_streams()
    name_process("python")
    _close_all_but()
    os.environ.clear()
    os.environ.update(request["env"])
    time.tzset()
    for finalizer in list(weakref.finalize._registry):  # type: ignore[attr-defined]
        finalizer.atexit = False  # what the server's imports left to do at its own end (torch: a hundred operators)
    _use_threads_as_asked()
    os.umask(request["umask"])
    os.chdir(request["cwd"])
    sys.argv = request["argv"]
    _renew_random_generators()
    gc.enable()
    try:
        return run(request["argv"])
    finally:
        _leave()


def _open_standard_streams() -> None:
    """Make the streams anew: the server's own were made for other files, which cannot do the same."""
    for number, name in enumerate(("stdin", "stdout", "stderr")):
        old = getattr(sys, name)
        stream = os.fdopen(
            number, "r" if number == 0 else "w", closefd=False,
            encoding=old.encoding, errors=old.errors, buffering=1 if number == 2 or os.isatty(number) else -1,
        )  # fmt: skip
        setattr(sys, name, stream)
        setattr(sys, f"__{name}__", stream)


def _run_kernel(argv: list[str]) -> int:
    from lepton_kit.runs.warm.kernel import KernelApp

    if matplotlib := sys.modules.get("matplotlib"):
        matplotlib.rcParams["backend"] = os.environ.get("MPLBACKEND") or INLINE
    app: Any = KernelApp.instance()
    # ipykernel read its parent's number from the environment when it was imported, which was before this process was.
    app.initialize([*argv[1:], f"--IPKernelApp.parent_handle={os.getppid()}"])
    app.run_to_its_end()
    return 0


def _run_command(argv: list[str]) -> int:
    from lepton_kit.cli import main

    main()
    return 0


def _renew_random_generators() -> None:
    """Give each process its own randomness, as a new one has."""
    import random

    random.seed()
    if numpy := sys.modules.get("numpy"):
        numpy.random.seed()
    if torch := sys.modules.get("torch"):
        torch.default_generator.seed()


def _use_threads_as_asked() -> None:
    if "numpy" in sys.modules and "OPENBLAS_NUM_THREADS" not in os.environ:
        _openblas().limit(limits=_cores())


@cache
def _openblas() -> Any:
    """Find OpenBLAS among the libraries of this process, which takes milliseconds: once in the server."""
    from threadpoolctl import ThreadpoolController

    return ThreadpoolController().select(internal_api="openblas")


def _cores() -> int:
    return int(os.environ.get("OMP_NUM_THREADS", "").split(",")[0] or len(os.sched_getaffinity(0)))


def _leave() -> None:
    """End as an interpreter does, short of taking everything down piece by piece."""
    import atexit
    import threading

    threading._shutdown()  # type: ignore[attr-defined]  # waits for threads, as an interpreter's end does
    atexit._run_exitfuncs()


def main() -> None:
    """Serve at a path while holding its lock."""
    sys.path[:] = [entry for entry in sys.path if entry not in ("", "/")]
    serve(Path(sys.argv[1]), lock=int(sys.argv[2]))


if __name__ == "__main__":
    main()
