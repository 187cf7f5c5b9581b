"""A pytest plugin by which nbval compares a notebook with what a run of it left, in place of executing it once more.

Loaded with `pytest --nbval -p replayed`; the environment variable EXECUTED names the run's notebook.
"""

from __future__ import annotations

import os
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import nbformat
from nbval import plugin

A_RUN = re.compile(r"run:\d{8}T\d{6}Z-([\w-]+)-[0-9a-f]{6}/")
"""A pipeline names the very run that an input comes from, where a committed notebook names the newest of its name."""


class Replayed:
    """Stands in for nbval's kernel: the outputs of a cell are those that the run saved of the same source."""

    def __init__(self, *_: Any, **__: Any) -> None:
        self.kc = self
        text = A_RUN.sub(r"run:\1/", Path(os.environ["EXECUTED"]).read_text())
        executed = nbformat.reads(text, 4).cells
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
