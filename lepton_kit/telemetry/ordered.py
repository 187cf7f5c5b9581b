"""The part of a large file of JSON lines in which a window lies, where its lines are in order of time."""

from __future__ import annotations

import json
from bisect import bisect_left, bisect_right
from pathlib import Path
from typing import BinaryIO

import pandas as pd

from lepton_kit.telemetry.databases import Window, flat, utc

LARGE = 256 * 1024 * 1024
"""Bytes from which on a file is not read as a whole."""

PROBES = 128
"""Places of a file whose time is looked at; a window is read with two such steps around it."""

PIECE = 1024 * 1024


def part_of(path: Path, timestamp: str, timezone: str, window: Window, scratch: Path) -> Path:
    """Return a copy (in `scratch`) of the part of a file of JSON lines that holds a window.

    The file itself where it is small, or not in order of the time in its field `timestamp`.
    """
    size = path.stat().st_size if path.is_file() else 0
    if size < LARGE or path.suffix in (".gz", ".zst"):
        return path
    with path.open("rb") as file:
        places = [size * number // PROBES for number in range(PROBES)]
        times = [_time_at(file, place, timestamp, timezone) for place in places]
        known = [time for time in times if time is not None]
        if len(known) < PROBES or known != sorted(known):
            return path
        first, last = bisect_left(known, window.start) - 2, bisect_right(known, window.end) + 2
        start = _line_from(file, places[first]) if first > 0 else 0
        end = _line_from(file, places[last]) if last < PROBES else size
        part = scratch / f"part-{path.name}"
        with part.open("wb") as copy:
            file.seek(start)
            _copy(file, copy, end - start)
    return part


def _line_from(file: BinaryIO, place: int) -> int:
    file.seek(place)
    file.readline()
    return file.tell()


def _time_at(file: BinaryIO, place: int, timestamp: str, timezone: str) -> float | None:
    """Return the time of the first whole line from a place on; None where it has none."""
    file.seek(_line_from(file, place) if place else 0)
    try:
        found = flat(json.loads(file.readline()))[timestamp]
    except (ValueError, KeyError, AttributeError, RecursionError):
        return None
    (moment,) = utc(pd.Series([found]), timezone)
    return None if pd.isna(moment) else float(moment.timestamp())


def _copy(file: BinaryIO, copy: BinaryIO, length: int) -> None:
    while length > 0 and (piece := file.read(min(length, PIECE))):
        copy.write(piece)
        length -= len(piece)
