"""papermill's record of what became of each cell, without its guesses.

papermill loads the engine, and this with it, while it is being imported itself: nothing else imports either.
"""

from __future__ import annotations

import logging
from collections.abc import Callable
from datetime import datetime
from pathlib import Path
from typing import Any

from papermill.engines import NotebookExecutionManager

from lepton_kit.errors import InputError
from lepton_kit.runs.outputs import without_outputs
from lepton_kit.runs.redaction import Redactor
from lepton_kit.runs.saver import NotebookSaver

logger = logging.getLogger(__name__)


class TruthfulManager(NotebookExecutionManager):  # type: ignore[misc]
    """papermill's record of what became of each cell, without its guesses.

    papermill calls a cell completed whose kernel died, or that was interrupted, and all cells after it too. Here a
    cell that has ended is `completed`, `failed`, `interrupted` or `not run`.
    """

    INTERRUPTED = "interrupted"
    NOT_RUN = "not run"

    def __init__(
        self,
        nb: Any,
        write: Callable[[bytes], None],
        redactor: Redactor | None,
        reserve: Path | None = None,
        **kwargs: Any,
    ) -> None:
        super().__init__(nb, **kwargs)
        self.saver = NotebookSaver(nb, write, redactor)
        self.reserve = reserve
        self.is_complete = False

    def save(self, **_: Any) -> None:
        """Save, if it is due: papermill asks for it after every change.

        What cannot be saved now may be later; the notebook runs on.
        """
        try:
            self.saver.save_if_due()
        except InputError as error:
            logger.warning("not saved for now: %s", error)
            self.saver.put_off()

    def autosave_cell(self) -> None:
        """Save nothing: the client itself asks for what is due, also while a cell is silent."""

    def cell_ended(self, cell: Any, status: str) -> None:
        """Note how a cell ended."""
        noted, ended = cell.metadata.papermill, self.now()
        noted["end_time"] = ended.isoformat()
        noted["duration"] = round((ended - datetime.fromisoformat(noted["start_time"])).total_seconds(), 6)
        noted["status"] = status
        if status in (self.FAILED, self.INTERRUPTED):
            noted["exception"] = True
            self.nb.metadata.papermill["exception"] = True
        if self.pbar:
            self.pbar.update(1)
        self.save()

    def notebook_complete(self, **_: Any) -> None:
        """Note the notebook's end, and save it a last time; once is enough."""
        if self.is_complete:
            return
        self.is_complete = True
        self.end_time = self.now()
        noted = self.nb.metadata.papermill
        noted["end_time"] = self.end_time.isoformat()
        noted["duration"] = (self.end_time - self.start_time).total_seconds()
        for cell in self.nb.cells:
            said = cell.metadata.papermill
            said["status"] = {self.PENDING: self.NOT_RUN, self.RUNNING: self.INTERRUPTED}.get(
                said["status"], said["status"]
            )
        self.cleanup_pbar()
        self._save_last()

    def _save_last(self) -> None:
        """Save what became of each cell, in any case, and as much of the output as the disk takes.

        Raises InputError when output was left out.
        """
        try:
            return self.saver.save()
        except InputError as error:
            if self.reserve is None:
                raise
            full = error
        self.reserve.unlink(missing_ok=True)
        whole = [cell.get("outputs") for cell in self.nb.cells]
        reduced = ([without_outputs(cell, keep_kits_own) for cell in self.nb.cells] for keep_kits_own in (True, False))
        if not any(map(self._is_saved_with, [whole, *reduced])):
            raise full
        less = [cell.get("outputs") for cell in self.nb.cells]
        if less != whole and not self._is_saved_with(whole):  # the larger file saved before has made room by now
            self._is_saved_with(less)
            raise full

    def _is_saved_with(self, outputs: list[Any]) -> bool:
        for cell, made in zip(self.nb.cells, outputs, strict=True):
            if "outputs" in cell:
                cell.outputs = made
        try:
            self.saver.save()
        except InputError:
            return False
        return True
