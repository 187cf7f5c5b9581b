"""Samples from a Prometheus server, by its HTTP API (https://prometheus.io/docs/prometheus/latest/querying/api/)."""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from itertools import pairwise
from pathlib import Path
from typing import Any

import httpx
import numpy as np
import pandas as pd

from lepton_kit.errors import InputError
from lepton_kit.telemetry.selectors import Source, labels_text, parse_selector
from lepton_kit.telemetry.store import Store
from lepton_kit.tls import client_of

_Series = tuple[tuple[str, str], np.ndarray]
"""Metric and labels (JSON text), and samples (n, 2): times in Unix milliseconds, and values."""

CHUNK, CHUNKS = 86_400.0, 32
"""Seconds asked for at once, so that no answer is huge; longer where there would be more steps than allowed."""


class Prometheus:
    """A Prometheus server; a `Source` of samples. A path of the address before `/api` is kept.

    Raises InputError when the address is none.
    """

    def __init__(self, address: str, timeout: float = 30.0) -> None:
        self._client, self.address = client_of("Prometheus", address, timeout)
        self.warnings: dict[str, tuple[str, ...]] = {}
        """What the server warned of in its last answer to each selector; and what of the answer is not read."""

    def query(self, selector: str, start: float, end: float) -> pd.DataFrame:
        """Return the raw samples of the selected series, as every `Source` does.

        Raises InputError when the selector is not one, or the server does not answer, or refuses; the message says what
        it said.
        """
        chosen = str(parse_selector(selector))
        found: dict[tuple[str, str], list[np.ndarray]] = defaultdict(list)
        warnings: list[str] = []
        length = max(CHUNK, (end - start) / CHUNKS)
        for begin, until in pairwise([start, *np.arange(start + length, end, length).tolist(), end]):
            after = 1000 * begin - 0.5 if begin == start else 1000 * begin + 0.5  # the earlier answer held that sample
            for name, samples in self._samples(chosen, begin, until, warnings):
                found[name].append(samples[(samples[:, 0] > after) & (samples[:, 0] <= 1000 * until + 0.5)])
        self.warnings.pop(chosen, None)
        if warnings:
            self.warnings[chosen] = tuple(dict.fromkeys(warnings))
        return _frame({name: np.concatenate(found[name]) for name in sorted(found)})

    def _samples(self, selector: str, start: float, end: float, warnings: list[str]) -> list[_Series]:
        """Return what an instant query of a range selector gives: the samples as they were scraped.

        What the server warns of, and series that are native histograms and have no single values, are added to
        `warnings`.

        The range is asked for a millisecond longer: Prometheus 3 leaves its beginning out, Prometheus 2 does not.
        """
        window = max(round((end - start) * 1000), 0) + 1
        asked = {"query": f"{selector}[{window}ms]", "time": f"{end:.3f}"}
        answer = self._ask("/api/v1/query", asked)
        try:
            found = answer["data"]
            if found["resultType"] != "matrix":
                raise InputError(f"Prometheus {self.address}: answered a {found['resultType']!r}, not samples")
            warnings += map(str, answer.get("warnings", []))
            if native := sum("histograms" in one for one in found["result"]):
                warnings.append(f"{native} series hold native histograms, which are not read")
            return [_series(one) for one in found["result"] if "values" in one]
        except (KeyError, TypeError, ValueError, AttributeError) as error:
            said = f"{type(error).__name__}: {error}"
            raise InputError(f"Prometheus {self.address}: its answer to {selector} is not readable ({said})") from error

    def _ask(self, path: str, asked: dict[str, str]) -> dict[str, Any]:
        try:
            answer = self._client.post(path, data=asked)
        except httpx.HTTPError as error:
            raise InputError(f"Prometheus {self.address}: does not answer ({error or type(error).__name__})") from error
        try:
            content: dict[str, Any] = answer.json()
            if content["status"] == "success":
                return content
            said = f"{content.get('errorType')}: {content.get('error')}"
        except (ValueError, KeyError, TypeError, AttributeError):
            said = repr(answer.text[:200])
        raise InputError(f"Prometheus {self.address}: answered {answer.status_code} to {asked['query']}: {said}")


def _series(one: dict[str, Any]) -> _Series:
    labels = dict(one["metric"])
    metric = labels.pop("__name__")
    return (metric, labels_text(labels)), np.array([(round(at * 1000), float(value)) for at, value in one["values"]])


def _frame(series: Mapping[tuple[str, str], np.ndarray]) -> pd.DataFrame:
    """Return series as one table: `time` (UTC, milliseconds), `metric`, `labels` and `value`."""
    samples = np.concatenate([np.empty((0, 2)), *series.values()])
    names = np.array([*series, ("", "")], dtype=object).repeat([*map(len, series.values()), 0], axis=0)
    columns = {
        "time": pd.Series(samples[:, 0].astype(np.int64)).astype("datetime64[ms, UTC]"),
        "metric": pd.Series(names[:, 0], dtype="str"),
        "labels": pd.Series(names[:, 1], dtype="str"),
        "value": samples[:, 1],
    }
    return pd.DataFrame(columns)


def open_source(where: str | Path, root: Path = Path(), timeout: float = 30.0) -> Source:
    """Return the source at a Prometheus server's address (http, https), or in the folder of an embedded store.

    A folder is relative to `root`; an answer of a server may take `timeout` seconds.

    Raises InputError when it is neither.
    """
    if isinstance(where, str) and where.startswith(("http://", "https://")):
        return Prometheus(where, timeout)
    folder = root / where
    if not folder.is_dir():
        raise InputError(
            f"source of telemetry {str(where)!r}: neither a folder of a telemetry store, which `lepton watch` writes, "
            "nor the address of a Prometheus server (http://…)"
        )
    return Store(folder)


def warnings_of(source: Source | None) -> Mapping[str, tuple[str, ...]]:
    """Return what a server warned of in its last answers, by selector; nothing of a source that is none."""
    return dict(source.warnings) if isinstance(source, Prometheus) else {}
