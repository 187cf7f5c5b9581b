"""A pytest plugin by which nbval compares a notebook with what a run of it left, in place of executing it once more.

Loaded with `pytest --nbval -p replayed`; the environment variable EXECUTED names the run's notebook.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbval import plugin


class Replayed:
    """Stands in for nbval's kernel: the outputs of a cell are those that the run saved of the same source."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.kc = self
        executed = nbformat.read(Path(os.environ["EXECUTED"]), 4).cells
        self._cells = [cell for cell in executed if cell.cell_type == "code" and cell.execution_count]
        self._messages: Iterator[dict[str, Any]] = iter(())

    def execute(self, *_: Any, **__: Any) -> None:
        """Do nothing: nbval's plugin prepares the kernel."""

    def execute_cell_input(self, source: str, **_: Any) -> str:
        found = next((cell for cell in self._cells if cell.source == source), None)
        assert found is not None, f"the run executed no such cell: {source[:200]}"
        self._cells.remove(found)
        shown = [(output.output_type, dict(output)) for output in found.outputs]
        told = [*shown, ("status", {"execution_state": "idle"})]
        self._messages = iter(
            {"msg_type": kind, "content": content, "parent_header": {"msg_id": "1"}} for kind, content in told
        )
        return "1"

    def get_message(self, *_: Any, **__: Any) -> dict[str, Any]:
        return next(self._messages)

    def await_reply(self, *_: Any, **__: Any) -> None: ...

    def is_alive(self) -> bool:
        return True

    def stop(self) -> None: ...


plugin.RunningKernel = Replayed
