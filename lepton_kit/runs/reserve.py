"""Space that is kept free for the last words of a run: on a full disk they could not be written any more."""

from __future__ import annotations

import os
from pathlib import Path

from lepton_kit.runs.manifest import Manifest

LAST_WORDS = 128 * 1024  # bytes of a manifest, or of a notebook beyond its source; a few pages of the ledger among them


def reserves_of(folder: Path) -> tuple[Path, Path]:
    """Return the files of nothing that give way to a run's notebook, and to its manifest with the ledger's row.

    A run that was killed leaves them there, for its repair.
    """
    return folder / ".reserve-notebook", folder / ".reserve-manifest"


def take_reserves(folder: Path, manifest: Manifest, notebook: Path) -> None:
    """Keep what the last words of a run may take.

    Raises OSError when the disk has not even that: the run would only be lost.
    """
    sizes = notebook.stat().st_size, len(manifest.model_dump_json())
    for reserve, size in zip(reserves_of(folder), sizes, strict=True):
        with reserve.open("wb") as file:
            if hasattr(os, "posix_fallocate"):
                os.posix_fallocate(file.fileno(), 0, LAST_WORDS + 2 * size)
            else:
                file.write(bytes(LAST_WORDS + 2 * size))
