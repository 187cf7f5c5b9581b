"""Saves a notebook while it runs: whole or not at all, at most once a second, in at most a tenth of the time."""

from __future__ import annotations

import copy
import json
import time
from collections.abc import Callable
from math import isfinite
from typing import Any

from nbformat import NotebookNode
from nbformat.v4.rwbase import split_lines, strip_transient

from lepton_kit.notebook import CHECKPOINT, END, EXPECTATION, INPUT, RESULT
from lepton_kit.runs.redaction import Redactor

SHORTEST_PAUSE_S = 1.0
LARGEST_SHARE = 0.1  # of the time, that saving may take
OUTPUT_WORDS = {"text", "ename", "evalue", "traceback", "metadata"}
MEDIA_TYPES = {"text/plain", "text/html", "text/markdown", "text/latex", "application/json", "application/javascript"}
MEDIA_TYPES |= {"image/png", "image/jpeg", "image/gif", "image/svg+xml", RESULT, EXPECTATION, INPUT, CHECKPOINT, END}
NOTED = {"kernelspec", "language_info", "papermill", "execution", "tags"}  # what Jupyter and the engine note


class NotebookSaver:
    """Saves a notebook whenever that is due; `write` takes it as JSON text in UTF-8, and keeps it whole or not at all.

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
        """Save now; while it is `running`, the end of a stream may be the beginning of a secret, and is held back."""
        started = time.monotonic()
        self.write(self.as_json(running))
        ended = time.monotonic()
        self.due = ended + max(SHORTEST_PAUSE_S, (ended - started) / LARGEST_SHARE)

    def as_json(self, running: bool = False) -> bytes:
        """Return the notebook as nbformat writes it."""
        notebook = copy.deepcopy(self.notebook)
        if self.redactor:
            _redact_metadata(notebook.metadata, self.redactor)
            for cell in notebook.cells:
                if running:
                    _hold_back(cell, self.redactor)
                redact_cell(cell, self.redactor)
        return _dumps(split_lines(strip_transient(notebook))) + b"\n"


def redact_cell(cell: NotebookNode, redactor: Redactor) -> None:
    """Take the values of secrets out of all that a cell says; the format's own words stay, whatever a value is."""
    for part in ("source", "attachments"):
        if part in cell:
            cell[part] = redactor.json(cell[part])
    _redact_metadata(cell.metadata, redactor)
    for output in cell.get("outputs", []):
        for part in OUTPUT_WORDS & output.keys():
            output[part] = redactor.json(output[part])
        if "data" in output:
            # A media type may be anything that a notebook made up.
            output.data = {
                kind if kind in MEDIA_TYPES else redactor.text(kind): redactor.json(shown)
                for kind, shown in output.data.items()
            }


def _redact_metadata(metadata: NotebookNode, redactor: Redactor) -> None:
    for key in [key for key in metadata if key not in NOTED]:
        metadata[redactor.text(key)] = redactor.json(metadata.pop(key))
    if "parameters" in metadata.get("papermill", {}):
        metadata.papermill.parameters = redactor.json(metadata.papermill.parameters)


def _hold_back(cell: NotebookNode, redactor: Redactor) -> None:
    """Cut off what may be the first half of a secret, whose second half is still to come."""
    if cell.metadata.get("papermill", {}).get("status") == "running":
        for output in cell.get("outputs", [])[-1:]:
            if output.output_type == "stream" and (held := redactor.split(output.text)[1]):
                output.text = output.text[: -len(held)]


def _dumps(node: Any) -> bytes:
    options: dict[str, Any] = {"sort_keys": True, "indent": 1, "separators": (",", ": "), "allow_nan": False}
    try:
        return json.dumps(node, ensure_ascii=False, **options).encode()
    except UnicodeEncodeError:  # half of a surrogate pair, which UTF-8 has no bytes for
        return json.dumps(node, **options).encode()
    except (TypeError, ValueError):  # such as NaN, or a tuple's key, among the values that papermill was given
        return _dumps(_as_json(node))


def _as_json(value: Any) -> Any:
    if isinstance(value, dict):
        return {str(key): _as_json(item) for key, item in value.items()}
    if isinstance(value, list):
        return [_as_json(item) for item in value]
    is_json = value is None or isinstance(value, bool | int | str) or (isinstance(value, float) and isfinite(value))
    return value if is_json else str(value) if isinstance(value, float) else repr(value)
