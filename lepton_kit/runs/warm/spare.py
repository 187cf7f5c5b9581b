"""A kernel that is ready before anybody asks for it.

The fork server keeps some, started as the last kernel was asked for. Whoever gets one has to wait neither for a fork
nor for IPython. What differs between two runs (working directory, standard streams, the kit's own variables) is set
when it is taken; a user's start-up files and extensions run only then, in the taker's folder.
"""

from __future__ import annotations

import gc
import os
import select
import socket
import sys
from collections.abc import Callable, Mapping
from contextlib import suppress
from pathlib import Path
from typing import Any

import zmq
from ipykernel.kernelapp import IPKernelApp
from traitlets.config import Config

from lepton_kit.runs.warm.wire import receive_request, say

OF_A_RUN = ("LEPTON_", "JPY_")  # beginnings of variables that may differ: nothing reads them before a cell does
OF_A_SHELL = {"PWD", "OLDPWD", "SHLVL", "_"}  # these may differ as well
INLINE = "module://matplotlib_inline.backend_inline"  # what ipykernel itself sets, before anybody imports matplotlib
ANSWER_S = 2.0
IN_MEMORY = "--HistoryManager.hist_file=:memory:"  # a spare that nobody takes shall leave no session in the history


class KernelApp(IPKernelApp):
    """ipykernel's application, which loses no output and does not stall at its end."""

    def init_iopub(self, context: Any) -> None:
        """Make the socket for output without a limit: zmq drops what is beyond it when a client reads slowly."""
        app: Any = super()
        context.sockopts[zmq.SNDHWM] = 0
        app.init_iopub(context)
        del context.sockopts[zmq.SNDHWM]

    def init_code(self) -> None:
        """Run a user's start-up files, once figures are shown as they are kept."""
        from lepton_kit.runs.figures import also_as_svg

        app: Any = super()
        also_as_svg(self.shell)
        app.init_code()

    def run_to_its_end(self) -> None:
        """Run the kernel's loop until it has been asked to shut down, and has answered.

        ipykernel's own end stops the thread that sends output, and then waits for the thread that still answers. When
        the latter wants to flush its output just then, both wait for seconds.
        """
        app: Any = self
        app.start()
        if app.kernel._shutdown_message is not None:  # a kernel that left by `exit` has nothing to answer
            app.control_thread.join(ANSWER_S)


class SpareKernelApp(KernelApp):
    """A kernel application whose users' own code waits for `begin`."""

    def parse_command_line(self, argv: list[str] | None = None) -> None:
        """Parse nothing: what a command line would say is given as traits, and a parser takes milliseconds to make."""

    def init_extensions(self) -> None:
        """Load none yet."""

    def init_code(self) -> None:
        """Run none yet."""

    def begin(self) -> None:
        """Load extensions and run start-up files."""
        app: Any = super()
        app.init_extensions()
        app.init_code()
        sys.stdout.flush()
        sys.stderr.flush()


def shape_of(request: Mapping[str, Any]) -> tuple[Any, ...] | None:
    """Return what a spare and a request must have in common; None where a spare would not do.

    >>> request = {"argv": ["k", "-f", "a.json", IN_MEMORY], "env": {"A": "1", "LEPTON_RUN_DIR": "x"}, "umask": 18,
    ...            "spare": True}
    >>> shape_of(request) == shape_of({**request, "argv": ["k", "-f", "b.json", IN_MEMORY]})
    True
    """
    argv = request["argv"]
    if not request.get("spare") or argv[1:2] != ["-f"] or argv[3:] != [IN_MEMORY]:
        return None
    return tuple(sorted(in_common(request["env"]).items())), request["umask"]


def may_differ(name: str) -> bool:
    """Whether a variable is set only when the spare is taken."""
    return name.startswith(OF_A_RUN) or name in OF_A_SHELL


def in_common(environment: Mapping[str, str]) -> dict[str, str]:
    """Return the environment in which a spare waits."""
    return {name: value for name, value in environment.items() if not may_differ(name)}


def wait_and_run(
    task: socket.socket, address: Path, has_time: bool, on_taken: Callable[[Mapping[str, Any]], None]
) -> int:
    """Make a kernel ready, wait until it is taken, and be that kernel.

    Parameters
    ----------
    task
        Where the request that takes it arrives, with its standard streams; the kernel's connection is answered there.
    address
        Where its sockets are made (zmq's `ipc`).
    has_time
        Whether it may also do what makes its first cells faster.
    on_taken
        Makes the process what the request asks for.
    """
    file = address.with_suffix(".json")
    app: Any = SpareKernelApp.instance(
        connection_file=str(file), transport="ipc", ip=str(address), parent_handle=os.getppid(),
        config=Config({"HistoryManager": {"hist_file": ":memory:"}}),
    )  # fmt: skip
    app.initialize([])
    file.unlink(missing_ok=True)
    gc.freeze()  # what is there by now stays to the end
    if has_time and not select.select([task], [], [], 0)[0]:  # nobody waits for it yet
        _exercise(app.shell)
    try:
        request, files = receive_request(task)
    except ConnectionError:
        return 0  # nobody took it
    for number, stream in ((1, sys.stdout), (2, sys.stderr)):
        _redirect(stream, files[number])
    os.dup2(files[0], 0)
    for taken in files:
        os.close(taken)
    on_taken(request)
    app.connection_file = request["argv"][2]
    here = Path.cwd()
    app.shell.starting_dir = str(here)
    app.shell.history_manager.dir_hist[:] = [here]
    app.begin()
    ports = {f"{name}_port": getattr(app, f"{name}_port") for name in ("shell", "iopub", "stdin", "hb", "control")}
    key, scheme = app.session.key.decode(), app.session.signature_scheme
    say(task, kernel={"transport": "ipc", "ip": str(address), "key": key, "signature_scheme": scheme, **ports})
    task.close()
    app.run_to_its_end()
    return 0


def _exercise(shell: Any) -> None:
    """Show a table and a figure to nobody: the memory that this writes to is the process' own by the first cell."""
    show = shell.display_formatter.format
    if pandas := sys.modules.get("pandas"):
        show(pandas.DataFrame({"a": [1.0, 2.0]}).describe())
    if "matplotlib.pyplot" in sys.modules and sys.modules["matplotlib"].rcParams["backend"] == INLINE:
        from matplotlib import pyplot
        from matplotlib_inline.backend_inline import flush_figures

        figure, axes = pyplot.subplots(figsize=(1, 1))
        axes.plot([0.0, 1.0], [0.0, 1.0])
        axes.set(xticks=[0.0], yticks=[0.0])  # few, since each costs milliseconds
        show(figure)
        pyplot.close(figure)
        flush_figures()  # it has none to show, and forgets that there was one


def remove_sockets(address: Path) -> None:
    """Remove what is left of a spare in the file system."""
    for left in address.parent.glob(f"{address.name}[-.]*"):
        left.unlink(missing_ok=True)


def _redirect(stream: Any, file: int) -> None:
    """Let what a process writes by itself go to a file: ipykernel keeps a copy of the stream for that."""
    with suppress(AttributeError):
        os.dup2(file, stream._original_stdstream_copy)
