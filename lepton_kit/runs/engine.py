"""The papermill engine `lepton`: runs cells through nbclient, reports events, tells the truth about every cell.

papermill loads this module by its entry point while it is being imported itself. So nothing else imports it: whoever
wants the engine imports papermill and names it.
"""

from __future__ import annotations

from collections.abc import Callable
from contextlib import ExitStack
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from nbclient.exceptions import CellExecutionError
from papermill.clientwrap import PapermillNotebookClient
from papermill.engines import NBClientEngine

from lepton_kit.runs.client import LocalClient


@dataclass(frozen=True)
class CellEvent:
    """A code cell starts or has ended; `number` counts the notebook's code cells from 1 to `total`."""

    kind: str
    number: int
    total: int


class LeptonClient(LocalClient, PapermillNotebookClient):  # type: ignore[misc]
    """papermill's client, with events and truthful cell states."""

    def __init__(self, nb_man: Any, on_event: Callable[[CellEvent], None] | None = None, **kwargs: Any) -> None:
        super().__init__(nb_man, **kwargs)
        self.on_event = on_event or (lambda event: None)

    def papermill_execute_cells(self) -> None:
        """Execute the cells in order, up to the first that fails.

        papermill lets a cell whose kernel dies, or that is interrupted, read `completed`, and all cells after it too.
        Here it reads `failed`, and what comes after it stays `pending`.
        """
        total = sum(cell.cell_type == "code" for cell in self.nb.cells)
        number = 0
        for index, cell in enumerate(self.nb.cells):
            number += cell.cell_type == "code"
            self.nb_man.cell_start(cell, index)
            self.on_event(CellEvent("started", number, total))
            try:
                self.execute_cell(cell, index)
            except BaseException as error:
                self.nb_man.cell_exception(cell, cell_index=index, exception=error)
                self.nb_man.cell_complete(cell, cell_index=index)
                if isinstance(error, CellExecutionError):
                    return  # papermill itself reads the error from the cell's outputs
                raise
            self.nb_man.cell_complete(cell, cell_index=index)
            self.on_event(CellEvent("ended", number, total))


class LeptonEngine(NBClientEngine):  # type: ignore[misc]
    """Runs a notebook in a kernel with its own working directory and environment: `papermill --engine lepton`."""

    @classmethod
    def execute_managed_notebook(
        cls,
        nb_man: Any,
        kernel_name: str,
        *,
        start_timeout: int = 60,
        execution_timeout: int | None = None,
        kernel_env: dict[str, str] | None = None,
        kernel_cwd: str | None = None,
        kernel_log: Path | None = None,
        on_event: Callable[[CellEvent], None] | None = None,
        log_output: bool = False,
        stdout_file: Any = None,
        stderr_file: Any = None,
        **_unused: Any,
    ) -> None:
        """Execute a notebook that papermill has parameterised.

        Parameters
        ----------
        nb_man, kernel_name, start_timeout, execution_timeout, log_output, stdout_file, stderr_file
            As papermill passes them; times in seconds.
        kernel_env, kernel_cwd
            Environment and working directory of the kernel alone: this process' own are not touched.
        kernel_log
            File for what the kernel's process itself writes, outside of any cell; by default it goes to the terminal.
        on_event
            Called at the start and the end of each cell.
        """
        client = LeptonClient(
            nb_man,
            on_event=on_event,
            timeout=execution_timeout,
            startup_timeout=start_timeout,
            kernel_name=kernel_name,
            log_output=log_output,
            stdout_file=stdout_file,
            stderr_file=stderr_file,
        )
        with ExitStack() as stack:
            log = stack.enter_context(kernel_log.open("ab")) if kernel_log else None
            options = {"env": kernel_env, "cwd": kernel_cwd, "stdout": log, "stderr": log}
            client.execute(**{key: value for key, value in options.items() if value is not None})
