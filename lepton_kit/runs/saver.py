"""Saves a notebook while it runs: whole or not at all, at most once a second, and only what changed is written anew."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from typing import Any

from nbformat import NotebookNode
from nbformat.v4.rwbase import split_lines, strip_transient

from lepton_kit.runs.redaction import Redactor

SHORTEST_PAUSE_S = 1.0
LARGEST_SHARE = 0.1  # of the time, that saving may take


class NotebookSaver:
    """Saves a notebook whenever that is due; the JSON of cells that did not change since is kept from the last time.

    Parameters
    ----------
    notebook
        The notebook that is being run.
    write
        Takes the notebook as JSON text in UTF-8, and keeps it whole or not at all.
    redactor
        What takes secrets' values out of everything that is saved.

    Examples
    --------
    >>> from nbformat import v4
    >>> saved = []
    >>> saver = NotebookSaver(v4.new_notebook(cells=[v4.new_markdown_cell("# Words")]), saved.append)
    >>> saver.save_if_due(), saver.save_if_due(), len(saved)
    (True, False, 1)
    """

    def __init__(
        self, notebook: NotebookNode, write: Callable[[bytes], None], redactor: Redactor | None = None
    ) -> None:
        self.notebook = notebook
        self.write = write
        self.redactor = redactor
        self.due = 0.0
        self._written_cells: dict[int, bytes] = {}

    def changed(self, index: int) -> None:
        """Note that a cell is no longer what was saved last."""
        self._written_cells.pop(index, None)

    def save_if_due(self) -> bool:
        """Save, if the last save is long enough ago; return whether it was."""
        if time.monotonic() < self.due:
            return False
        self.save(running=True)
        return True

    def put_off(self) -> None:
        """Let the next save be due later, as if one had been made: there is nothing new, or no room."""
        self.due = time.monotonic() + SHORTEST_PAUSE_S

    def save(self, running: bool = False) -> None:
        """Save now.

        Parameters
        ----------
        running
            More output may come, so the end of a stream may be the beginning of a secret: it is held back.
        """
        started = time.monotonic()
        self.write(self.as_json(running))
        ended = time.monotonic()
        self.due = ended + max(SHORTEST_PAUSE_S, (ended - started) / LARGEST_SHARE)

    def as_json(self, running: bool = False) -> bytes:
        """Return the notebook as nbformat writes it."""
        cells = [self._cell_json(index, running) for index in range(len(self.notebook.cells))]
        # sort_keys puts the cells first, so theirs is the first place that reads so
        frame = strip_transient(NotebookNode({**self.notebook, "cells": []}))
        before, empty, after = _dumps(self._redacted(frame)).partition(b'"cells": []')
        filled = b'"cells": [\n  ' + b",\n  ".join(cells) + b"\n ]" if cells else empty
        return before + filled + after + b"\n"

    def _cell_json(self, index: int, running: bool) -> bytes:
        if index not in self._written_cells:
            cell = copy.deepcopy(self.notebook.cells[index])
            if running and self.redactor:
                _hold_back(cell, self.redactor)
            cell = self._redacted(cell)
            cell.metadata.pop("trusted", None)
            [cell] = split_lines(NotebookNode(cells=[cell])).cells
            # No JSON string holds a raw line break, so every one of them is followed by an indent of ours.
            self._written_cells[index] = _dumps(cell).replace(b"\n", b"\n  ")
        return self._written_cells[index]

    def _redacted(self, node: NotebookNode) -> NotebookNode:
        return _as_nodes(self.redactor.json(node)) if self.redactor else node


def _hold_back(cell: NotebookNode, redactor: Redactor) -> None:
    """Cut off what may be the first half of a secret, whose second half is still to come."""
    for output in cell.get("outputs", [])[-1:]:
        if output.output_type == "stream" and (held := redactor.held_back(output.text)):
            output.text = output.text[:-held]


def _as_nodes(value: Any) -> Any:
    if isinstance(value, dict):
        return NotebookNode({key: _as_nodes(item) for key, item in value.items()})
    return [_as_nodes(item) for item in value] if isinstance(value, list) else value


def _dumps(node: Any) -> bytes:
    options: dict[str, Any] = {"sort_keys": True, "indent": 1, "separators": (",", ": ")}
    try:
        return json.dumps(node, ensure_ascii=False, **options).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 has no bytes for
        return json.dumps(node, **options).encode()
