"""Space that is kept free for the last words of a run: on a full disk they could not be written any more."""

from __future__ import annotations

import os
from pathlib import Path

from lepton_kit.runs.manifest import Manifest

LAST_WORDS = 128 * 1024  # bytes of a manifest, or of a notebook beyond its source; a few pages of the ledger among them


class Reserve:
    """A file of nothing, which gives way to what must be written.

    Parameters
    ----------
    path
        Where; a run that was killed leaves it there, for its repair.
    """

    def __init__(self, path: Path) -> None:
        self.path = path

    def take(self, size: int) -> None:
        """Keep so many bytes.

        Raises
        ------
        OSError
            When there is no such space.
        """
        with self.path.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, size)
            else:
                file.write(bytes(size))

    def free(self) -> None:
        """Give the space back."""
        self.path.unlink(missing_ok=True)


def reserves_of(folder: Path) -> tuple[Reserve, Reserve]:
    """Return the reserves of a run: of its notebook, and of its manifest with the ledger's row."""
    return Reserve(folder / ".reserve-notebook"), Reserve(folder / ".reserve-manifest")


def take_reserves(folder: Path, manifest: Manifest, notebook: Path) -> None:
    """Keep what the last words of a run may take.

    Raises
    ------
    OSError
        When the disk has not even that: the run would only be lost.
    """
    for_notebook, for_manifest = reserves_of(folder)
    for_notebook.take(LAST_WORDS + 2 * notebook.stat().st_size)
    for_manifest.take(LAST_WORDS + 2 * len(manifest.model_dump_json()))
