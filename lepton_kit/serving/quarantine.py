"""The rows that a service refused to forecast from: kept aside for a person to look at, never to learn from."""

from __future__ import annotations

import math
from collections.abc import Sequence
from pathlib import Path

import numpy as np

from lepton_kit.serving.lines import Lines, time_text

FILE = "quarantine.jsonl"
MOST_BYTES = 8 * 1024 * 1024


class Quarantine:
    """The file as one worker writes it: `time`, `request_id`, `row`, `version`, and `values` as they were received.

    Parameters
    ----------
    folder
        The folder of the service's state; the file there takes at most twice `MOST_BYTES`, the oldest rows go first.
    most_bytes
        How large it may become before it is put aside.
    """

    def __init__(self, folder: Path, most_bytes: int = MOST_BYTES) -> None:
        self._path, self._most_bytes = folder / FILE, most_bytes
        self._lines: Lines | None = None  # made with the first row, which most services never have

    def keep(
        self, request_id: str, version: str, columns: Sequence[str], received: np.ndarray, which: np.ndarray
    ) -> None:
        """Keep some rows of a request.

        Parameters
        ----------
        request_id, version
            Of the request.
        columns, received
            The features, and the values as they came (rows, columns).
        which
            Tells for each row whether it is kept.
        """
        if self._lines is None:
            self._lines = Lines(self._path, self._most_bytes, look_every=100)
        for number in np.flatnonzero(which).tolist():
            values = {
                n: None if isinstance(v, float) and not math.isfinite(v) else v
                for n, v in zip(columns, received[number].tolist(), strict=True)
            }
            head = {"time": time_text(), "request_id": request_id, "row": number, "version": version}
            self._lines.append({**head, "values": values})
