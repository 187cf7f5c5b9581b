"""The requests of a simulated service: while they are answered, all of them so far, and as its log has them."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

import numpy as np
import pandas as pd

from lepton_kit.models.forecasters import FORECAST
from lepton_kit.ops.faults import Fault
from lepton_kit.ops.simulation import EPOCH
from lepton_kit.serving.replay import Item
from lepton_kit.telemetry.recordings import FEATURE

FEEDBACK_AFTER, RATED = 5.0, 0.05
"""Seconds after which an actual is reported, and the share of the answers that get a rating too."""

REFUSAL_SECONDS = 0.001


@dataclass
class Asked:
    """Some requests, in order of time, while they are answered."""

    times: np.ndarray
    ids: list[str]
    features: np.ndarray
    actual: np.ndarray
    as_of: np.ndarray
    is_copy: np.ndarray
    rated: np.ndarray

    def __post_init__(self) -> None:
        count = len(self.times)
        self.status = np.full(count, 200)
        self.wait, self.busy, self.cpu, self.beyond = (np.zeros(count) for _ in range(4))
        self.forecasts = np.full((count, len(FORECAST)), np.nan)
        self.missing = np.isnan(self.features).sum(axis=1)
        self.fixed, self.kept_aside = np.zeros(count, bool), np.zeros(count, bool)

    @property
    def latency(self) -> np.ndarray:
        """The seconds from a request to its answer."""
        return np.where(self.busy > 0, self.wait + self.busy, REFUSAL_SECONDS)


class Requests:
    """All requests so far, by column."""

    def __init__(self, columns: tuple[str, ...]) -> None:
        self._columns = columns
        self._parts: list[dict[str, np.ndarray]] = []
        self._whole: dict[str, np.ndarray] = {}
        self._count = 0

    def __len__(self) -> int:
        return sum(len(part["time"]) for part in self._parts)

    def numbered(self, times: np.ndarray, features: np.ndarray, actual: np.ndarray, is_flood: np.ndarray) -> Asked:
        """Return requests with new ids; those of a flood have others."""
        names = [
            f"{'flood' if flooded else 'replay'}-{number}"
            for number, flooded in enumerate(is_flood.tolist(), self._count)
        ]
        self._count += len(times)
        rated = np.random.default_rng(self._count).random(len(times)) < RATED
        return Asked(times, names, features, actual, times.copy(), np.zeros(len(times), bool), rated)

    def add(self, asked: Asked, version: str) -> None:
        """Keep requests that were answered."""
        latency, answers = asked.latency, dict(zip(FORECAST, asked.forecasts.T, strict=True))
        done = asked.times + latency
        is_told = (asked.status == 200) & np.isfinite(asked.actual) & ~asked.is_copy
        inside = (asked.actual >= answers["lower"]) & (asked.actual <= answers["upper"])
        number = np.arange(len(asked.times)) % 2
        self._parts.append(
            {
                "time": asked.times,
                "id": np.array(asked.ids, dtype=object),
                "version": np.full(len(asked.times), version, dtype=object),
                "status": asked.status,
                "latency": latency,
                "done": done,
                "wait": asked.wait,
                "busy": asked.busy,
                "cpu": asked.cpu,
                "features": asked.features,
                "actual": np.where(asked.status == 200, asked.actual, np.nan),
                "told_at": np.where(is_told, done + FEEDBACK_AFTER, np.nan),
                "rating": np.where(is_told & asked.rated, np.where(inside, 4, 1) + number, np.nan),
                "as_of": asked.as_of,
                "missing": asked.missing,
                "beyond": asked.beyond,
                "fixed": asked.fixed,
                "kept_aside": asked.kept_aside,
                **answers,
            }
        )
        self._whole = {}

    def __getitem__(self, name: str) -> np.ndarray:
        if name not in self._whole:
            self._whole[name] = np.concatenate([part[name] for part in self._parts])
        return self._whole[name]

    def table(self, start: float, end: float) -> pd.DataFrame:
        """Return the requests that came in a window and were answered by its end, with what was reported by then."""
        rows = (self["time"] >= start) & (self["done"] <= end)
        known_at = self["done"] + FEEDBACK_AFTER
        is_known = (known_at <= end)[rows]
        head = {
            "time": EPOCH + pd.to_timedelta(np.round(1e6 * self["time"][rows]), unit="us"),
            "request_id": self["id"][rows],
            "version": self["version"][rows],
            "status": self["status"][rows].astype(float),
            "latency_ms": 1000 * self["latency"][rows],
        }
        features = dict(zip((FEATURE + name for name in self._columns), self["features"][rows].T, strict=True))
        answers = {name: self[name][rows] for name in FORECAST}
        tail = {
            "actual": np.where(is_known, self["actual"][rows], np.nan),
            "rating": np.where(is_known, self["rating"][rows], np.nan),
            "feedback": "",
        }
        table = pd.DataFrame({**head, **features, **answers, **tail})
        return table.assign(time=table["time"].dt.as_unit("us"))


def changed(asked: Asked, fault: Fault, state: dict[str, Any], columns: tuple[str, ...]) -> Asked:
    """Return requests as a fault of the feed leaves them; copies follow their originals."""
    if type(fault).apply is Fault.apply:
        return asked
    rows = [dict(zip(columns, values, strict=True)) for values in asked.features.tolist()]
    is_usual = [name.startswith("replay") for name in asked.ids]
    items = [
        fault.apply(Item(row, as_of, actual), state) if usual else Item(row, as_of, actual)
        for row, as_of, actual, usual in zip(rows, asked.as_of.tolist(), asked.actual.tolist(), is_usual, strict=True)
    ]
    source = np.repeat(np.arange(len(items)), [1 + item.copies for item in items])
    is_copy = np.concatenate([[False], source[1:] == source[:-1]])
    values = [[_number(items[place].row[name]) for name in columns] for place in source.tolist()]
    return Asked(
        times=asked.times[source],
        ids=[asked.ids[place] for place in source.tolist()],
        features=np.array(values),
        actual=np.array([items[place].actual for place in source.tolist()]),
        as_of=np.array([items[place].as_of for place in source.tolist()]),
        is_copy=is_copy,
        rated=asked.rated[source],
    )


def _number(value: float | str | None) -> float:
    return np.nan if value is None else float(value)
