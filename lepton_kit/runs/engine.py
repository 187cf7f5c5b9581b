"""The papermill engine `lepton`: tells the truth about every cell, keeps deadlines, saves whole files seldom.

papermill loads this module by its entry point while it is being imported itself. So nothing else imports it: code
that wants the engine imports papermill and names it.
"""

from __future__ import annotations

import logging
import math
import signal
import time
from collections.abc import Callable, Iterator
from contextlib import suppress
from dataclasses import dataclass, fields, replace
from pathlib import Path
from typing import Any

import zmq
from jupyter_core.utils import run_sync
from nbclient.exceptions import CellExecutionComplete, CellExecutionError, DeadKernelError
from nbformat import NotebookNode
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine
from papermill.iorw import LocalHandler, papermill_io, write_ipynb

from lepton_kit.errors import CellTimedOut, InputError, LeptonError, RunTimedOut, TimedOut
from lepton_kit.files import write_atomically
from lepton_kit.notebook import was_not_run
from lepton_kit.runs.client import LocalClient
from lepton_kit.runs.interrupts import deferred, deliver
from lepton_kit.runs.notebooks import is_counted
from lepton_kit.runs.outputs import Allowance, beginning_of, note
from lepton_kit.runs.record import TruthfulManager
from lepton_kit.runs.redaction import Redactor, redacted_file
from lepton_kit.runs.warm.provisioner import LeptonProvisioner

LONGEST_POLL_S = 0.25  # how late a dead kernel, a deadline or a due save may be noticed
GRACE_S = 2.0  # how long an interrupted cell may take to clean up, before its kernel is killed
END_POLL_S = 0.01
ASK_AGAIN_S = 0.05  # a kernel's first status can be lost while its subscriber is still connecting
LONGEST_SILENCE_S = 10.0  # between a cell's reply and the end of its output
EVENTS_PER_SECOND = 5  # of output lines
CONTENT_FRAME = 4  # of a message: after its signature, its header, its parent's and its metadata
RECONNECT_MS = 5  # a kernel's sockets are there as soon as it has bound them

logger = logging.getLogger(__name__)


@dataclass(frozen=True)
class EngineOptions:
    """What `lepton run` asks of the engine, beside what papermill passes.

    Parameters
    ----------
    cell_timeout, run_timeout
        How long, in seconds, a cell may run, and the whole run, counted from its kernel's start; None is for ever.
    save_path
        Where to save; by default at papermill's `output_path`.
    source_path
        Where the notebook was read from, if papermill was given it read already.
    redactor
        Takes secrets' values out of everything that is saved or told.
    reserve
        File that keeps space for the last save on a disk that is full by then.
    kernel_env, kernel_cwd
        Environment and working directory of the kernel alone: this process' own are not touched.
    kernel_log
        File for what the kernel's process itself writes, outside of any cell; by default it goes to the terminal.
    on_event
        Called with `cell_started` and `cell_ended` of each code cell, its number (from 1), how many there are and no
        text, and now and then with `cell_output` and the last line of its output.
    keep_kernel, on_kept
        For how many seconds the kernel of a failed run stays; `on_kept` receives its connection file.
    """

    cell_timeout: float | None = None
    run_timeout: float | None = None
    save_path: Path | None = None
    source_path: Path | None = None
    redactor: Redactor | None = None
    reserve: Path | None = None
    kernel_env: dict[str, str] | None = None
    kernel_cwd: str | None = None
    kernel_log: Path | None = None
    on_event: Callable[[str, int, int, str], None] = lambda kind, number, total, text: None
    keep_kernel: float | None = None
    on_kept: Callable[[str], None] = lambda connection_file: None


class LeptonClient(LocalClient, PapermillNotebookClient):  # type: ignore[misc]
    """Drives one kernel through one notebook.

    nbclient waits for three asyncio tasks per cell. Here one loop looks at the kernel's two sockets, and at the clock
    for deadlines, due saves and a dead kernel.
    """

    km: Any  # nbclient calls them optional; here they are there from the start of `execute` on
    kc: Any

    def __init__(self, nb_man: TruthfulManager, options: EngineOptions, start_timeout: float, **traits: Any) -> None:
        super().__init__(nb_man, **traits)
        self.options = options
        self.start_timeout = start_timeout
        self.keep_kernel = options.keep_kernel
        self.started = time.monotonic()
        self.total = sum(map(is_counted, self.nb.cells))
        self.number = 0
        self.chunks: list[str] = []  # of the stream that is the present cell's last output
        self.allowance = Allowance()
        self.has_news = True  # since the last save
        self.next_alive_check = 0.0
        self.next_output_event = 0.0

    def execute(self, **options: Any) -> Any:
        """Run the notebook in a kernel of its own, which is gone afterwards.

        Raises
        ------
        CellTimedOut, RunTimedOut
            When time ran out; the cell was interrupted, and its kernel killed if it went on for 2 s.
        DeadKernelError
            When the kernel died.
        LeptonError
            When part of a cell's output was lost on its way.
        """
        self.reset_execution_trackers()
        self.km = self.create_kernel_manager()
        failed = True
        try:
            self.start_new_kernel(**options)
            self._open_channels()
            self._await_kernel()
            failed = not self._run_cells()
            self.set_widgets_metadata()
        except BaseException:
            self.shutdown_kernel = "immediate"  # whatever it is doing now, nobody waits for it any more
            raise
        finally:
            self._let_go(failed)
        return self.nb

    def _open_channels(self) -> None:
        self.kc = self.km.blocking_client()
        self.kc.context.setsockopt(zmq.RECONNECT_IVL, RECONNECT_MS)
        self.kc.context.setsockopt(zmq.RCVHWM, 0)  # no output is dropped because it comes too fast
        self.kc.start_channels(shell=True, iopub=True, stdin=False, hb=False, control=False)
        self.kc.allow_stdin = False
        self.shell, self.iopub = self.kc.shell_channel.socket, self.kc.iopub_channel.socket
        self.poller = zmq.Poller()
        self.poller.register(self.shell, zmq.POLLIN)
        self.poller.register(self.iopub, zmq.POLLIN)

    def _await_kernel(self) -> None:
        """Wait until the kernel answers and its output arrives."""
        deadline = self.started + self.start_timeout
        ask_again, heard, info = 0.0, False, None
        while not (info and heard):
            now = time.monotonic()
            if now >= ask_again:
                self.kc.kernel_info()
                ask_again = now + (ASK_AGAIN_S if info else 1.0)
            if now > deadline:
                raise DeadKernelError(f"Kernel did not answer within {self.start_timeout:g} s of its start")
            self._poll(until=min(ask_again, deadline))
            heard |= any(True for _ in self._received(self.iopub))
            for message in self._received(self.shell):
                if message["msg_type"] == "kernel_info_reply":
                    info = message["content"]
                    ask_again = min(ask_again, time.monotonic() + ASK_AGAIN_S)
        if "language_info" in info:
            self.nb.metadata["language_info"] = info["language_info"]
        self.prepare_kernel()

    def _run_cells(self) -> bool:
        """Run the cells in order, up to the first that fails; return whether none did."""
        for index, cell in enumerate(self.nb.cells):
            if cell.cell_type != "code":
                self.nb_man.cell_start(cell, index)
                self.nb_man.cell_ended(cell, self.nb_man.COMPLETED)
                continue
            self.number += is_counted(cell)
            if self.skip_cells_with_tag in cell.metadata.get("tags", []):
                continue
            self.options.on_event("cell_started", self.number, self.total, "")
            self.nb_man.cell_start(cell, index)
            status = self.nb_man.INTERRUPTED
            try:
                status = self._run_cell(cell, index)
            except (DeadKernelError, CellExecutionError, LeptonError) as error:
                status = self.nb_man.INTERRUPTED if isinstance(error, TimedOut) else self.nb_man.FAILED
                raise
            finally:
                self._join_chunks(cell)
                if left_out := self.allowance.end_cell():
                    cell.outputs.append(note(left_out))
                if was_not_run(cell):
                    status = self.nb_man.NOT_RUN
                self.nb_man.cell_ended(cell, status)
                self.options.on_event("cell_ended", self.number, self.total, "")
            if status == self.nb_man.FAILED:
                return False  # papermill itself reads the error from the cell's outputs
        return True

    def _run_cell(self, cell: Any, index: int) -> str:
        cell.outputs, cell.execution_count = [], None
        if not cell.source.strip():
            return str(self.nb_man.COMPLETED)
        if self.record_timing:
            cell.metadata["execution"] = {}
        self.clear_before_next_output = False
        allowed = self.allow_errors or "raises-exception" in cell.metadata.get("tags", [])
        asked = self.kc.execute(cell.source, stop_on_error=not allowed)
        deadline, too_late = self._deadline()
        try:
            reply = self._await_cell(asked, cell, index, deadline)
        except BaseException as stopped:
            if not isinstance(stopped, DeadKernelError | LeptonError):
                self._stop_cell(asked, cell, index)
            raise
        if reply is None:
            self._stop_cell(asked, cell, index)
            raise too_late
        cell.execution_count = reply.get("execution_count", cell.execution_count)
        wrong = reply["status"] == "error" and not allowed and reply.get("ename") not in self.allow_error_names
        if wrong and not any(output.output_type == "error" for output in cell.outputs):
            # IPython says some errors, such as an unknown magic, on stderr alone.
            said = {part: str(reply.get(part) or "") for part in ("ename", "evalue")}
            cell.outputs.append(NotebookNode(output_type="error", **said, traceback=[]))
        return str(self.nb_man.FAILED if wrong else self.nb_man.COMPLETED)

    def _deadline(self) -> tuple[float, TimedOut]:
        """Return when the cell that starts now must have ended, and what it means if it has not."""
        cell_s, run_s = self.options.cell_timeout, self.options.run_timeout
        of_cell = time.monotonic() + cell_s if cell_s else float("inf")
        of_run = self.started + run_s if run_s else float("inf")
        if of_cell < of_run:
            said = f"cell {self.number} was stopped: it ran longer than the {cell_s:g} s that a cell may take"
            return of_cell, CellTimedOut(said)
        said = f"the run was stopped in cell {self.number}: it took longer than the {run_s or 0:g} s that it may take"
        return of_run, RunTimedOut(said)

    def _await_cell(self, asked: str, cell: Any, index: int, deadline: float) -> dict[str, Any] | None:
        """Take in a cell's output until it has ended; return its reply, or None when the deadline passed."""
        reply: dict[str, Any] | None = None
        ended, heard = False, time.monotonic()
        while not (ended and reply):
            now = time.monotonic()
            if now >= deadline:
                return None
            if reply and now - heard > LONGEST_SILENCE_S:
                raise LeptonError(f"code cell {self.number} has ended, but the end of its output did not arrive")
            self._poll(until=min(deadline, self.nb_man.saver.due))
            for message in self._received(self.iopub):
                heard = time.monotonic()
                if message["parent_header"].get("msg_id") == asked:
                    ended |= self._take_in(message, cell, index)
            for message in self._received(self.shell):
                if message["parent_header"].get("msg_id") == asked:
                    reply, heard = message["content"], time.monotonic()
            if time.monotonic() >= self.nb_man.saver.due:
                if self.has_news:
                    self._join_chunks(cell)
                    self.has_news = False
                    self.nb_man.save()
                else:
                    self.nb_man.saver.put_off()
        return reply

    def _take_in(self, message: dict[str, Any], cell: Any, index: int) -> bool:
        """Take in one message of a cell's output; return whether it was the last."""
        last: Any = cell.outputs[-1] if cell.outputs else None
        content = message["content"]
        if message["msg_type"] == "stream":
            if content is None:
                return False
        elif not self.allowance.takes(message["msg_type"], message["size"], content):
            return False
        self.has_news = True
        if self._continues(last, message):
            if not self.chunks:
                self.chunks = [last.text]  # joined once, not with every chunk: that would be of quadratic cost
            self.chunks.append(content["text"])
            self.log_output_message(type(last)(output_type="stream", **content))
            self._tell(content["text"])
            return False
        self._join_chunks(cell)
        try:
            output = self.process_message(message, cell, index)
        except CellExecutionComplete:
            return True
        if output is not None:
            self._tell(output.get("text") or output.get("data", {}).get("text/plain", ""))
        return False

    def _continues(self, last: Any, message: dict[str, Any]) -> bool:
        return (
            message["msg_type"] == "stream"
            and last is not None
            and last.output_type == "stream"
            and last.name == message["content"]["name"]
            and not self.clear_before_next_output
            and not self.output_hook_stack[message["parent_header"].get("msg_id")]
        )

    def _join_chunks(self, cell: Any) -> None:
        if self.chunks:
            cell.outputs[-1].text = "".join(self.chunks)
            self.chunks = []

    def _tell(self, text: str) -> None:
        now = time.monotonic()
        if now < self.next_output_event:
            return
        tail = "".join(text[-2000:]).replace("\r", "\n")
        if lines := [line for line in tail.splitlines() if line.strip()]:
            redactor = self.nb_man.saver.redactor
            line = redactor.text(lines[-1]) if redactor else lines[-1]
            self.options.on_event("cell_output", self.number, self.total, line[-200:])
            self.next_output_event = now + 1 / EVENTS_PER_SECOND

    def _stop_cell(self, asked: str, cell: Any, index: int) -> None:
        """Interrupt a cell and read its last output; one that continues is killed with its kernel."""
        try:
            run_sync(self.km.interrupt_kernel)()
            ended = self._await_cell(asked, cell, index, deadline=time.monotonic() + GRACE_S)
        except (DeadKernelError, LeptonError, RuntimeError) as error:
            logger.debug("the kernel could not be interrupted: %s", error)
            ended = None
        if ended is None:
            run_sync(self.km.shutdown_kernel)(now=True)
            self.keep_kernel = None  # there is none left

    def _poll(self, until: float) -> None:
        """Wait until the kernel says something, but not longer than until a moment of the monotonic clock."""
        deliver()
        now = time.monotonic()
        if now >= self.next_alive_check:
            self.next_alive_check = now + LONGEST_POLL_S
            self._check_alive()
        self.poller.poll(math.ceil(1000 * max(0.0, min(until - now, LONGEST_POLL_S))))

    def _check_alive(self) -> None:
        code = run_sync(self.km.provisioner.poll)() if self.km.has_kernel else 0
        if code is not None:
            self.keep_kernel = None
            raise DeadKernelError(f"Kernel died{_how(code)}")

    def _received(self, socket: Any) -> Iterator[dict[str, Any]]:
        """Yield the messages that have arrived, few enough at a time that the clock is checked in between."""
        session = self.kc.session
        for _ in range(200):
            try:
                frames = session.feed_identities(socket.recv_multipart(zmq.NOBLOCK))[1]
            except zmq.Again:
                return
            message = session.deserialize(frames, content=False)
            message["content"] = self._content_of(message["msg_type"], frames[CONTENT_FRAME])
            yield {**message, "size": len(frames[CONTENT_FRAME])}

    def _content_of(self, kind: str, content: bytes) -> dict[str, Any] | None:
        """Decode a message's content, or of a stream's what may be kept; what is too much takes much memory as well."""
        kept = self.allowance.keeps(len(content)) if kind == "stream" else len(content)
        if kept < len(content):
            return beginning_of(content, kept)
        if kept > self.allowance.of_cell and not kind.endswith("_reply"):
            return None
        decoded: dict[str, Any] = self.kc.session.unpack(content)
        return decoded

    def _let_go(self, failed: bool) -> None:
        if failed and self.keep_kernel and self.km.has_kernel and hasattr(self.km.provisioner, "keep"):
            self.km.provisioner.keep(self.keep_kernel)
            self.km._connection_file_written = False  # the manager would remove it, and nobody could attach
            self.kc.stop_channels()
            self.options.on_kept(self.km.connection_file)
            return
        try:
            if not failed:
                self._end_politely()
        finally:
            self._cleanup_kernel()

    def _end_politely(self) -> None:
        """Let the kernel end by itself; the manager's own way looks only ten times a second whether it has."""
        run_sync(self.km.request_shutdown)()
        self.nb_man.notebook_complete()  # no cell runs any more; saving takes as long as a part of the kernel's end
        provisioner, deadline = self.km.provisioner, time.monotonic() + GRACE_S
        if isinstance(provisioner, LeptonProvisioner) and provisioner.process is not None:
            provisioner.process.wait(GRACE_S)
        while run_sync(provisioner.poll)() is None and time.monotonic() < deadline:
            time.sleep(END_POLL_S)


class LeptonEngine(NBClientEngine):  # type: ignore[misc]
    """Runs a notebook in a kernel with its own working directory and environment: `papermill --engine lepton`."""

    @classmethod
    def execute_notebook(
        cls,
        nb: Any,
        kernel_name: str,
        output_path: str | None = None,
        progress_bar: bool | dict[str, Any] = True,
        log_output: bool = False,
        start_timeout: float = 60,
        execution_timeout: float | None = None,
        stdout_file: Any = None,
        stderr_file: Any = None,
        **given: Any,
    ) -> Any:
        """Execute a notebook that papermill has parameterised, and save it as it goes.

        `given` has the fields of `EngineOptions`, and what papermill passes beside; times are in seconds.
        """
        known = {field.name for field in fields(EngineOptions)}
        options = EngineOptions(**{name: value for name, value in given.items() if name in known})
        if options.cell_timeout is None:
            options = replace(options, cell_timeout=execution_timeout)
        if options.source_path is not None:
            nb.metadata.papermill["input_path"] = str(options.source_path)
        write = _writer(nb, options.save_path, output_path)
        manager = TruthfulManager(nb, write, options.redactor, options.reserve,
                                  progress_bar=progress_bar, log_output=log_output)  # fmt: skip
        client = LeptonClient(manager, options, start_timeout, kernel_name=kernel_name, log_output=log_output,
                              stdout_file=stdout_file, stderr_file=stderr_file)  # fmt: skip
        with deferred():  # an interrupt comes in `_poll`: a kernel half started could never be let go
            manager.notebook_start()
            try:
                with redacted_file(options.kernel_log, options.redactor) as log:
                    places = {"env": options.kernel_env, "cwd": options.kernel_cwd, "stdout": log, "stderr": log}
                    client.execute(**{name: value for name, value in places.items() if value is not None})
            except BaseException:
                with suppress(InputError):  # why it ended comes first
                    manager.notebook_complete()
                raise
            manager.notebook_complete()
        return manager.nb


def _writer(nb: Any, save_path: Path | None, output_path: str | None) -> Callable[[bytes], None]:
    """Return what saves a notebook: atomically where it is an ordinary file, else as papermill writes it."""
    if save_path is None and not output_path:
        return lambda content: None
    if save_path is None and not isinstance(papermill_io.get_handler(output_path), LocalHandler):
        return lambda content: write_ipynb(nb, output_path)
    path = Path(save_path or str(output_path)).resolve()  # a link stays a link
    if path.exists() and not path.is_file():  # such as /dev/null, which a rename would replace
        return lambda content: write_ipynb(nb, output_path)
    return lambda content: write_atomically(path, content)


def _how(code: int) -> str:
    """Say how a process ended: by which signal, or with which exit status."""
    if code >= 0:
        return f" (exit status {code})" if code else ""
    name = signal.Signals(-code).name if -code in signal.Signals.__members__.values() else f"signal {-code}"
    return f" (killed by {name}{'; out of memory?' if -code == signal.SIGKILL else ''})"
