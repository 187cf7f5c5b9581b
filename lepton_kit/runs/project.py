"""Finds the project: the folder that holds `lepton.toml`, with its notebooks, runs and models."""

from __future__ import annotations

import os
from pathlib import Path

from lepton_kit.errors import InputError

SETTINGS = "lepton.toml"


def find_project(start: Path | None = None) -> Path:
    """Return the project's root: `LEPTON_PROJECT`, or the nearest folder upwards that holds `lepton.toml`.

    Raises
    ------
    InputError
        When `LEPTON_PROJECT`, or no folder upwards of `start` (default: the working directory), holds `lepton.toml`.
    """
    if start is None and (given := os.environ.get("LEPTON_PROJECT")):
        if not (Path(given) / SETTINGS).is_file():
            raise InputError(f"LEPTON_PROJECT = {given!r}: holds no {SETTINGS}")
        return Path(given).resolve()
    start = (start or Path.cwd()).resolve()
    for folder in (start, *start.parents):
        if (folder / SETTINGS).is_file():
            return folder
    raise InputError(f"no {SETTINGS} in {start} or above it: run this inside a project, or set LEPTON_PROJECT")
