"""How much output a run keeps, and what a cell says of what was left out."""

from __future__ import annotations

import json
from collections.abc import Mapping
from contextlib import suppress
from typing import Any

from nbformat import NotebookNode
from nbformat.v4 import new_output

MIB = 2**20
MOST_OF_CELL = 64 * MIB
MOST_OF_RUN = 256 * MIB
SHOWN = ("display_data", "execute_result")
LONGEST_ESCAPE = 12  # characters of JSON for one of text: two halves of a surrogate pair
KIT = "application/vnd.lepton."  # what the kit itself records is small, and is the point of a run


class Allowance:
    """Counts the bytes of a run's output, cell by cell.

    Examples
    --------
    >>> allowance = Allowance(of_cell=10, of_run=100)
    >>> [allowance.keeps(6) for _ in range(3)]
    [6, 4, 0]
    >>> allowance.end_cell()
    'lepton: 0.0 MiB of the output of this cell were left out: a cell keeps 0 MiB, and a run 0 MiB'
    """

    def __init__(self, of_cell: int = MOST_OF_CELL, of_run: int = MOST_OF_RUN) -> None:
        self.of_cell, self.of_run = of_cell, of_run
        self._earlier = self._cell = self._left_out = 0

    def keeps(self, size: int) -> int:
        """Count bytes of a stream; return how many of them, from the beginning, are stored."""
        kept = min(size, self._room())
        self._cell += kept
        self._left_out += size - kept
        return kept

    def takes(self, kind: str, size: int, content: Mapping[str, Any] | None) -> bool:
        """Count a message that is kept whole or not at all; return whether it is. None is too large to be decoded.

        What updates a display counts nothing: it replaces it.
        """
        if kind == "clear_output":
            self._cell = 0
        if content is not None and (kind not in SHOWN or is_kits_own(content)):
            return True
        if content is None or size > self._room():
            self._left_out += size
            return False
        self._cell += size
        return True

    def _room(self) -> int:
        """Return how much the cell may still have: nothing, once anything was left out."""
        return 0 if self._left_out else max(0, min(self.of_cell, self.of_run - self._earlier) - self._cell)

    def end_cell(self) -> str | None:
        """Count the next cell; return what is to be said of the last one's output, if any of it was left out."""
        said = (
            f"lepton: {self._left_out / MIB:,.1f} MiB of the output of this cell were left out: "
            f"a cell keeps {self.of_cell // MIB} MiB, and a run {self.of_run // MIB} MiB"
            if self._left_out
            else None
        )
        self._earlier += self._cell
        self._cell = self._left_out = 0
        return said


def is_kits_own(output: Mapping[str, Any]) -> bool:
    """Say whether an output, or a message of one, is what the kit itself records."""
    return any(kind.startswith(KIT) for kind in output.get("data", {}))


def beginning_of(content: bytes, size: int) -> dict[str, Any] | None:
    r"""Return the content of a message of a stream, with so much of its JSON alone; None where that is no text yet.

    >>> beginning_of(b'{"name": "stdout", "text": "one \\u00fc two"}', 35)
    {'name': 'stdout', 'text': 'one '}
    """
    text = content[:size].decode(errors="ignore")
    for end in range(len(text), max(0, len(text) - LONGEST_ESCAPE), -1):
        with suppress(ValueError):
            found: dict[str, Any] = json.loads(text[:end] + '"}')
            return found if found.get("text") else None
    return None


def note(text: str) -> NotebookNode:
    """Return an output that says something about a cell."""
    made: NotebookNode = new_output("stream", name="stderr", text=text + "\n")
    return made


def without_outputs(cell: NotebookNode, keep_kits_own: bool) -> list[NotebookNode]:
    """Return the kit's own outputs of a cell, or none, with a note about what was left out."""
    outputs: list[NotebookNode] = cell.get("outputs", [])
    kept = [output for output in outputs if keep_kits_own and is_kits_own(output)]
    if len(kept) == len(outputs):
        return kept
    return [*kept, note(f"lepton: {len(outputs) - len(kept)} outputs of this cell were left out: the disk was full")]
