"""Writes by how many KiB a process grows that loads a model and answers a batch, for each folder of a model.

    python -m lepton_kit.models.footprint ROWS.parquet FOLDER…

Each model is loaded in a child of its own, so that none uses what another left. Start it with OMP_NUM_THREADS=1: a
child that forks from threads of OpenMP waits for them forever.
"""

from __future__ import annotations

import contextlib
import ctypes
import json
import os
import sys
from collections.abc import Sequence
from pathlib import Path

import pandas as pd

STATUS = Path("/proc/self/status")


def growth(rows: pd.DataFrame, folder: Path) -> float:
    """Return the growth of a child process in KiB; NaN where the system does not tell the memory of a process."""
    from lepton_kit.models.flavors import load_model

    if not STATUS.is_file():
        return float("nan")
    readable, writable = os.pipe()
    if child := os.fork():
        os.close(writable)
        with os.fdopen(readable) as told:
            answer = told.read()
        os.waitpid(child, 0)
        return float(answer)
    before = _resident()
    load_model(folder).predict(rows)
    os.write(writable, str(_resident() - before).encode())
    os._exit(0)


def _resident() -> float:
    """Return the memory of this process that no file holds, in KiB."""
    return float(STATUS.read_text("utf-8").partition("RssAnon:")[2].split()[0])


def main(given: Sequence[str]) -> None:
    """Write a JSON list with a number for each folder."""
    from lepton_kit.models.flavors import load_model

    rows, folders = pd.read_parquet(given[0]), [Path(folder) for folder in given[1:]]
    for folder in folders:  # what a library sets up at its first use is no model's
        load_model(folder).predict(rows)
    with contextlib.suppress(OSError, AttributeError):
        ctypes.CDLL(None).malloc_trim(0)  # nor is what was freed
    sys.stdout.write(json.dumps([growth(rows, folder) for folder in folders]))


if __name__ == "__main__":
    main(sys.argv[1:])
