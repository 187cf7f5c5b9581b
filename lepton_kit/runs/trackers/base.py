"""What a tracker is given of a run that has ended, and the register of trackers."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.files import append_line
from lepton_kit.runs.manifest import FILE, NOTEBOOK, Manifest, is_table
from lepton_kit.secrets import without_password
from lepton_kit.tls import trusted

STEPS = ("step", "epoch")
"""A table with one of these columns holds curves: its other numbers step by step, one curve for each text beside."""


@dataclass(frozen=True)
class Run:
    """A run that has ended, as trackers see it."""

    manifest: Manifest
    folder: Path

    @cached_property
    def numbers(self) -> dict[str, float]:
        """Results that are one finite number, by name; a truth value is 0 or 1."""
        found = {name: each.value for name, each in self.manifest.results.items()}
        return {name: float(one) for name, one in found.items() if isinstance(one, int | float) and math.isfinite(one)}

    @cached_property
    def words(self) -> dict[str, str]:
        """Results that are one text, by name."""
        return {name: one.value for name, one in self.manifest.results.items() if isinstance(one.value, str)}

    @cached_property
    def curves(self) -> dict[str, pd.Series]:
        """Numbers by step, of each recorded table and CSV artifact with a column `step` or `epoch`."""
        return {name: curve for table, frame in self._tables() for name, curve in _curves(table, frame)}

    @property
    def files(self) -> dict[str, Path]:
        """Its notebook, its manifest and its artifacts, by their path in the run's folder."""
        names = [NOTEBOOK, FILE, *(f"artifacts/{one.file}" for one in self.manifest.artifacts)]
        return {name: self.folder / name for name in names if (self.folder / name).is_file()}

    def _tables(self) -> Iterator[tuple[str, pd.DataFrame]]:
        for name, each in self.manifest.results.items():
            if is_table(each.value):
                yield name, pd.DataFrame(each.value["rows"], columns=each.value["columns"])
        for one in self.manifest.artifacts:
            if one.file.endswith(".csv"):
                try:
                    frame = pd.read_csv(self.folder / "artifacts" / one.file)
                except (OSError, ValueError):  # whatever a notebook calls CSV
                    continue
                yield one.file.removesuffix(".csv"), frame


def _curves(table: str, frame: pd.DataFrame) -> Iterator[tuple[str, pd.Series]]:
    step = next((name for name in STEPS if name in frame and pd.api.types.is_integer_dtype(frame[name])), None)
    if step is None:
        return
    texts = frame.select_dtypes(["object", "string"])
    beside = [str(name) for name in texts if texts[name].map(lambda one: isinstance(one, str) or one != one).all()]
    for which, part in frame.groupby(beside, sort=False, dropna=False) if beside else [((), frame)]:
        for column in frame.select_dtypes("number").columns.drop(step):
            curve = part.set_index(step)[column].astype(float)
            curve = curve[np.isfinite(curve)]
            if curve.index.is_unique and len(curve):
                yield "/".join(map(str, (table, *which, column))), curve


Tracker = Callable[[Run, str], str]
TRACKERS: dict[str, Tracker] = {}


def tracker(name: str) -> Callable[[Tracker], Tracker]:
    """Register a function that writes a run to an address, or into a folder, and returns where it is there.

    A run that is there already stays as it is. The function raises InputError where it could not write.
    """

    def register(write: Tracker) -> Tracker:
        TRACKERS[name] = write
        return write

    return register


def send(name: str, target: str, path: str, events: Sequence[Mapping[str, Any]]) -> str:
    """Post events as JSON to a path under an address, or append them to a file of JSON lines; return where they are.

    Raises InputError where the address does not take them.
    """
    if "://" not in target:
        Path(target).parent.mkdir(parents=True, exist_ok=True)
        for one in events:
            append_line(Path(target), one)
        return target
    shown = without_password(target)
    try:
        for one in events:
            httpx.post(f"{target.rstrip('/')}/{path}", json=one, timeout=10, verify=trusted()).raise_for_status()
    except (httpx.HTTPError, httpx.InvalidURL) as error:
        raise InputError(f"tracker {name!r} = {shown!r}: {without_password(str(error))}") from error
    return shown


def folder_in(target: str, name: str) -> Path:
    """Return the folder that a tracker writes into; raises InputError where it is given an address."""
    if "://" in target:
        raise InputError(f"tracker {name!r} = {without_password(target)!r}: must be a folder")
    return Path(target)
