"""Finds the project: the folder that holds `lepton.toml`, with its notebooks, runs and models."""

from __future__ import annotations

import os
import tomllib
from pathlib import Path
from typing import Any

from lepton_kit.errors import InputError

SETTINGS = "lepton.toml"


def find_project(start: Path | None = None) -> Path:
    """Return the project's root: `LEPTON_PROJECT`, or the nearest folder upwards that holds `lepton.toml`.

    Raises InputError when `LEPTON_PROJECT`, or no folder upwards of `start` (default: the working directory), holds
    `lepton.toml`.
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


def setting(project: Path, name: str) -> Any:
    """Return one value of lepton.toml, unchecked; None where it is not set.

    A run needs one or two of them, and not the time that it takes to check them all. Raises InputError when the file is
    not TOML.
    """
    path = project / SETTINGS
    text = path.read_text(encoding="utf-8", errors="replace") if path.is_file() else ""
    if name not in text:
        return None
    try:
        return tomllib.loads(text).get(name)
    except tomllib.TOMLDecodeError as error:
        raise InputError(f"{path}: not TOML: {error}") from error
